"""Inversion, the attention blend and attention maps on ComfyUI's objects, and ComfyUI as a host: our engine over a
small ComfyUI (`fake_comfy`)."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from comfy_runs import falls, guider, made, plain, recorded, state
from comfyui_affect.models import diffusion, host
from comfyui_affect.models.diffusion.inversion import invert
from comfyui_affect.models.diffusion.protocol import INVERTED_NOISE
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier import masks
from comfyui_affect.models.moodifier.blend import BlendConfig, blend
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("inside_comfyui")
KINDS = ("BaseModel", "Flux", "QwenImage")
HEIGHT, WIDTH = 6, 8  # of latents: not square, so that sides cannot be mistaken


def latent_of(p, batch=1):
    """A random latent in the VAE's scale."""
    frames = [1] * (p.model.model.latent_format.latent_dimensions == 3)
    return torch.randn(batch, 4, *frames, HEIGHT, WIDTH)


# -- inversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_inversion_leads_back_to_the_latent(kind):
    p = made(kind)
    before, steps = state(p), 12
    p.negative = p.positive
    latent = plain(p, torch.zeros_like(latent_of(p)), cfg=1.0, steps=steps)
    start, noise = invert(p.model, p.positive, latent, steps, "normal")
    assert noise.shape == start.shape == latent.shape and bool(noise.any()) == (kind != "BaseModel")
    again = plain(p, start, cfg=1.0, steps=steps, noise=noise)
    other = plain(p, torch.zeros_like(latent), cfg=1.0, steps=steps, seed=4)
    assert (again - latent).norm() < 0.1 * (other - latent).norm()
    assert state(p) == before


# -- the attention blend --------------------------------------------------------------------------------------------


def mask_of_the_left():
    mask = torch.zeros(1, 8 * HEIGHT, 8 * WIDTH)
    mask[..., : 4 * WIDTH] = 1
    return mask


def edited(p, latent, mask=None, target=None, steps=3, cfg=2.0, share=0.6, negative=None):
    """The latent edited from the positive to another text."""
    target = target or p.negative
    config = BlendConfig(cfg=cfg, cross_replace=share)
    mask = mask_of_the_left() if mask is None else mask
    given = {"samples": latent, "kept": 1}
    out = blend(p.model, p.positive, target, negative, given, mask, steps, "normal", config, seed=5)
    assert out["kept"] == 1 and out["samples"].shape == latent.shape
    return out["samples"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_blend_keeps_what_is_outside_the_mask_and_changes_what_is_inside(kind):
    p = made(kind)
    latent, before, form = latent_of(p), state(p), p.model.model.latent_format
    kept = form.process_out(form.process_in(latent))
    out = edited(p, latent)
    half = WIDTH // 2
    assert torch.equal(out[..., half:], kept[..., half:])
    assert ((out - kept)[..., :half].abs() > 1e-3).float().mean() > 0.9
    assert state(p) == before
    assert torch.equal(edited(p, latent, 0 * mask_of_the_left()), kept)
    assert (edited(p, latent, target=p.positive) - kept).abs().max() < 1e-4  # equal texts change nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_one_step_of_the_blend_is_the_difference_of_two_predictions(kind, cfg):
    """Without blended maps: z + D(x | target) - D(x | source), each predicted by itself."""
    import comfy.samplers

    p, asked = made(kind), []
    latent, model = latent_of(p), p.model.model
    out = edited(p, latent, torch.ones(1, 8 * HEIGHT, 8 * WIDTH), steps=1, cfg=cfg, share=0.0)
    z = model.process_latent_in(latent)
    sigma = model.model_sampling.sigmas[-1]
    flow = kind != "BaseModel"
    level = sigma.clamp(max=1 - 1e-4) if flow else sigma
    shape = (1, 4, HEIGHT, WIDTH)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5)).view_as(z)
    x = (1 - level) * z + level * noise if flow else z + level * noise

    def predicted(text):
        asked.append(text)
        conds = [{"model_conds": model.extra_conds(cross_attn=text[0][0])}]
        return comfy.samplers.calc_cond_batch(model, [conds], x, level.view(1), {})[0]

    source, target = predicted(p.positive), predicted(p.negative)
    expected = model.process_latent_out(z + source + cfg * (target - source) - source)
    assert torch.allclose(out, expected, atol=2e-3 * float(expected.abs().max()))
    assert not torch.allclose(expected, latent, atol=0.1)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_blended_maps_are_the_source_s_outside_the_mask(kind):
    """Each target token has the map of its source token there, so less of the target's text reaches the image."""
    p = made(kind)
    latent, everywhere = latent_of(p), torch.ones(1, 8 * HEIGHT, 8 * WIDTH)
    target = [[p.positive[0][0] + 0.05 * p.negative[0][0], {}]]  # close enough for its words to be matched
    free, held = (edited(p, latent, everywhere, target, steps=1, cfg=1.0, share=share) for share in (0.0, 1.0))
    assert not torch.allclose(free, held, atol=1e-5)
    # By values alone: the target's text is its keys' too, which the source's maps leave out of the image.
    assert 0 < (held - latent).norm() < (free - latent).norm()


def test_source_and_target_are_rows_of_one_batch():
    p = made()
    seen = recorded(p)
    edited(p, latent_of(p, 2), target=[[torch.randn(1, 11, 16), {}]], steps=2, cfg=2.0)
    assert [shape for shape, _ in seen] == [(6, 11, 16)] * 2  # source, target and what to guide away from, twice


def test_texts_that_are_not_one_plain_text_are_refused():
    p = made()
    latent, text = latent_of(p), p.negative[0][0]
    for options, said in (
        ({"mask": torch.ones(1, 8, 8)}, "a conditioning here has a mask"),
        ({"start_percent": 0.2}, r"has a range of steps \(ConditioningSetTimestepRange\)"),
        ({"control": object()}, "has a ControlNet"),
    ):
        with pytest.raises(UserError, match=said):
            edited(p, latent, target=[[text, options]])
    with pytest.raises(UserError, match="is combined of several"):
        edited(p, latent, target=[*p.positive, *p.negative])
    wide = [[torch.randn(1, 7, 24), {}]]
    with pytest.raises(UserError, match="source's text is 16 wide and the target's 24"):
        edited(p, latent, target=wide)
    p.positive = wide
    with pytest.raises(UserError, match="text is 24 wide and the MODEL reads texts 16 wide"):
        edited(p, latent, target=wide)


def test_models_whose_attention_cannot_be_followed_are_refused():
    p = made()
    transformer = p.model.model_options["transformer_options"]
    transformer["patches_replace"] = {"attn2": {("middle", 0): lambda q, k, v, extra: q}}
    with pytest.raises(UserError, match=r"replaced this MODEL's cross-attention already \(IPAdapter does\)"):
        edited(p, latent_of(p))
    video = made("QwenImage")
    video.model.model.__class__ = type("HunyuanVideo", (type(video.model.model),), {})
    with pytest.raises(UserError, match="cannot follow this HunyuanVideo's attention"):
        edited(video, latent_of(video))


# -- attention maps -------------------------------------------------------------------------------------------------


def test_attention_maps_are_the_mean_over_all_blocks():
    """Against maps that a patch of the network reads off by itself at each block, at the same noise."""
    p = made()
    latent, model = latent_of(p), p.model.model
    groups = [[1, 2], [4], [0, 3, 5, 6]]
    maps = masks.cross_attention_maps(p.model, p.positive, latent, groups, seed=7)
    assert maps.shape == (1, 3, HEIGHT, WIDTH)
    assert torch.allclose(maps.sum(dim=1), torch.ones(1, HEIGHT, WIDTH), atol=1e-5)  # the groups are all of the text
    read = []

    def reader(q, k, v, extra):
        q, k, v = (t.unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        each = weights.mean(dim=1).transpose(1, 2).unflatten(2, extra["activations_shape"][2:])  # [1, T, h, w]
        read.append(F.interpolate(each, (HEIGHT, WIDTH), mode="bilinear"))
        return (weights @ v).transpose(1, 2).flatten(2)

    places = [("input", 0), ("input", 1), ("middle", 0), ("output", 0), ("output", 1)]
    options = {"transformer_options": {"patches_replace": {"attn2": dict.fromkeys(places, reader)}}}
    conds = [{"model_conds": model.extra_conds(cross_attn=p.positive[0][0])}]
    generator = torch.Generator().manual_seed(7)
    import comfy.samplers

    for sigma in masks.LEVELS:
        for _ in range(2):
            x = model.process_latent_in(latent) + sigma * torch.randn(latent.shape, generator=generator)
            comfy.samplers.calc_cond_batch(model, [conds], x, torch.tensor([sigma]), options)
    expected = torch.stack(read).mean(dim=0)
    for column, group in enumerate(groups):
        assert torch.allclose(maps[:, column], expected[:, group].sum(dim=1), atol=1e-5)


def test_maps_of_a_rectified_flow_are_refused():
    p = made("Flux")
    with pytest.raises(UserError, match="reads a MODEL's cross-attention: that of SD1.5, SD2 or SDXL"):
        masks.cross_attention_maps(p.model, p.positive, latent_of(p), [[0]], 0)


# -- the engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler, calls", [("euler", 3), ("dpm_2", 5)])
def test_the_engine_samples_as_comfyui_s_own_node(sampler, calls):
    import comfy.samplers
    import comfy.utils

    p = made()
    here, made_guider = diffusion.engine(p.model), guider(p)
    given = {"samples": torch.zeros(1, 4, 8, 8), "kept": 1}
    out = here.sample(made_guider, given, 3, sampler, "normal", 3, 1.0, add_noise=True)
    trace, _ = made_guider.method.traces.get(out["samples"])
    assert out["kept"] == 1 and falls(trace) and len(trace.calls) == calls
    assert [value for value, *_ in comfy.utils.drawn] == [1, 2, 3]
    expected = comfy.samplers.KSampler(p.model, 3, None, sampler, "normal", 1.0).sigmas
    assert trace.calls[0].sigma == float(expected[0]) and trace.calls[-1].step == len(expected) - 2
    part = here.sample(guider(p), given, 3, "euler", "normal", 2, 0.5, add_noise=True)
    assert part["samples"].shape == (1, 4, 8, 8)


def test_a_latent_brings_the_noise_of_its_inversion():
    p = made("Flux")
    here, latent = diffusion.engine(p.model), torch.randn(1, 4, 8, 8)
    noise = torch.randn(1, 4, 8, 8)
    sample = lambda given: here.sample(guider(p), given, 3, "euler", "normal", 2, 1.0, add_noise=False)
    one, other = (sample({"samples": latent, INVERTED_NOISE: n}) for n in (noise, -noise))
    assert list(one) == ["samples"] and not torch.equal(one["samples"], other["samples"])
    with pytest.raises(UserError, match=r"noise .* is \(2, 4, 8, 8\) and the latent now \(1, 4, 8, 8\)"):
        sample({"samples": latent, INVERTED_NOISE: noise.repeat(2, 1, 1, 1)})
    with pytest.raises(UserError, match="starts from noise alone"):
        sample({"samples": latent})


def test_the_engine_answers_what_nodes_ask():
    import comfy.model_management
    import comfy.samplers

    p, flow = made(), made("Flux")
    here = diffusion.current_engine()
    assert type(here) is type(diffusion.engine(p.model)) and type(here).__name__ == "ComfyEngine"
    assert [here.is_flow(one.model) for one in (p, flow)] == [False, True]
    assert here.sampling_choices() == (["euler", "dpm_2"], ["normal"])
    sigmas = here.sigmas(p.model, "normal", 4)
    assert len(sigmas) == 5 and sigmas[-1] == 0 and bool((sigmas[:-1] > sigmas[1:]).all())
    clip = SimpleNamespace(tokenize=lambda text: text.split(), encode_from_tokens_scheduled=lambda tokens: [tokens, {}])
    assert here.encode_text(clip, "a red house") == [["a", "red", "house"], {}]
    image = torch.rand(1, 64, 48, 4)  # with an alpha channel
    assert torch.equal(here.encode_image(p.vae, image), p.vae.encode(image[..., :3]))
    here.load(p.classifier)
    ((loaded,), _) = comfy.model_management.loads[-1]
    assert loaded.model.network is p.classifier


def test_the_vae_encodes_and_decodes_in_the_protocol_s_layout():
    from comfyui_affect.models.diffusion.comfy import ComfyVAE

    for kind in ("BaseModel", "QwenImage"):
        p, image = made(kind), torch.rand(2, 3, 48, 64)
        vae = ComfyVAE(p.vae)
        latent = vae.encode(image)
        assert vae.factor == 8 and latent.shape == (2, 4, 6, 8)
        assert torch.equal(latent, p.vae.encode(image.movedim(1, -1)).view_as(latent))
        assert vae.decode(latent).shape == (2, 3, 48, 64)


# -- the host -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    """What ComfyUI's server was told while node 12 of a prompt runs."""
    sent = []
    instance = SimpleNamespace(
        client_id="me",
        send_progress_text=lambda text, node: sent.append((text, node)),
        send_sync=lambda event, data, client: sent.append((event, data, client)),
    )
    where = SimpleNamespace(node_id="12", prompt_id="p")
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setitem(sys.modules, "comfy_execution", SimpleNamespace())
    utils = SimpleNamespace(get_executing_context=lambda: where)
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", utils)
    return sent


def test_inside_comfyui_the_host_is_comfyui():
    import comfy.model_management as management
    import comfy.utils
    import folder_paths

    here = host.current()
    assert isinstance(here, host.ComfyHost) and host.current() is here and here.device == "cpu"
    assert [str(d) for d in (here.root, here.input_dir, here.output_dir, here.temp_dir)] == [
        folder_paths.base_path,
        *(getattr(folder_paths, f"get_{kind}_directory")() for kind in ("input", "output", "temp")),
    ]
    bar = here.progress(5)
    bar.update(2)
    bar.update()
    bar.set(1)
    bar.preview(torch.tensor([1.0, 0.0, 0.5])[:, None, None].expand(3, 4, 6))
    bar.close()
    values, (kind, shown, side) = [v for v, *_ in comfy.utils.drawn], comfy.utils.drawn[-1][2]
    assert values == [2, 3, 1, 1] and (kind, side) == ("JPEG", 512)
    assert shown.size == (6, 4) and shown.getpixel((0, 0)) == (255, 0, 128)
    here.check_interrupted()
    management.interrupted = True
    with pytest.raises(management.InterruptProcessingException):
        here.check_interrupted()


def test_the_host_lists_comfyui_s_models(tmp_path, monkeypatch):
    import folder_paths

    for name in ("a.safetensors", "b.txt", "below/c.safetensors"):
        (tmp_path / "ours" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ours" / name).touch()
    here = host.current()
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    assert here.models_dirs("affect") == [tmp_path / "affect"] and here.list_files("affect") == []
    folder_paths.folder_names_and_paths["affect"] = ([str(tmp_path / "ours"), str(tmp_path / "absent")], set())
    assert here.models_dirs("affect") == [tmp_path / "ours", tmp_path / "absent"]
    assert here.list_files("affect") == ["a.safetensors", "below/c.safetensors"]


def test_a_run_tells_comfyui_s_server_what_it_does(server):
    here = host.current()
    here.inner(0, 1, 20, 0.5)
    here.inner(0, 2, 20, 0.4)  # at once: not sent
    assert server == [("step 1: emotion 1/20, loss 0.500", "12")]
    here.note("look\x1b here")
    event, data, client = server[-1]
    assert (event, client) == (host.NOTICE, "me") and (data["node"], data["prompt_id"]) == ("12", "p")
    assert "\x1b" not in data["text"] and data["text"].startswith("look")


def test_settings_of_comfyui_name_machines(tmp_path, monkeypatch):
    import comfy.cli_args
    import folder_paths

    monkeypatch.setenv("AFFECT_MLLM_HOSTS", "env.lan")
    monkeypatch.setattr(folder_paths, "base_path", str(tmp_path))
    settings = tmp_path / "user" / "default" / "comfy.settings.json"
    assert host.current().mllm_hosts() == ["env.lan"]
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({host.HOSTS_SETTING: "a.lan, b.lan:8000"}))
    assert host.current().mllm_hosts() == ["env.lan", "a.lan", "b.lan:8000"]
    comfy.cli_args.args.multi_user = True
    assert host.current().mllm_hosts() == ["env.lan"]
