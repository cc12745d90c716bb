"""MUSE on ComfyUI's objects: our engine over a small ComfyUI (`fake_comfy`). The real one: `tests/comfyui`."""

import sys

import fake_comfy
import pytest
import torch
from comfy_runs import empty, falls, guide, guider, losses, made, plain, recorded, run, state
from comfyui_affect.models import diffusion
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.models.errors import UserError
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("inside_comfyui")
KINDS = ("BaseModel", "Flux", "QwenImage")


def halves(latent_size=8):
    """Masks [1, h, w] of the left and of the right half."""
    left = torch.zeros(1, latent_size, latent_size)
    left[..., : latent_size // 2] = 1
    return left, 1 - left


# -- what guidance does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_lowers_the_loss_and_changes_the_picture(kind):
    p = made(kind)
    out, trace = guide(p)
    assert falls(trace)
    assert out.shape == empty(p).shape and (out - plain(p)).abs().max() > 0.01 * out.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_intensity_0_is_comfyui_s_own_sampling_bit_for_bit(kind):
    p = made(kind)
    out, trace = guide(p, emotion=EmotionTarget.of("fear", 0.0))
    assert torch.equal(out, plain(p)) and not losses(trace)


@pytest.mark.parametrize("kind, held", [("BaseModel", "own"), ("BaseModel", "buffer"), ("Flux", "own")])
def test_a_run_leaves_everything_as_it_was(kind, held):
    p = made(kind, held)
    p.model.add_wrapper_with_key("predict_noise", "other", lambda executor, *args: executor(*args))
    before = state(p)
    made_guider = guider(p)
    run(p, made_guider)
    assert state(p) == before
    assert (made_guider._run, made_guider._denoiser, made_guider._given) == (None, None, {})


def test_runs_of_one_guider_know_nothing_of_one_another():
    p = made()
    one = guider(p)
    first, other, again = (run(p, one, seed=seed) for seed in (3, 4, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)
    fresh = guider(p)
    assert torch.equal(run(p, fresh, seed=4), other)
    assert losses(one.method.traces.get(other)[0]) == losses(fresh.method.traces.get(other)[0])


def test_every_image_of_a_batch_has_its_own_emotion_and_tokens():
    import comfy.sample

    p = made()
    emotions = [EmotionTarget.of("fear"), EmotionTarget.of("amusement")]
    noise = comfy.sample.prepare_noise(empty(p, 2), 3)
    both = guider(p, emotions)
    out = run(p, both, empty(p, 2), noise=noise)
    trace, tokens = both.method.traces.get(out)
    assert tokens.tokens.shape == (2, 2, 16) and falls(trace, 0) and falls(trace, 1)
    # Its random first tokens are the batch's first draws, so the first image alone is the same run.
    assert losses(trace)[:4] == pytest.approx(losses(guide(p, noise=noise[:1])[1])[:4], rel=1e-4)


def test_every_model_call_of_a_second_order_sampler_is_guided():
    import comfy.sample
    import comfy.samplers

    p = made()
    one, sampling = guider(p), p.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 2)
    noise = comfy.sample.prepare_noise(empty(p), 3)
    out = one.sample(noise, empty(p), comfy.samplers.sampler_object("dpm_2"), sigmas, seed=3)
    calls = one.method.traces.get(out)[0].calls
    assert [call.step for call in calls] == [0, 1, 1] and all(call.losses for call in calls)
    assert calls[1].sigma == pytest.approx(float((sigmas[0] * sigmas[1]).sqrt()))


def test_what_a_sampler_hands_on_at_a_later_call_counts():
    """As samplers of the CFG++ kind, which put something behind guidance in the middle of a run."""
    import comfy.samplers

    p, seen = made(), []

    def sampler(model, x, sigmas, extra_args, callback, disable):
        x = comfy.samplers.sample_euler(model, x, sigmas[:2], extra_args, callback, disable)
        keep = lambda args: seen.append(1) or args["denoised"]
        options = {**extra_args["model_options"], "sampler_post_cfg_function": [keep]}
        return comfy.samplers.sample_euler(
            model, x, sigmas[1:], {**extra_args, "model_options": options}, callback, disable
        )

    sigmas = comfy.samplers.calculate_sigmas(p.model.get_model_object("model_sampling"), "normal", 2)
    guider(p).sample(torch.randn(1, 4, 8, 8), empty(p), comfy.samplers.KSAMPLER(sampler), sigmas, seed=3)
    assert seen == [1]


# -- conditioning ---------------------------------------------------------------------------------------------------


def test_two_halves_of_one_text_are_the_text():
    """Masks, several conds, and tokens behind each of them."""
    p = made()
    whole = losses(guide(p)[1])
    p.positive = [[p.positive[0][0], {"mask": mask}] for mask in halves()]
    seen = recorded(p)
    assert losses(guide(p)[1]) == pytest.approx(whole, rel=1e-3)
    assert {shape for shape, gradients in seen if gradients} == {(2, 7 + 2, 16)}


def test_texts_of_two_lengths_run_apart_each_with_the_tokens():
    p = made()
    p.positive = [*p.positive, [torch.randn(1, 11, 16), {}]]
    seen = recorded(p)
    assert falls(guide(p)[1])
    assert {shape for shape, gradients in seen if gradients} == {(1, 7 + 2, 16), (1, 11 + 2, 16)}
    assert (1, 7, 16) in {shape for shape, gradients in seen if not gradients}  # the negative text gets none


def test_only_steps_at_which_a_text_counts_are_guided():
    p = made()
    p.positive = [[p.positive[0][0], {"start_percent": 0.0, "end_percent": 0.5}]]
    _, trace = guide(p, steps=6)
    assert [call.step for call in trace.calls] == [0, 1, 2] and falls(trace)


def test_a_latent_mask_keeps_the_source_and_the_classifier_sees_the_composite():
    p = made()
    latent, mask, images = torch.randn(1, 4, 8, 8), halves()[0], []
    p.classifier.register_forward_pre_hook(lambda module, args: images.append(args[0].detach().clone()))
    out, trace = guide(p, latent, denoise_mask=mask)
    assert torch.equal(out[..., 4:], latent[..., 4:]) and falls(trace)
    assert not torch.allclose(out[..., :4], latent[..., :4])
    source = p.vae.process_output(p.vae.first_stage_model.decode(latent))
    assert len(images) > 4  # the decoder sees two cells to each side
    assert all(torch.allclose(image[..., 48:], source[..., 48:], atol=1e-5) for image in images)


@pytest.mark.parametrize("kind", ["BaseModel", "QwenImage"])
def test_a_mask_that_changes_with_the_noise_level_is_followed(kind):
    """As Differential Diffusion's: here nothing is painted above a noise level, and everything below."""
    p = made(kind)
    given = []

    def soft(sigma, mask, extra_options):
        given.append((float(sigma[0]), mask.shape, sorted(extra_options)))
        return mask * float(float(sigma[0]) < float(extra_options["sigmas"][0]))

    p.model.model_options["denoise_mask_function"] = soft
    latent = torch.randn(empty(p).shape)
    _, trace = guide(p, latent, steps=2, denoise_mask=torch.ones(1, 8, 8))
    first, second = ([evaluation[0] for evaluation in call.losses] for call in trace.calls)
    assert first == [first[0]] * 4 and second[3] < second[0]  # of the source itself, which no token changes
    assert {names for *_, names in [(*g[:2], tuple(g[2])) for g in given]} == {("model", "sigmas")}


class Control:
    """As a ControlNet: adds to the UNet's skips, by what it makes of the text."""

    def __init__(self):
        self.seen = []

    def get_control(self, x, t, cond, batched_number, transformer_options):
        text = cond["c_crossattn"]
        self.seen.append((text.shape[1], torch.is_grad_enabled(), text.requires_grad))
        size = x.shape[-1]
        return {"output": [text.mean() * x.new_ones(len(x), 16, s, s) for s in (size, size // 2)]}


def test_a_controlnet_sees_no_tokens_and_takes_no_part_in_gradients():
    p = made()
    without, control = plain(p), Control()
    p.positive, p.negative = ([[text[0][0], {"control": control}]] for text in (p.positive, p.negative))
    assert not torch.allclose(plain(p), without)
    control.seen.clear()
    _, trace = guide(p)
    assert falls(trace)
    assert set(control.seen) == {(7, False, False)}


def context(**conds):
    """The context of one cond whose model_conds are these beside its text."""
    import comfy.conds
    from comfyui_affect.models.diffusion.comfy.conds import CondContext

    conds = {"c_crossattn": comfy.conds.CONDCrossAttn(torch.randn(1, 7, 16)), **conds}
    return CondContext([{"model_conds": conds}])


def test_conds_that_count_the_text_count_the_tokens():
    from comfy.conds import CONDConstant, CONDRegular

    mask, added = torch.tensor([[1, 1, 1, 1, 1, 0, 0]]), torch.randn(3, 2, 16)
    given = context(attention_mask=CONDRegular(mask), num_tokens=CONDConstant(7)).check()
    grown = given.append(added).conds[0]["model_conds"]
    text, tokens = grown["c_crossattn"].cond.split([7, 2], dim=1)
    assert torch.equal(text, given.embeds.expand(3, -1, -1)) and torch.equal(tokens, added)
    assert grown["attention_mask"].cond.tolist() == [[1, 1, 1, 1, 1, 0, 0, 1, 1]] and grown["num_tokens"].cond == 9
    assert given.embeds.shape == (1, 7, 16) and given.conds[0]["model_conds"]["num_tokens"].cond == 7


def test_what_autograd_may_save_of_conds_is_ordinary():
    from comfy.conds import CONDConstant, CONDRegular
    from comfyui_affect.models.diffusion.comfy.conds import ordinary_conds

    (given,) = context(y=CONDRegular(torch.randn(1, 4)), several=CONDConstant([torch.ones(2), 3])).conds
    given = {**given, "mask": torch.ones(1, 8, 8), "strength": 0.5}
    (cond,) = ordinary_conds([given])
    (first, second), conds = cond["model_conds"]["several"].cond, cond["model_conds"]
    saved = [cond["mask"], conds["y"].cond, conds["c_crossattn"].cond, first]
    assert not any(t.is_inference() for t in saved) and (second, cond["strength"]) == (3, 0.5)
    assert torch.equal(conds["y"].cond, given["model_conds"]["y"].cond) and given["mask"].is_inference()


def test_conds_to_which_no_tokens_can_be_appended_are_refused():
    from comfy.conds import CONDRegular
    from comfyui_affect.models.diffusion.comfy.conds import CondContext

    with pytest.raises(UserError, match=r"attention mask of shape \(1, 7, 7\), which does not count its 7 tokens"):
        context(attention_mask=CONDRegular(torch.ones(1, 7, 7))).check()
    with pytest.raises(UserError, match="does not reach it as a sequence of tokens"):
        context(c_crossattn=CONDRegular(torch.ones(1, 16))).check()
    hook = type("Group", (), {"hooks": [object()]})
    parts = [{**context().conds[0], "hooks": hook()}, context().conds[0]]
    with pytest.raises(UserError, match="different hooks"):
        CondContext(parts).check()


# -- what other nodes and the user do -------------------------------------------------------------------------------


def test_gradients_run_through_a_patch_that_holds_tensors_and_writes_in_place():
    """As IPAdapter's attention, whose tensors were made in inference mode, and FreeU, which writes into the skips."""
    p = made()
    held = torch.randn(1, 3, 16)

    def adapter(q, k, v, extra):
        more = held.expand(len(k), -1, -1)
        out = F.scaled_dot_product_attention(q, torch.cat([k, more], 1), torch.cat([v, more], 1))
        return out.mul_(1.5)

    options = p.model.model_options["transformer_options"]
    without = plain(p)
    options["patches_replace"] = {"attn2": {("middle", 0): adapter, ("output", 1): adapter}}
    options["patches"] = {"input_block_patch_after_skip": [lambda h, options: h.mul_(0.5)]}
    before = state(p)
    out, trace = guide(p)
    assert falls(trace) and state(p) == before
    assert not torch.allclose(plain(p), without) and not torch.equal(out, plain(p))


def test_a_unet_without_patches_does_not_pay_for_them(monkeypatch):
    """Watching every write takes time for every operation. The wrapper that our own guider brings is no patch."""
    from comfyui_affect.models.diffusion.comfy import denoiser

    watched = []
    allowed = denoiser.mutation_allowed
    monkeypatch.setattr(denoiser, "mutation_allowed", lambda: watched.append(1) or allowed())
    p = made()
    guide(p)
    assert not watched
    p.model.add_wrapper_with_key("apply_model", "other", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    guide(p)
    assert watched


def test_an_interrupted_run_stops_and_the_next_is_as_ever():
    import comfy.model_management as management

    p = made()
    usual, before, calls = guide(p)[0], state(p), []

    def stop(module, args):
        calls.append(1)
        management.interrupted = len(calls) == 3

    hook = p.classifier.register_forward_pre_hook(stop)
    with pytest.raises(management.InterruptProcessingException):
        guide(p)
    assert len(calls) == 3
    hook.remove()
    assert state(p) == before and torch.equal(guide(p)[0], usual)


# -- what cannot be guided ------------------------------------------------------------------------------------------


def like(base="BaseModel", **parts):
    """A pipeline whose model is of another class, by its name."""
    p = made(base)
    ((name, *_),) = ([parts.pop("name")],)
    p.model.model.__class__ = type(name, (type(p.model.model),), {})
    return p


@pytest.mark.parametrize(
    "base, name, said",
    [
        ("BaseModel", "HunyuanDiT", "is a HunyuanDiT, which reads its text at a fixed length"),
        ("Flux", "Anima", "is a Anima, which computes its attention with an operator that has no backward pass"),
        ("BaseModel", "StableCascade_B", "does not read its text as a sequence of tokens that could be longer"),
        ("Flux", "ChromaRadiance", "draws pixels without a VAE"),
        ("QwenImage", "CogVideoX", "makes video, which emotion classifiers do not read"),
        ("BaseModel", "Unheard", "has not been tried with emotional tokens"),
    ],
)
def test_models_that_cannot_be_guided_are_told_why(base, name, said):
    with pytest.raises(UserError, match=f"(?s){said}.*Connect one of SD1.5 and SD2, .*FLUX.1"):
        guider(like(base, name=name))


def test_what_does_not_belong_together_is_refused():
    p, video = made(), made("QwenImage")
    p.vae, video.vae = video.vae, p.vae
    for one in (p, video):
        with pytest.raises(UserError, match="This VAE is one for video and the MODEL one for images, or the other way"):
            guider(one)
    p.vae = made().vae
    p.vae.latent_channels = 16
    with pytest.raises(UserError, match="latents have 16 channels and the MODEL's 4"):
        guider(p)
    p.vae.first_stage_model = None
    with pytest.raises(UserError, match="This VAE is empty"):
        guider(p)
    p.model = p.vae.patcher
    with pytest.raises(UserError, match="not a diffusion model of ComfyUI"):
        guider(p)


def test_runs_with_nothing_to_do_are_refused():
    p, flow, video = made(), made("Flux"), made("QwenImage")
    with pytest.raises(UserError, match="no steps to sample"):
        guide(p, sigmas=torch.tensor([1.0]))
    with pytest.raises(UserError, match=r"starts from noise alone.*DDIM Inversion"):
        guide(flow, noise=torch.zeros(1, 4, 8, 8))
    with pytest.raises(UserError, match="several frames"):
        guide(video, torch.zeros(1, 4, 3, 8, 8))
    video.positive = [[video.positive[0][0], {"area": (4, 4, 0, 0)}]]
    with pytest.raises(UserError, match="knows no areas for this MODEL"):
        guide(video)


@pytest.mark.parametrize("patch", ["cache", "fp8"])
def test_a_model_without_gradients_is_refused(patch):
    p = made()

    def around(apply_model, args):
        if patch == "fp8" and torch.is_grad_enabled():
            raise RuntimeError('"_scaled_mm" is not differentiable')
        with torch.no_grad():
            return apply_model(args["input"], args["timestep"], **args["c"])

    p.model.model_options["model_function_wrapper"] = around
    with pytest.raises(UserError, match="multiplies in fp8" if patch == "fp8" else "No gradient runs .* other caches"):
        guide(p)


def test_no_other_test_sees_this_comfyui():
    import comfy.model_patcher
    from comfyui_affect.models.diffusion.comfy import ComfyEngine

    assert isinstance(diffusion.engine(made().model), ComfyEngine) and "comfy.model_patcher" in fake_comfy.imported()
    with pytest.raises(AssertionError, match="another ComfyUI"), fake_comfy.installed():
        pass
    assert sys.modules["comfy.model_patcher"] is comfy.model_patcher
