"""A node pack for the tests: small models of every family from ComfyUI's own classes, with random weights."""

import inspect

import comfy.cldm.cldm
import comfy.conds
import comfy.controlnet
import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.lumina.model
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.supported_models as families
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.wan.vae import WanVAE

WIDTH = 64  # of the text


def randomise(network, seed):
    """Every parameter from the seed: ComfyUI's classes leave them as the memory was."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for name, p in [*network.named_parameters(), *network.named_buffers()]:
            fan = p[0].numel() if p.ndim > 1 else 1
            noise = torch.randn(p.shape, generator=generator) * (fan**-0.5 if p.ndim > 1 else 0.02)
            p.copy_(noise + (1.0 if p.ndim == 1 and name.endswith(("weight", "scale")) else 0.0))
    return network.eval().requires_grad_(False)


def unet(**more):
    return (
        dict(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=64,
            num_res_blocks=[1, 1],
            channel_mult=[1, 2],
            transformer_depth=[1, 1],
            transformer_depth_output=[1, 1, 1, 1],
            transformer_depth_middle=1,
            context_dim=WIDTH,
            use_spatial_transformer=True,
            legacy=False,
            use_temporal_attention=False,
            use_linear_in_transformer=False,
            adm_in_channels=None,
            dtype=torch.float32,
        )
        | more
    )


def known(cls, config):
    """The part of a network's settings that this ComfyUI's class of it takes."""
    return {
        name: value for name, value in config.items() if name == "dtype" or name in inspect.signature(cls).parameters
    }


def lumina(**more):
    return known(
        comfy.ldm.lumina.model.NextDiT,
        dict(
            image_model="lumina2",
            patch_size=2,
            in_channels=16,
            dim=64,
            cap_feat_dim=WIDTH,
            n_layers=2,
            n_refiner_layers=1,
            qk_norm=True,
            n_heads=2,
            n_kv_heads=2,
            axes_dims=[8, 12, 12],
            axes_lens=[300, 512, 512],
            rope_theta=10000.0,
            ffn_dim_multiplier=1.0,
            multiple_of=32,
            dtype=torch.float32,
        )
        | more,
    )


def reading(extra_conds):
    """SD1.5 whose conds are `extra_conds(the usual ones)`."""
    # A class of that name: a function on the object itself would tie a knot that ComfyUI takes for a leak.
    kin = type(
        "BaseModel",
        (comfy.model_base.BaseModel,),
        {"extra_conds": lambda self, **kwargs: extra_conds(comfy.model_base.BaseModel.extra_conds(self, **kwargs))},
    )

    class Family(families.SD15):
        def get_model(self, state_dict, prefix="", device=None):
            model = super().get_model(state_dict, prefix, device)
            model.__class__ = kin
            return model

    return Family


Mute = reading(lambda conds: {})  # no text through cross-attention
Bound = reading(
    lambda conds: {**conds, "attention_mask": comfy.conds.CONDRegular(torch.ones(1, 77, 77))}
)  # a mask of pairs


CONFIGS = {
    "sd15": lambda: families.SD15(unet()),
    "sd15-fp16": lambda: families.SD15(unet(dtype=torch.float16)),
    "sd15-bf16": lambda: families.SD15(unet(dtype=torch.bfloat16)),
    "sd2": lambda: families.SD20(unet(use_linear_in_transformer=True)),
    "sdxl": lambda: families.SDXL(unet(use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential")),
    "sd3": lambda: families.SD3(
        dict(
            in_channels=16,
            out_channels=16,
            patch_size=2,
            depth=2,
            input_size=None,
            adm_in_channels=2048,
            context_embedder_config={
                "target": "torch.nn.Linear",
                "params": {"in_features": WIDTH, "out_features": 128},
            },
            num_patches=36864,
            pos_embed_max_size=192,
            pos_embed_scaling_factor=None,
            dtype=torch.float32,
        )
    ),
    "flux": lambda: families.Flux(
        dict(
            image_model="flux",
            in_channels=16,
            out_channels=16,
            patch_size=2,
            vec_in_dim=768,
            context_in_dim=WIDTH,
            hidden_size=64,
            mlp_ratio=4.0,
            num_heads=2,
            depth=2,
            depth_single_blocks=2,
            axes_dim=[8, 12, 12],
            theta=10000,
            qkv_bias=True,
            guidance_embed=True,
            dtype=torch.float32,
            **({"txt_ids_dims": []} if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__annotations__ else {}),
        )
    ),  # newer ones ask
    "chroma": lambda: families.Chroma(
        dict(
            image_model="chroma",
            dtype=torch.float32,
            **known(
                comfy.ldm.chroma.model.ChromaParams,
                dict(
                    in_channels=64,
                    out_channels=64,
                    patch_size=2,
                    vec_in_dim=768,
                    context_in_dim=WIDTH,
                    hidden_size=64,
                    mlp_ratio=4.0,
                    num_heads=2,
                    depth=2,
                    depth_single_blocks=2,
                    axes_dim=[8, 12, 12],
                    theta=10000,
                    qkv_bias=True,
                    in_dim=64,
                    out_dim=64,
                    hidden_dim=64,
                    n_layers=1,
                    txt_ids_dims=[],
                ),
            ),
        )
    ),
    "lumina2": lambda: families.Lumina2(lumina()),
    "qwen": lambda: families.QwenImage(
        dict(
            image_model="qwen_image",
            in_channels=64,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 12, 12),
            dtype=torch.float32,
        )
    ),
    "hidream": lambda: families.HiDream(
        dict(
            image_model="hidream",
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=32,
            num_attention_heads=2,
            caption_channels=[WIDTH, WIDTH],
            text_emb_dim=2048,
            num_routed_experts=2,
            num_activated_experts=1,
            axes_dims_rope=(8, 12, 12),
            max_resolution=(128, 128),
            llama_layers=[0, 1],
            dtype=torch.float32,
        )
    ),
    "auraflow": lambda: families.AuraFlow(
        dict(cond_seq_dim=WIDTH, n_layers=2, n_double_layers=1, dim=64, n_heads=2, max_seq=1024, dtype=torch.float32)
    ),
    "wan": lambda: families.WAN21_T2V(
        dict(
            image_model="wan2.1",
            model_type="t2v",
            dim=64,
            in_dim=16,
            out_dim=16,
            ffn_dim=128,
            freq_dim=32,
            text_dim=WIDTH,
            num_heads=2,
            num_layers=2,
            patch_size=(1, 2, 2),
            dtype=torch.float32,
        )
    ),
    "mute": lambda: Mute(unet()),
    "bound": lambda: Bound(unet()),
}
if hasattr(families, "Flux2"):
    CONFIGS |= {
        "flux2": lambda: families.Flux2(
            dict(
                image_model="flux2",
                in_channels=128,
                out_channels=128,
                patch_size=1,
                vec_in_dim=None,
                context_in_dim=WIDTH,
                hidden_size=64,
                mlp_ratio=3.0,
                num_heads=2,
                depth=2,
                depth_single_blocks=2,
                axes_dim=[8, 8, 8, 8],
                theta=2000,
                qkv_bias=False,
                guidance_embed=True,
                txt_ids_dims=[3],
                global_modulation=True,
                mlp_silu_act=True,
                ops_bias=False,
                dtype=torch.float32,
            )
        )
    }
if hasattr(families, "ZImage"):
    CONFIGS |= {
        "zimage": lambda: families.ZImage(
            lumina(z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32, dim=256, n_heads=8, n_kv_heads=8)
        )
    }
if hasattr(families, "Krea2"):
    CONFIGS |= {
        "krea2": lambda: families.Krea2(
            dict(
                image_model="krea2",
                features=64,
                tdim=32,
                txtdim=WIDTH // 2,
                heads=2,
                kvheads=1,
                multiplier=2,
                layers=2,
                patch=2,
                channels=16,
                txtlayers=2,
                txtheads=2,
                txtkvheads=1,
                dtype=torch.float32,
            )
        )
    }
POOLED = {"sdxl": 1280, "sd3": 2048, "flux": 768, "hidream": 2048}
CHANNELS = {
    "sd3": 16,
    "flux": 16,
    "chroma": 16,
    "lumina2": 16,
    "qwen": 16,
    "hidream": 16,
    "wan": 16,
    "flux2": 128,
    "zimage": 16,
    "krea2": 16,
}
VIDEO_VAE = {"qwen", "wan", "krea2"}
MASKED = {"lumina2", "zimage", "qwen"}
"""Families whose text comes with an attention mask."""


class LowVram(comfy.model_patcher.ModelPatcher):
    """Loaded by parts, as on a GPU that is too small: half of the weights are cast, and patched by LoRAs, at each
    use."""

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        return super().load(device_to, self.model_size() // 2, force_patch_weights)


class RandomModel:
    CATEGORY, FUNCTION = "tests", "run"
    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "VAE", "LATENT")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "kind": ([*CONFIGS, *(f"{name}-lowvram" for name in CONFIGS)],),
                "seed": ("INT", {"default": 0}),
                "batch": ("INT", {"default": 1}),
                "tokens": ("INT", {"default": 77}),
            }
        }

    def run(self, kind, seed, batch, tokens):
        kind, low = kind.removesuffix("-lowvram"), kind.endswith("-lowvram")
        config = CONFIGS[kind]()
        if config.unet_config["dtype"] != torch.float32:
            config.manual_cast_dtype = torch.float32  # half precision on a CPU, as ComfyUI has it there
        model = config.get_model({}, "", device="cpu")
        randomise(model.diffusion_model, seed)
        patcher = (LowVram if low else comfy.model_patcher.ModelPatcher)(
            model, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        )
        generator = torch.Generator().manual_seed(seed + 1)

        def text():
            given = {"pooled_output": torch.randn(1, POOLED.get(kind, 8), generator=generator)}
            embeds = torch.randn(1, tokens, WIDTH, generator=generator)
            if kind in MASKED:
                # Lumina 2's encoder pads nothing, and an older ComfyUI cannot run it with padding.
                given["attention_mask"] = (torch.arange(tokens) < tokens - 3 * (kind != "lumina2")).long()[None]
            if kind == "hidream":
                given["conditioning_llama3"] = torch.randn(1, 2, 16, WIDTH, generator=generator)
            return [[embeds, given]]

        channels = CHANNELS.get(kind, 4)
        size = (batch, channels, *([1] if kind in VIDEO_VAE else []), 8, 8)
        return patcher, text(), text(), vae(channels, seed, kind in VIDEO_VAE), {"samples": torch.zeros(size)}


def vae(channels, seed, video=False):
    if video:
        network = randomise(
            WanVAE(
                dim=8,
                z_dim=channels,
                dim_mult=[1, 2, 4, 4],
                num_res_blocks=2,
                attn_scales=[],
                temperal_downsample=[False, True, True],
            ),
            seed + 2,
        )
        if "image_channels" in inspect.signature(WanVAE).parameters:
            return comfy.sd.VAE(sd=network.state_dict())
        made = vae(channels, seed)  # an older ComfyUI takes every such file for one of full size
        made.first_stage_model, made.latent_dim = network, 3
        made.downscale_ratio = made.upscale_ratio = (lambda frames: frames, 8, 8)
        made.patcher = comfy.model_patcher.ModelPatcher(
            network, made.device, comfy.model_management.vae_offload_device()
        )
        return made
    shape = dict(
        double_z=True,
        z_channels=channels,
        resolution=64,
        in_channels=3,
        out_ch=3,
        ch=32,
        ch_mult=[1, 1, 1, 2],
        num_res_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
    )
    params = {"ddconfig": shape, "embed_dim": channels}
    state = randomise(AutoencoderKL(**params), seed + 2).state_dict()
    made = comfy.sd.VAE(sd=state, config={"params": params})
    made.latent_channels = channels
    return made


class RandomClassifier:
    """`fails_at`: the call at which it raises; 0: never."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("AFFECT_EMOTION_CLASSIFIER",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {}, "optional": {"fails_at": ("INT", {"default": 0})}})

    def run(self, fails_at=0):
        torch.manual_seed(2)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 8, 8),
            torch.nn.SiLU(),
            torch.nn.AdaptiveAvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 8),
        )
        network[-1].weight.data *= 40
        calls = []

        def count(*_):
            calls.append(0)
            if len(calls) == fails_at:
                raise RuntimeError("the classifier broke")

        network.register_forward_pre_hook(count)
        return (network.eval().requires_grad_(False),)


class RandomControl:
    """A ControlNet for `sd15`: its answer depends on everything it is given, and is written into the skips in place."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "strength": ("FLOAT", {"default": 1.0})}}

    def run(self, conditioning, strength):
        class Control(comfy.controlnet.ControlBase):
            lengths = []

            def get_control(self, x, t, cond, batched, options):
                assert not torch.is_grad_enabled()
                self.lengths.append(cond["c_crossattn"].shape[1])
                assert set(self.lengths) == {77}, "the ControlNet must not see the emotional tokens"
                size = [(64, 1), (64, 1), (64, 2), (128, 2)]
                level = lambda width, scale: (
                    0.1 * strength * x.mean(dim=1, keepdim=True)[..., ::scale, ::scale].repeat(1, width, 1, 1)
                )
                return {"input": [], "middle": [level(128, 2)], "output": [level(*s) for s in size]}

        control = Control()
        return ([[c[0], {**c[1], "control": control, "control_apply_to_uncond": True}] for c in conditioning],)


class RandomControlNet:
    """ComfyUI's own ControlNet for the small SD models, with random weights."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"dtype": (["float32", "float16"],)}}

    def run(self, dtype):
        config = unet(
            dtype=getattr(torch, dtype), operations=comfy.ops.manual_cast, device="cpu", hint_channels=3, num_heads=8
        )
        config = {
            k: v
            for k, v in config.items()
            if k not in ("out_channels", "transformer_depth_output", "use_temporal_attention")
        }
        network = randomise(comfy.cldm.cldm.ControlNet(**config), 5)
        return (
            comfy.controlnet.ControlNet(
                network, load_device=comfy.model_management.get_torch_device(), manual_cast_dtype=torch.float32
            ),
        )


class TensorPatch:
    """A MODEL with a patch as other packs write them: it holds tensors that were made in inference mode, and writes
    into what it gets."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("MODEL",)
    KINDS = (
        "attn2_patch",
        "attn2_output_patch",
        "output_block_patch",
        "double_block",
        "attn2_replace",
        "wrapper",
        "function wrapper",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "where": (cls.KINDS,)}}

    def run(self, model, where):
        model = model.clone()
        scale = torch.full((1,), 1.1)
        assert scale.is_inference()

        def one(x, *_):
            x *= scale
            return x

        if where == "attn2_patch":
            model.set_model_attn2_patch(lambda q, k, v, extra: (one(q), k * scale, v * scale))
        elif where == "attn2_output_patch":
            model.set_model_attn2_output_patch(one)
        elif where == "output_block_patch":
            model.set_model_output_block_patch(lambda h, skip, options: (one(h), one(skip)))
        elif where == "double_block":
            model.set_model_patch(lambda given: {"img": one(given["img"]), "txt": given["txt"]}, "double_block")
        elif where == "attn2_replace":
            for block in [("middle", 0), ("output", 0)]:
                model.set_model_attn2_replace(
                    lambda q, k, v, extra: comfy.ldm.modules.attention.optimized_attention(
                        q * scale, k, v, extra["n_heads"]
                    ),
                    *block,
                )
        elif where == "wrapper":
            model.add_wrapper_with_key(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL,
                "tests",
                lambda executor, *args, **kwargs: executor(*args, **kwargs) * scale,
            )
        else:
            model.set_model_unet_function_wrapper(
                lambda apply, args: apply(args["input"], args["timestep"], **args["c"]) * scale
            )
        return (model,)


class Difference:
    """The largest difference of two latents, where a mask is and where it is not."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("LATENT",), "b": ("LATENT",), "mask": ("MASK",)}}

    def run(self, a, b, mask):
        import json

        apart = (a["samples"].float() - b["samples"].float()).abs().amax(dim=1)
        apart = apart.reshape(len(apart), *apart.shape[-2:])  # a video's one frame is an image
        where = (
            torch.nn.functional.interpolate(mask[:, None], size=apart.shape[-2:], mode="area")[:, 0].expand(
                len(apart), -1, -1
            )
            > 0
        )
        largest = lambda part: float(part.max()) if part.numel() else 0.0
        return {"ui": {"text": [json.dumps({"inside": largest(apart[where]), "outside": largest(apart[~where])})]}}


class SameModel:
    """What a model's weights are now: their bits and the identity of each tensor."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "after": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    @classmethod
    def IS_CHANGED(cls, **kwargs):
        return float("nan")

    def run(self, model, after):
        import hashlib
        import json

        bits, objects = hashlib.sha256(), hashlib.sha256()
        for name, t in [*model.model.named_parameters(), *model.model.named_buffers()]:
            bits.update(t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            objects.update(f"{name} {id(t)} {t.is_inference()}".encode())
        patched = [n for n, m in model.model.named_modules() if "forward" in m.__dict__]
        return {
            "ui": {
                "text": [
                    json.dumps(
                        {
                            "bits": bits.hexdigest(),
                            "objects": objects.hexdigest(),
                            "patched": patched,
                            "wrappers": str(model.wrappers),
                            "options": str(model.model_options),
                        }
                    )
                ]
            }
        }


NODE_CLASS_MAPPINGS = {
    "RandomModel": RandomModel,
    "RandomClassifier": RandomClassifier,
    "RandomControl": RandomControl,
    "SameModel": SameModel,
    "RandomControlNet": RandomControlNet,
    "Difference": Difference,
    "TensorPatch": TensorPatch,
}
