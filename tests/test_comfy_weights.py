"""MUSE's gradients however ComfyUI holds weights, and where its memory is short: our engine over a small ComfyUI
(`fake_comfy`)."""

import pytest
import torch
from comfy_runs import empty, falls, guide, guider, losses, made, plain, run, state
from comfyui_affect.models.errors import UserError

pytestmark = pytest.mark.usefixtures("inside_comfyui")
KINDS = ("BaseModel", "Flux", "QwenImage")


# -- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("held", ["cast", "buffer"])
def test_losses_do_not_depend_on_how_weights_are_held(kind, held):
    assert losses(guide(made(kind, held))[1]) == pytest.approx(losses(guide(made(kind))[1]), rel=1e-3)


@pytest.mark.parametrize("held", ["own", "cast"])
def test_copies_of_cast_weights_live_as_long_as_a_block(held):
    """Autograd would keep every one, 3.4 GB for SD1.5; blocks are therefore computed again where weights are cast."""
    p, again = made(held=held), []
    for block in (p.model.model.diffusion_model.middle_block[0], p.vae.first_stage_model.decoder[1]):
        block.register_forward_pre_hook(
            lambda module, args: again.append("forward" in vars(module)) if torch.is_grad_enabled() else None
        )
    guide(p)
    assert set(again) == {held == "cast"}


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("part", ["diffusion model", "VAE"])
def test_gradients_of_a_reused_buffer_are_refused(monkeypatch, kind, part):
    """Without `own_weights` autograd keeps views of a buffer that other layers have filled since."""
    import contextlib

    import comfy.ops
    from comfyui_affect.models.diffusion.comfy import denoiser, vae

    p = made(kind, "buffer")
    comfy.ops.hold(p.vae.first_stage_model if part == "diffusion model" else p.model.model, "own")
    assert falls(guide(p)[1])
    for module in (denoiser, vae):
        monkeypatch.setattr(module, "own_weights", contextlib.nullcontext)
    with pytest.raises(UserError, match=f"gradients of this {part} are wrong"):
        guide(p)


def test_weights_cast_from_half_precision_are_those_weights():
    p, whole = made(dtype=torch.float16, cast=torch.float32), made(dtype=torch.float16)
    whole.model.model.diffusion_model.float()
    assert losses(guide(p)[1]) == pytest.approx(losses(guide(whole)[1]), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_computes_in_half_precision_is_guided(kind, dtype):
    p = made(kind, dtype=dtype)
    one = guider(p)
    out = run(p, one)
    trace, tokens = one.method.traces.get(out)
    first = [evaluation[0] for evaluation in trace.calls[0].losses]
    assert first[3] < 0.99 * first[0] and tokens.tokens.dtype == torch.float32
    assert first == pytest.approx([loss[0] for loss in guide(made(kind))[1].calls[0].losses], rel=0.02)


def test_older_versions_without_in_training_are_guided_too(monkeypatch):
    """Their rotary embedding has no backward pass, and no switch for one."""
    import comfy.ldm.flux.math
    import comfy.model_management

    usual = losses(guide(made("Flux"))[1])
    monkeypatch.delattr(comfy.model_management, "in_training")
    operators = [comfy.ldm.flux.math.apply_rope, comfy.ldm.flux.math.apply_rope1]
    assert losses(guide(made("Flux"))[1]) == pytest.approx(usual, rel=1e-4)
    assert [comfy.ldm.flux.math.apply_rope, comfy.ldm.flux.math.apply_rope1] == operators


# -- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:2])
def test_where_memory_runs_out_the_run_goes_on_block_by_block(kind):
    p, usual = made(kind), guide(made(kind))[1]
    network, calls = p.model.model.diffusion_model, []
    block = network.middle_block[0] if kind == "BaseModel" else network.blocks[0]
    block.register_forward_pre_hook(lambda module, args: calls.append("forward" in vars(module)))
    passes = []

    def fails_once(module, args):
        passes.append(torch.is_grad_enabled())
        if passes[-1] and passes.count(True) == 3:  # in the second inner step: the first has two more for the check
            calls.clear()
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    network.register_forward_pre_hook(fails_once)
    before = state(p)
    _, trace = guide(p)
    assert losses(trace) == pytest.approx(losses(usual), rel=1e-3)
    assert [note for note in trace.notes if "Memory ran out" in note] == trace.notes != []
    assert state(p) == before and any(calls)


def test_another_error_is_not_taken_for_memory_that_ran_out():
    p = made()

    def fails(module, args):
        if torch.is_grad_enabled():
            raise RuntimeError("the classifier broke")

    p.classifier.register_forward_pre_hook(fails)
    before = state(p)
    with pytest.raises(RuntimeError, match="the classifier broke"):
        guide(p)
    assert state(p) == before


@pytest.mark.parametrize("kind", ["BaseModel", "QwenImage"])
def test_without_gradients_a_decode_that_does_not_fit_is_tiled(kind):
    from comfyui_affect.models.diffusion.comfy import ComfyVAE

    p = made(kind)
    latent, vae = torch.randn(1, 4, 8, 8), ComfyVAE(p.vae)
    whole = vae.decode(latent)
    decode = p.vae.first_stage_model.decode

    def fails(given):
        if given.shape[-1] == 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return decode(given)

    p.vae.first_stage_model.decode = fails
    tiled = vae.decode(latent)
    assert tiled.shape == whole.shape == (1, 3, 64, 64) and (tiled - whole)[..., :16].abs().max() < 1e-5
    with torch.inference_mode(False), torch.enable_grad(), pytest.raises(torch.cuda.OutOfMemoryError):
        vae.decode(torch.zeros(1, 4, 8, 8))


def test_the_vae_s_clamp_passes_gradients_and_its_line_is_read_off():
    from comfyui_affect.models.diffusion.comfy import ComfyVAE

    p = made()
    vae = ComfyVAE(p.vae)
    latent = 3 * torch.randn(1, 4, 8, 8)
    decoded = p.vae.process_output(p.vae.first_stage_model.decode(latent))
    assert torch.allclose(vae.decode(latent), decoded, atol=1e-5) and 0 in decoded and 1 in decoded
    with vae.gradients():
        given = latent.clone().requires_grad_(True)
        vae.decode(given).sum().backward()
    assert (given.grad != 0).all()


def test_networks_load_whole_together_and_with_the_memory_of_the_backward_pass():
    import comfy.model_management as management
    from comfyui_affect.models.diffusion.comfy.memory import patcher

    p = made()
    plain(p)
    guide(p)
    (alone, less), (together, more) = management.loads
    assert len(alone) == 1 and more > 3 * less
    assert [m.model for m in together[:2]] == [p.model.model, p.vae.first_stage_model]
    assert together[2] is patcher(p.classifier)
    management.free_memory = more + 100  # for weights of 100 bytes
    guide(p)
    assert p.model.loaded_size() == 100 and together[2].loaded_size() == together[2].size() > 100
    assert together[2].partially_unload(None, 100) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_block_wise_recomputation_is_on_from_the_start_where_activations_would_not_fit(kind):
    from comfyui_affect.models.diffusion.comfy import ComfyDenoiser

    p = made(kind)
    denoiser = ComfyDenoiser(p.model.model, p.model.model_options, vae=p.vae)
    there = empty(p).new_zeros(1, 4, 8, 8)
    assert not denoiser.short_of_memory(there)
    import comfy.model_management

    on_gpu = type("OnGPU", (), {"device": torch.device("cuda"), "shape": there.shape, "__len__": lambda self: 1})
    on_gpu.unsqueeze = lambda self, dim: there.unsqueeze(dim)
    comfy.model_management.free_memory = 15 * 256e3 + 3 * 256e3 + 1
    assert not denoiser.short_of_memory(on_gpu())
    comfy.model_management.free_memory -= 2
    assert denoiser.short_of_memory(on_gpu())
