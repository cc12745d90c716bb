"""MUSE: the loss against values worked by hand, the gate, where gradients go, and whole runs."""

import math

import pytest
import torch
from comfyui_affect.models.diffusion.diffusers import MethodGuider
from comfyui_affect.models.diffusion.sampling import (
    SCHEDULES,
    Sampler,
    ddim_inversion,
    prepare_noise,
    schedule,
    sd_sigmas,
)
from comfyui_affect.models.emotions import MIKELS, EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.files import save_safetensors
from comfyui_affect.models.muse import EmotionLoss, EmotionTokens, Muse, MuseConfig, TimingGate, initial_tokens


def marks(*rows):
    """[B, 8]: 1 at the classes of each row."""
    return torch.stack([torch.zeros(8).index_fill(0, torch.tensor(row, dtype=torch.long), 1.0) for row in rows])


P = torch.tensor([[0.50, 0.05, 0.05, 0.10, 0.05, 0.05, 0.15, 0.05]])


class FixedScorer:
    """A scorer whose answers are given in advance, one list an evaluation."""

    def __init__(self, answers):
        self.answers, self.asked = list(answers), 0

    def text_features(self, texts):
        return torch.zeros(1, 4)

    def image_features(self, image):
        return torch.nn.functional.normalize(torch.nn.functional.pad(image.mean(dim=(2, 3)), (0, 1)), dim=-1)

    def score(self, image, text):
        self.asked += 1
        value = self.answers[min(self.asked, len(self.answers)) - 1]
        return torch.tensor(value).expand(len(image)).clone() if not isinstance(value, list) else torch.tensor(value)


def conditioning(batch=1, seed=0):
    return [[torch.randn(batch, 77, 16, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None}]]


def guider(unet, vae, classifier, emotion="fear", gate=None, init=None, intensity=1.0, **config):
    settings = dict(max_inner_steps=3, learning_rate=0.05) | config
    target = emotion if isinstance(emotion, EmotionTarget) else EmotionTarget.of(emotion, intensity)
    method = KeepsRuns(classifier, (target,), MuseConfig(**settings), gate, init)
    return MethodGuider(unet, vae, conditioning(), conditioning(seed=9), method)


class KeepsRuns(Muse):
    """MUSE whose last run can be looked at when it is over."""

    def start(self, *given):
        object.__setattr__(self, "run", super().start(*given))
        return self.run


class Around:
    """A denoiser with another one's everything but what a subclass says."""

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def __getattr__(self, name):
        return getattr(self.denoiser, name)

    def __call__(self, *given):
        return self.denoiser(*given)


def run(g, steps=4, batch=1, sampler="euler", mask=None, seed=0):
    latent = torch.zeros(batch, 4, 8, 8)
    sigmas = schedule("karras", g.model.sigma_table, steps)
    out = g.sample(prepare_noise(latent, seed), latent, Sampler(sampler), sigmas, mask, seed=seed)
    return out, *g.method.traces.get(out)


def test_target_term_is_cross_entropy_for_one_hot():
    target = torch.eye(8)[[6]]
    loss = EmotionLoss(target, None, marks([]), marks([6]), 0, 0)
    assert loss(P.log()).item() == pytest.approx(-math.log(0.15), abs=1e-6)


def test_mixed_target_is_zero_at_its_optimum():
    target = torch.tensor([[0.5, 0, 0, 0, 0, 0, 0.5, 0]])
    loss = EmotionLoss(target, None, marks([]), marks([0, 6]), 0, 0)
    assert loss((target + 1e-9).log()).item() == pytest.approx(0, abs=1e-6)
    by_hand = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.15)
    assert loss(P.log()).item() == pytest.approx(by_hand, abs=1e-6)


def test_inherent_and_similar_terms():
    target = torch.eye(8)[[6]]  # fear: its neighbours are excitement and sadness
    loss = EmotionLoss(target, torch.tensor([0]), marks([3, 7]), marks([6]), 0.1, 0.2)
    parts = loss.parts(P.log())
    assert parts["inherent"].item() == pytest.approx(-math.log(0.5), abs=1e-6)
    assert parts["similar"].item() == pytest.approx((-math.log(0.10) - math.log(0.05)) / 2, abs=1e-6)
    by_hand = -math.log(0.15) - 0.1 * -math.log(0.5) - 0.2 * (-math.log(0.10) - math.log(0.05)) / 2
    assert loss(P.log()).item() == pytest.approx(by_hand, abs=1e-6)


def test_inherent_term_is_off_where_it_is_the_target():
    target = torch.eye(8)[[6, 6]]
    loss = EmotionLoss(target, torch.tensor([6, 0]), marks([], []), marks([6], [6]), 1.0, 0.0)
    inherent = loss.parts(P.repeat(2, 1).log())["inherent"]
    assert inherent[0] == 0 and inherent[1] > 0


def test_an_inherent_neighbour_is_held_down_once():
    """Sadness is fear's neighbour: where it is inherent, only excitement is left among the similar."""
    target = torch.eye(8)[[6, 6, 6]]
    loss = EmotionLoss(target, torch.tensor([7, 0, 3]), marks(*[[3, 7]] * 3), marks(*[[6]] * 3), 1.0, 1.0)
    similar = loss.parts(P.repeat(3, 1).log())["similar"].tolist()
    assert similar == pytest.approx(
        [-math.log(0.10), (-math.log(0.10) - math.log(0.05)) / 2, -math.log(0.05)], abs=1e-6
    )


def test_suppression_holds_at_any_intensity_and_from_a_vad_point(small_unet, small_vae, small_classifier):
    """Neither the blend with what the gate saw nor a VAD point's far tails make every emotion a wanted one."""
    for emotion in (EmotionTarget.of("fear", 0.5), EmotionTarget.from_vad(*EmotionTarget.of("fear").vad)):
        g = guider(small_unet, small_vae, small_classifier, emotion=emotion)
        run(g)
        g.method.run.inherent = torch.tensor([0])
        parts = g.method.run.loss().parts(P.log())
        assert parts["inherent"].item() == pytest.approx(-math.log(0.5), abs=1e-5) and parts["similar"] > 0


def test_gate_latches_and_reports(small_unet, small_vae, small_classifier):
    scorer = FixedScorer([10.0, 20.0, 5.0, 5.0])
    _, trace, _ = run(guider(small_unet, small_vae, small_classifier, gate=TimingGate(scorer, "a house")))
    assert [c.open[0] for c in trace.calls] == [False, True, True, True]
    assert trace.opened_at == [1] and scorer.asked == 2  # never asked again once open
    assert [bool(c.losses) for c in trace.calls] == [False, True, True, True]
    assert trace.inherent[0] in MIKELS and not trace.notes


def test_gate_that_never_opens_says_so_and_changes_nothing(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier, gate=TimingGate(FixedScorer([3.0]), "a house"))
    out, trace, _ = run(g)
    assert trace.opened_at == [None] and "never opened" in trace.notes[0] and "3.0" in trace.notes[0]
    plain, _, _ = run(guider(small_unet, small_vae, small_classifier, intensity=0.0))
    assert torch.equal(out, plain)


def test_gate_opens_each_image_of_a_batch_by_itself(small_unet, small_vae, small_classifier):
    scorer = FixedScorer([[20.0, 3.0], [3.0, 20.0]])
    _, trace, _ = run(guider(small_unet, small_vae, small_classifier, gate=TimingGate(scorer, "a house")), batch=2)
    assert trace.opened_at == [0, 1]


def test_gate_can_be_forced(small_unet, small_vae, small_classifier):
    gate = TimingGate(FixedScorer([3.0]), "a house", force_open_at=0.5)
    _, trace, _ = run(guider(small_unet, small_vae, small_classifier, gate=gate))
    assert trace.opened_at == [2]


def test_content_is_held_on_to_by_the_gates_prompt(small_unet, small_vae, small_classifier):
    """The emotion would make this picture redder, and the prompt wants no red: it then stays nearer to the plain
    picture's."""

    class NoRed(FixedScorer):
        def text_features(self, texts):
            return torch.tensor([[-1.0, 0, 0, 0]])

    settings = {"stop_loss": 0.0, "max_inner_steps": 10, "learning_rate": 0.3}
    made = lambda **more: run(guider(small_unet, small_vae, small_classifier, **settings, **more), batch=2)[0]
    plain, free = made(intensity=0.0), made()
    held, off = (made(gate=TimingGate(NoRed([20.0]), "no red"), content_weight=weight) for weight in (300.0, 0.0))
    red = lambda latent: NoRed([]).image_features(small_vae.decode(latent))[:, 0].double()
    assert torch.equal(free, off)  # no weight: as without a scorer
    assert bool((red(free) > red(plain)).all()) and bool((red(held) < red(free)).all())


def test_full_estimate_walks_once_under_a_deterministic_sampler(small_unet, small_vae, small_classifier):
    steps, walked = [], []

    class Counting(Around):
        def guided(self, *given):
            steps.append(1)
            return self.denoiser.guided(*given)

        def __call__(self, *given):
            walked.append(1)
            return self.denoiser(*given)

    g = guider(
        Counting(small_unet),
        small_vae,
        small_classifier,
        max_inner_steps=0,
        gate=TimingGate(FixedScorer([3.0]), "a house", estimate="full"),
    )
    run(g, steps=4)
    assert (
        len(steps) == 4 and len(walked) == 2 * 3
    )  # four steps, and one walk over the remaining three, cond and uncond
    steps.clear(), walked.clear()
    run(g, steps=4, sampler="heun")
    # heun calls twice a step but for the last; it walks at most once a step, never at a second call.
    assert len(steps) == 7 and len(walked) <= 2 * (3 + 2 + 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimingGate(None, "  "),
        lambda: TimingGate(None, "x", estimate="half"),
        lambda: MuseConfig(n_tokens=0),
        lambda: MuseConfig(learning_rate=-1),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_gradients_reach_the_tokens_and_nothing_else(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier)
    before = {k: v.clone() for k, v in small_unet.unet.state_dict().items()}
    _, trace, tokens = run(g)
    first = initial_tokens(1, 4, g.positive.embeds, 0)
    assert not torch.allclose(tokens.tokens, first)
    for module in (small_unet.unet, small_vae.vae, small_classifier):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in small_unet.unet.state_dict().items())


def test_the_inner_loop_lowers_the_loss(small_unet, small_vae, small_classifier):
    _, trace, _ = run(guider(small_unet, small_vae, small_classifier, max_inner_steps=8), steps=2)
    first = trace.calls[0]
    assert first.inner_steps == 8 and first.losses[-1][0] < first.losses[0][0]
    assert first.after[0][6] > first.before[0][6]


def test_the_learning_rate_falls_with_the_step(small_unet, small_vae, small_classifier):
    _, trace, _ = run(guider(small_unet, small_vae, small_classifier, learning_rate=0.01), sampler="heun", steps=3)
    assert [c.step for c in trace.calls] == [0, 1, 1, 2, 2]  # heun looks ahead: its second call is at the next sigma
    assert trace.calls[1].learning_rate == pytest.approx(0.01 * 0.99)


def test_an_image_that_is_done_keeps_its_tokens(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier, stop_loss=1e9)
    _, trace, tokens = run(g)
    assert all(c.inner_steps == 0 for c in trace.calls)
    assert torch.equal(tokens.tokens, initial_tokens(1, 4, g.positive.embeds, 0))


def test_intensity_zero_appends_nothing(small_unet, small_vae, small_classifier):
    from comfyui_affect.models.diffusion.diffusers import CFGGuider

    out, trace, _ = run(guider(small_unet, small_vae, small_classifier, intensity=0.0))
    latent = torch.zeros(1, 4, 8, 8)
    plain = CFGGuider(small_unet, conditioning(), conditioning(seed=9), 7.5).sample(
        prepare_noise(latent, 0), latent, Sampler("euler"), schedule("karras", small_unet.sigma_table, 4)
    )
    assert torch.allclose(out, plain, rtol=1e-3, atol=1e-2) and "intensity" in trace.notes[0]


def test_intensity_moves_the_target_from_what_the_gate_saw(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier, intensity=0.25)
    run(g)
    with torch.no_grad():
        seen = small_classifier(small_vae.decode(small_unet.latent_out(g.method.run._before))).softmax(
            dim=-1
        )  # when the gate opened, here at the first step
    assert torch.allclose(g.method.run.target, 0.75 * seen + 0.25 * torch.eye(8)[[6]], atol=1e-6)


def test_same_seed_same_latent_and_another_seed_another(small_unet, small_vae, small_classifier):
    a, _, _ = run(guider(small_unet, small_vae, small_classifier))
    b, _, _ = run(guider(small_unet, small_vae, small_classifier))
    c, _, _ = run(guider(small_unet, small_vae, small_classifier, seed=1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_guider_keeps_no_state_between_runs(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier)
    a, _, _ = run(g)
    run(g, seed=5)
    b, _, _ = run(g)
    assert torch.equal(a, b)


def test_masked_latents_stay_outside_the_mask(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier)
    source = torch.randn(1, 4, 8, 8)
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    out = g.sample(
        prepare_noise(source, 0), source, Sampler("euler"), schedule("karras", small_unet.sigma_table, 3), mask
    )
    assert torch.allclose(out[..., 5:], source[..., 5:], atol=1e-4)
    assert not torch.allclose(out[..., :3], source[..., :3], atol=1e-2)


def test_no_steps_is_refused(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier)
    with pytest.raises(UserError, match="denoise"):
        g.sample(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), Sampler("euler"), torch.empty(0))


@pytest.mark.parametrize("given", [1, 2])
def test_first_tokens_of_another_count_are_said(small_unet, small_vae, small_classifier, given):
    from comfyui_affect.models.muse import EmotionTokens

    width = conditioning()[0][0].shape[-1]
    _, trace, tokens = run(
        guider(small_unet, small_vae, small_classifier, init=EmotionTokens(torch.zeros(1, given, width)), n_tokens=2)
    )
    assert tokens.tokens.shape[1] == given
    assert any("init_tokens gives 1 tokens" in n for n in trace.notes) == (given != 2)


def test_tokens_that_were_never_optimised_are_not_saved(small_unet, small_vae, small_classifier, tmp_path):
    g = guider(small_unet, small_vae, small_classifier, gate=TimingGate(FixedScorer([3.0]), "a house"))
    _, _, tokens = run(g)
    with pytest.raises(UserError, match="never optimised"):
        tokens.save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_not_finite_is_noted_and_skipped(small_unet, small_vae):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.flatten(1)[:, :8] * 1.0

        @staticmethod
        def backward(ctx, grad):
            return torch.full((1, 3, 64, 64), float("nan"))

    g = guider(small_unet, small_vae, Broken.apply)
    out, trace, tokens = run(g, steps=2)
    assert torch.isfinite(out).all() and "not finite" in trace.notes[0]
    assert torch.equal(tokens.tokens, initial_tokens(1, 4, g.positive.embeds, 0))


def test_gradients_bear_the_range_of_half_precision(small_unet, small_vae, small_classifier):
    """What would overflow at 65504 on its way through the networks is evened out, and the tokens are those of full
    range."""

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient.half().float()

    steep = lambda image: 1e6 * small_classifier(image)
    settings = dict(max_inner_steps=2, stop_loss=-1e9)
    _, trace, want = run(guider(small_unet, small_vae, steep, **settings), steps=2)

    class Halved(Around):
        def __call__(self, *given):
            return Half.apply(self.denoiser(*given))

    g = guider(Halved(small_unet), small_vae, steep, **settings)
    _, trace, got = run(g, steps=2)
    assert not trace.notes and torch.allclose(got.tokens, want.tokens, rtol=0.02, atol=1e-3)


def test_a_model_without_a_backward_pass_is_named(small_unet, small_vae, small_classifier):
    class Cached(Around):
        def __call__(self, *given):
            return self.denoiser(*given).detach()

    g = guider(Cached(small_unet), small_vae, small_classifier)
    with pytest.raises(UserError, match="EasyCache"):
        run(g)


def test_a_mask_of_a_texts_tokens_grows_with_them_and_any_other_is_refused():
    tokens, text, mask = (
        EmotionTokens(torch.randn(1, 4, 16)),
        torch.randn(1, 77, 16),
        (torch.arange(77) < 70).long()[None],
    )
    ((embeds, options),) = tokens.apply([[text, {"attention_mask": mask}]])
    assert embeds.shape == (1, 81, 16) and torch.equal(
        options["attention_mask"], torch.cat([mask, torch.ones(1, 4).long()], dim=1)
    )
    with pytest.raises(UserError, match="attention mask"):
        tokens.apply([[text, {"attention_mask": torch.ones(1, 77, 77)}]])


def test_a_run_inside_inference_mode_is_the_same_run(small_unet, small_vae, small_classifier):
    gate = lambda: TimingGate(FixedScorer([3.0, 20.0]), "a house")
    mask = (torch.arange(64) < 32).float().expand(1, 64, 64)
    here, *_ = run(guider(small_unet, small_vae, small_classifier, gate=gate()), mask=mask)
    with torch.inference_mode():
        there, trace, tokens = run(guider(small_unet, small_vae, small_classifier, gate=gate()), mask=mask)
    assert torch.equal(here, there) and trace.opened_at == [1] and torch.isfinite(tokens.tokens).all()


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("no more"), RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")]
)
def test_when_memory_runs_out_it_goes_on_with_less(small_unet, small_vae, small_classifier, error):
    class Greedy(torch.nn.Module):
        failed = False

        def forward(self, image):
            if torch.is_grad_enabled() and not self.failed:
                self.failed = True
                raise error
            return small_classifier(image)

    plain, _, want = run(guider(small_unet, small_vae, small_classifier))
    out, trace, got = run(guider(small_unet, small_vae, Greedy()))
    assert "checkpointing" in trace.notes[0]
    assert torch.allclose(got.tokens, want.tokens, atol=1e-4) and torch.allclose(out, plain, atol=1e-3)
    assert all("forward" not in m.__dict__ for m in small_unet.unet.modules())


def test_each_image_of_a_batch_takes_its_own_emotion_and_prompt(small_unet, small_vae, small_classifier):
    """Three images guided together come out as each guided alone, although they are done at different times."""
    emotions = [EmotionTarget.of("fear"), EmotionTarget.of("awe", 0.5), EmotionTarget.of("anger")]
    noise = prepare_noise(torch.zeros(3, 4, 8, 8), 3)
    tokens = EmotionTokens(0.3 * torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(4)))

    def sample(emotion, rows):
        emotions = (emotion,) if isinstance(emotion, EmotionTarget) else tuple(emotion)
        config = MuseConfig(max_inner_steps=4, learning_rate=0.05, stop_loss=1.9)
        method = Muse(small_classifier, emotions, config, None, EmotionTokens(tokens.tokens[rows]))
        g = MethodGuider(small_unet, small_vae, conditioning(3, seed=5)[:1], conditioning(seed=9), method)
        g.positive = g.positive.rows(torch.tensor(rows))
        latent = torch.zeros(len(rows), 4, 8, 8)
        out = g.sample(noise[rows], latent, Sampler("euler"), schedule("karras", small_unet.sigma_table, 3))
        return out, g.method.traces.get(out)[0]

    together, trace = sample(emotions, [0, 1, 2])
    for i, emotion in enumerate(emotions):
        alone, own = sample(emotion, [i])
        assert torch.allclose(together[[i]], alone, atol=2e-3 * float(alone.abs().max()))
        assert trace.calls[-1].after[i] == pytest.approx(own.calls[-1].after[0], abs=1e-3)
    assert trace.to_json()["label"] == ["fear", "awe", "anger"]
    assert len({tuple(row) for row in trace.to_json()["target"]}) == 3


def test_tokens_of_two_images_fit_a_batch_of_any_size(small_unet):
    from comfyui_affect.models.diffusion.diffusers import CFGGuider

    for batch in (1, 2, 3):
        positive = EmotionTokens(torch.randn(2, 4, 16)).apply(conditioning())
        latent = torch.zeros(batch, 4, 8, 8)
        out = CFGGuider(small_unet, positive, conditioning(seed=9), 4.0).sample(
            prepare_noise(latent, 0),
            latent,
            Sampler("euler"),
            schedule("karras", small_unet.sigma_table, 2),
            torch.ones(2, 64, 64),
        )
        assert out.shape == latent.shape


def test_tokens_save_and_load(tmp_path):
    tokens = EmotionTokens(torch.randn(2, 4, 16), "awe")
    back = EmotionTokens.load(tokens.save(tmp_path / "awe.safetensors"))
    assert torch.equal(back.tokens, tokens.tokens) and back.label == "awe"
    assert [p.name for p in tmp_path.iterdir()] == ["awe.safetensors"]


def test_tokens_that_are_no_numbers_are_refused(tmp_path):
    bad = torch.zeros(1, 2, 4)
    bad[0, 1, 2] = float("nan")
    save_safetensors(tmp_path / "bad.safetensors", {"emotion_tokens": bad}, {})
    with pytest.raises(UserError, match="'bad.safetensors' hold values that are not numbers"):
        EmotionTokens.load(tmp_path / "bad.safetensors")


def test_tokens_apply_to_a_conditioning_and_refuse_another_width():
    tokens = EmotionTokens(torch.randn(2, 4, 16), "awe")
    ((embeds, options),) = tokens.apply(conditioning())
    assert embeds.shape == (2, 81, 16) and torch.equal(embeds[1, 77:], tokens.tokens[1])
    with pytest.raises(UserError, match="16 wide"):
        tokens.apply([[torch.randn(1, 77, 32), {}]])


def test_saved_tokens_can_start_a_run(small_unet, small_vae, small_classifier):
    _, _, tokens = run(guider(small_unet, small_vae, small_classifier))
    _, _, again = run(guider(small_unet, small_vae, small_classifier, init=tokens, max_inner_steps=0))
    assert torch.equal(again.tokens, tokens.tokens)


def test_a_foreign_latent_has_no_trace(small_unet, small_vae, small_classifier):
    g = guider(small_unet, small_vae, small_classifier)
    with pytest.raises(UserError, match="no trace"):
        g.method.traces.get(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_inversion_leads_back_to_the_latent(name, steps, variance):
    # The exact denoiser of latents drawn from N(0.3, variance): a flow whose inverse exists.
    model = lambda x, s: 0.3 + variance / (variance + s.view(-1, 1, 1, 1) ** 2) * (x - 0.3)
    latent = 0.3 + variance**0.5 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = schedule(name, sd_sigmas(), steps)
    noise = ddim_inversion(model, latent, sigmas, refine=8)
    back = Sampler("euler")(model, noise, sigmas)
    assert (back - latent).norm() < 0.05 * latent.norm()


def test_trace_is_json_and_a_picture(small_unet, small_vae, small_classifier):
    import json

    from comfyui_affect.models.muse.plot import trace_plot

    _, trace, _ = run(guider(small_unet, small_vae, small_classifier, gate=TimingGate(FixedScorer([10.0, 20.0]), "x")))
    data = json.loads(json.dumps(trace.to_json()))
    assert data["opened_at_step"] == [1] and data["calls"][1]["inner_steps"] == 3
    picture = trace_plot(trace)
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 0.05


def test_an_inner_step_keeps_nothing_of_its_graph():
    """A hook that knew its own tensor would keep it for ever, and a server's memory would grow with each image."""
    import gc
    import weakref

    from comfyui_affect.models.muse.inner import GradientScales

    back = GradientScales()
    start = torch.ones(2, 3, requires_grad=True)
    middle = start * torch.tensor([[2.0], [8.0]])
    seen = weakref.ref(middle)
    back.even(middle).square().sum().backward()
    assert torch.equal(back.scales[0], torch.tensor([4.0, 16.0])) and torch.equal(
        start.grad, torch.tensor([[2.0] * 3, [8.0] * 3])
    )
    del middle
    gc.collect()
    assert seen() is None
