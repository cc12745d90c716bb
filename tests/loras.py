"""LoRA files of every kind and naming, random, on the modules of the checkpoints that `ldm` makes."""

from __future__ import annotations

import torch

Shapes = dict[str, tuple[int, ...]]


class Adapters(dict):
    """A LoRA file under construction; each method adds the parts of one module with a weight of a shape."""

    def __init__(self, seed: int = 0):
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) * 0.3

    def lora(
        self, name: str, shape: tuple[int, ...], rank: int = 4, alpha: float | None = 2.0, form: str = "kohya"
    ) -> None:
        down, up = {
            "kohya": (".lora_down.weight", ".lora_up.weight"),
            "peft": (".lora_A.weight", ".lora_B.weight"),
            "default": (".lora_A.default.weight", ".lora_B.default.weight"),
            "diffusers": ("_lora.down.weight", "_lora.up.weight"),
            "dotted": (".lora.down.weight", ".lora.up.weight"),
            "linear": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        }[form]
        self[name + down], self[name + up] = (
            self.draw(rank, *shape[1:]),
            self.draw(shape[0], rank, *[1] * (len(shape) - 2)),
        )
        self._alpha(name, alpha)

    def tucker(self, name: str, shape: tuple[int, ...], rank: int = 3, alpha: float | None = 2.0) -> None:
        self[f"{name}.lora_down.weight"] = self.draw(rank, shape[1], 1, 1)
        self[f"{name}.lora_mid.weight"] = self.draw(rank, rank, *shape[2:])
        self[f"{name}.lora_up.weight"] = self.draw(shape[0], rank, 1, 1)
        self._alpha(name, alpha)

    def loha(
        self, name: str, shape: tuple[int, ...], rank: int = 3, alpha: float | None = 2.0, tucker: bool = False
    ) -> None:
        inside = torch.Size(shape[1:]).numel()
        for w in ("w1", "w2"):
            if tucker:
                self[f"{name}.hada_{w}_a"], self[f"{name}.hada_{w}_b"] = (
                    self.draw(rank, shape[0]),
                    self.draw(rank, shape[1]),
                )
                self[f"{name}.hada_t{w[1]}"] = self.draw(rank, rank, *shape[2:])
            else:
                self[f"{name}.hada_{w}_a"], self[f"{name}.hada_{w}_b"] = (
                    self.draw(shape[0], rank),
                    self.draw(rank, inside),
                )
        self._alpha(name, alpha)

    def lokr(
        self,
        name: str,
        shape: tuple[int, ...],
        factor: int = 4,
        rank: int = 0,
        alpha: float | None = 2.0,
        tucker: bool = False,
    ) -> None:
        out, into = shape[0] // factor, shape[1] // factor
        if rank and not tucker:
            self[f"{name}.lokr_w1_a"], self[f"{name}.lokr_w1_b"] = self.draw(factor, rank), self.draw(rank, factor)
        else:
            self[f"{name}.lokr_w1"] = self.draw(factor, factor)
        if tucker:
            self[f"{name}.lokr_t2"] = self.draw(rank, rank, *shape[2:])
            self[f"{name}.lokr_w2_a"], self[f"{name}.lokr_w2_b"] = self.draw(rank, out), self.draw(rank, into)
        else:
            self[f"{name}.lokr_w2"] = self.draw(out, into, *shape[2:])
        self._alpha(name, alpha)

    def dora(self, name: str, shape: tuple[int, ...], rows: bool) -> None:
        ones = [1] * (len(shape) - 2)
        self[f"{name}.dora_scale"] = 1 + self.draw(shape[0], 1, *ones) if rows else 1 + self.draw(1, shape[1], *ones)

    def whole(self, name: str, shape: tuple[int, ...], bias: bool = True) -> None:
        self[f"{name}.diff"] = self.draw(*shape)
        if bias:
            self[f"{name}.diff_b"] = self.draw(shape[0])

    def norm(self, name: str, shape: tuple[int, ...]) -> None:
        self[f"{name}.w_norm"], self[f"{name}.b_norm"] = self.draw(*shape), self.draw(*shape)

    def _alpha(self, name: str, alpha: float | None) -> None:
        if alpha is not None:
            self[f"{name}.alpha"] = torch.tensor(alpha)


def every_kind() -> Adapters:
    """Each kind at least once on an SD1.5-shaped checkpoint (`ldm.checkpoint`), in original and diffusers' names."""
    k, attention = Adapters(), "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
    k.lora(attention + "attn1_to_q", (32, 32))
    k.lora(attention + "attn1_to_out_0", (32, 32), alpha=None)
    k.lora("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", (64, 64))
    k.lora("lora_unet_mid_block_attentions_0_proj_in", (128, 128, 1, 1))
    k.lora("lora_unet_up_blocks_1_resnets_0_conv1", (128, 256, 3, 3))  # LoCon
    k.lora("lora_unet_down_blocks_1_downsamplers_0_conv", (64, 64, 3, 3))
    k.lora("lora_unet_up_blocks_1_upsamplers_0_conv", (128, 128, 3, 3))
    k.lora("lora_unet_time_embed_0", (128, 32))
    k.tucker("lora_unet_down_blocks_0_resnets_0_conv1", (32, 32, 3, 3))
    k.loha(attention + "attn2_to_v", (32, 64))
    k.loha("lora_unet_middle_block_0_in_layers_2", (128, 128, 3, 3), tucker=True)
    k.loha("lora_unet_mid_block_resnets_1_conv1", (128, 128, 3, 3))
    k.lokr(attention + "ff_net_0_proj", (256, 32))
    k.lokr(attention + "ff_net_2", (32, 128), rank=2)
    k.lokr("lora_unet_down_blocks_1_resnets_0_conv1", (64, 32, 3, 3))
    k.lora("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k", (128, 128))
    k.dora("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k", (128, 128), rows=True)
    k.lora("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (128, 64))
    k.dora("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (128, 64), rows=False)
    k.loha("lora_unet_down_blocks_2_resnets_0_conv1", (128, 64, 3, 3))
    k.dora("lora_unet_down_blocks_2_resnets_0_conv1", (128, 64, 3, 3), rows=False)
    k.whole("lora_unet_conv_in", (32, 4, 3, 3))
    k.norm(attention + "norm1", (32,))
    k.lora("unet.up_blocks.3.attentions.1.transformer_blocks.0.attn1.processor.to_q", (32, 32), form="diffusers")
    k.lora("diffusion_model.output_blocks.11.1.transformer_blocks.0.attn1.to_k", (32, 32), form="peft")
    k.lora("lora_te_text_model_encoder_layers_0_self_attn_q_proj", (64, 64))
    k.lora("lora_te1_text_model_encoder_layers_1_mlp_fc1", (256, 64))
    k.lora("text_encoder.text_model.encoder.layers.1.self_attn.out_proj", (64, 64), form="linear")
    return k


def of_sdxl() -> Adapters:
    """A kohya file for `ldm.sdxl`: the original block names, every attention, and both text encoders."""
    k = Adapters(1)
    for block in (
        "input_blocks_4_1",
        "input_blocks_5_1",
        "middle_block_1",
        "output_blocks_0_1",
        "output_blocks_1_1",
        "output_blocks_2_1",
    ):
        for depth in (0, 1):
            for attention, width in (("attn1", 128), ("attn2", 2048)):
                name = f"lora_unet_{block}_transformer_blocks_{depth}_{attention}"
                k.lora(f"{name}_to_q", (128, 128)), k.lora(f"{name}_to_k", (128, width))
                k.lora(f"{name}_to_v", (128, width)), k.lora(f"{name}_to_out_0", (128, 128))
    k.lora("lora_unet_label_emb_0_0", (256, 64 + 6 * 256))
    for encoder in ("te1", "te2"):
        for layer in (0, 1):
            name = f"lora_{encoder}_text_model_encoder_layers_{layer}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                k.lora(f"{name}_self_attn_{part}", (64, 64))
            k.lora(f"{name}_mlp_fc1", (256, 64)), k.lora(f"{name}_mlp_fc2", (64, 256))
    return k
