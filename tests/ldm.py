"""Random checkpoints in the original (LDM) layout, small but with every block that SD1.5 (or SDXL) has."""

from __future__ import annotations

import torch


class Keys(dict):
    """A state dict under construction."""

    def __init__(self, seed: int = 0):
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int) -> None:
        self[name] = torch.randn(shape, generator=self._generator) * 0.05

    def linear(self, name: str, wide: int, narrow: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", narrow, wide)
        if bias:
            self.add(f"{name}.bias", narrow)

    def conv(self, name: str, wide: int, narrow: int, size: int = 3) -> None:
        self.add(f"{name}.weight", narrow, wide, size, size)
        self.add(f"{name}.bias", narrow)

    def norm(self, name: str, width: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = torch.ones(width), torch.zeros(width)


def _unet_block(k: Keys, name: str, wide: int, narrow: int, time: int) -> None:
    k.norm(f"{name}.in_layers.0", wide), k.conv(f"{name}.in_layers.2", wide, narrow)
    k.linear(f"{name}.emb_layers.1", time, narrow)
    k.norm(f"{name}.out_layers.0", narrow), k.conv(f"{name}.out_layers.3", narrow, narrow)
    if wide != narrow:
        k.conv(f"{name}.skip_connection", wide, narrow, 1)


def _transformer(k: Keys, name: str, width: int, context: int, depth: int, linear: bool) -> None:
    project = k.linear if linear else lambda *names: k.conv(*names, 1)
    k.norm(f"{name}.norm", width), project(f"{name}.proj_in", width, width)
    for block in (f"{name}.transformer_blocks.{i}" for i in range(depth)):
        for attention, source in (("attn1", width), ("attn2", context)):
            k.linear(f"{block}.{attention}.to_q", width, width, bias=False)
            k.linear(f"{block}.{attention}.to_k", source, width, bias=False)
            k.linear(f"{block}.{attention}.to_v", source, width, bias=False)
            k.linear(f"{block}.{attention}.to_out.0", width, width)
        k.linear(f"{block}.ff.net.0.proj", width, 8 * width), k.linear(f"{block}.ff.net.2", 4 * width, width)
        for i in (1, 2, 3):
            k.norm(f"{block}.norm{i}", width)
    project(f"{name}.proj_out", width, width)


def unet(
    base: int = 32,
    mult: tuple[int, ...] = (1, 2, 4, 4),
    blocks: int = 2,
    context: int = 64,
    depths: tuple[int, ...] = (1, 1, 1, 0),
    pooled: int = 0,
) -> Keys:
    """An SD1.5-shaped UNet: attention on every level but the last. `depths` says how many transformer blocks each
    level has; with a `pooled` text of this width (and six sizes) beside the time it is SDXL-shaped."""
    k, time, linear = Keys(), 4 * base, bool(pooled)
    k.linear("time_embed.0", base, time), k.linear("time_embed.2", time, time)
    if pooled:
        k.linear("label_emb.0.0", pooled + 6 * 256, time), k.linear("label_emb.0.2", time, time)
    k.conv("input_blocks.0.0", 4, base)
    skips, width, n = [base], base, 1
    for level, m in enumerate(mult):
        for _ in range(blocks):
            _unet_block(k, f"input_blocks.{n}.0", width, m * base, time)
            width = m * base
            if depths[level]:
                _transformer(k, f"input_blocks.{n}.1", width, context, depths[level], linear)
            skips.append(width)
            n += 1
        if level < len(mult) - 1:
            k.conv(f"input_blocks.{n}.0.op", width, width)
            skips.append(width)
            n += 1
    _unet_block(k, "middle_block.0", width, width, time)
    _transformer(k, "middle_block.1", width, context, max(1, depths[-1]), linear)
    _unet_block(k, "middle_block.2", width, width, time)
    n = 0
    for level, m in reversed(list(enumerate(mult))):
        for i in range(blocks + 1):
            _unet_block(k, f"output_blocks.{n}.0", width + skips.pop(), m * base, time)
            width, place = m * base, 1
            if depths[level]:
                _transformer(k, f"output_blocks.{n}.1", width, context, depths[level], linear)
                place = 2
            if level and i == blocks:
                k.conv(f"output_blocks.{n}.{place}.conv", width, width)
            n += 1
    k.norm("out.0", base), k.conv("out.2", base, 4)
    return k


def _vae_block(k: Keys, name: str, wide: int, narrow: int) -> None:
    k.norm(f"{name}.norm1", wide), k.conv(f"{name}.conv1", wide, narrow)
    k.norm(f"{name}.norm2", narrow), k.conv(f"{name}.conv2", narrow, narrow)
    if wide != narrow:
        k.conv(f"{name}.nin_shortcut", wide, narrow, 1)


def _vae_middle(k: Keys, name: str, width: int) -> None:
    _vae_block(k, f"{name}.mid.block_1", width, width), _vae_block(k, f"{name}.mid.block_2", width, width)
    k.norm(f"{name}.mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        k.conv(f"{name}.mid.attn_1.{part}", width, width, 1)


def vae(widths: tuple[int, ...] = (32, 64, 64, 64), blocks: int = 1) -> Keys:
    """A KL autoencoder of factor 8."""
    k, last = Keys(1), len(widths) - 1
    k.conv("encoder.conv_in", 3, widths[0])
    width = widths[0]
    for level, w in enumerate(widths):
        for i in range(blocks):
            _vae_block(k, f"encoder.down.{level}.block.{i}", width, w)
            width = w
        if level < last:
            k.conv(f"encoder.down.{level}.downsample.conv", w, w)
    _vae_middle(k, "encoder", width)
    k.norm("encoder.norm_out", width), k.conv("encoder.conv_out", width, 8)
    k.conv("quant_conv", 8, 8, 1), k.conv("post_quant_conv", 4, 4, 1)
    k.conv("decoder.conv_in", 4, width)
    _vae_middle(k, "decoder", width)
    for level, w in reversed(list(enumerate(widths))):
        for i in range(blocks + 1):
            _vae_block(k, f"decoder.up.{level}.block.{i}", width, w)
            width = w
        if level:
            k.conv(f"decoder.up.{level}.upsample.conv", w, w)
    k.norm("decoder.norm_out", width), k.conv("decoder.conv_out", width, 3)
    return k


def clip_l(width: int = 64, layers: int = 2, vocabulary: int = 49408) -> Keys:
    """A CLIP text tower in transformers' layout (keys after `text_model.`)."""
    k = Keys(2)
    k.add("embeddings.token_embedding.weight", vocabulary, width)
    k.add("embeddings.position_embedding.weight", 77, width)
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            k.linear(f"{layer}.self_attn.{part}", width, width)
        k.linear(f"{layer}.mlp.fc1", width, 4 * width), k.linear(f"{layer}.mlp.fc2", 4 * width, width)
        k.norm(f"{layer}.layer_norm1", width), k.norm(f"{layer}.layer_norm2", width)
    k.norm("final_layer_norm", width)
    return k


def open_clip_text(width: int = 64, layers: int = 2, vocabulary: int = 49408) -> Keys:
    """A text tower in open_clip's layout."""
    k = Keys(3)
    k.add("token_embedding.weight", vocabulary, width)
    k.add("positional_embedding", 77, width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        k.add(f"{block}.attn.in_proj_weight", 3 * width, width), k.add(f"{block}.attn.in_proj_bias", 3 * width)
        k.linear(f"{block}.attn.out_proj", width, width)
        k.linear(f"{block}.mlp.c_fc", width, 4 * width), k.linear(f"{block}.mlp.c_proj", 4 * width, width)
        k.norm(f"{block}.ln_1", width), k.norm(f"{block}.ln_2", width)
    k.norm("ln_final", width)
    k.add("text_projection", width, width)
    return k


def checkpoint() -> dict[str, torch.Tensor]:
    """A whole SD1.5-shaped checkpoint."""
    return _joined(
        {
            "model.diffusion_model.": unet(),
            "first_stage_model.": vae(),
            "cond_stage_model.transformer.text_model.": clip_l(),
        }
    )


def xl_unet() -> Keys:
    return unet(64, (1, 2), 2, context=2048, depths=(0, 2), pooled=64)


def sdxl() -> dict[str, torch.Tensor]:
    """A whole SDXL-shaped checkpoint: two levels, the first without attention, two text towers, a pooled text. The
    towers are 128 wide together and the UNet reads 2048, by which diffusers knows SDXL: repeat what they give 16
    times."""
    return _joined(
        {
            "model.diffusion_model.": xl_unet(),
            "first_stage_model.": vae(),
            "conditioner.embedders.0.transformer.text_model.": clip_l(),
            "conditioner.embedders.1.model.": open_clip_text(),
        }
    )


def _joined(parts: dict[str, Keys]) -> dict[str, torch.Tensor]:
    return {prefix + k: v for prefix, state in parts.items() for k, v in state.items()}
