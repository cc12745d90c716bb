"""The check of gradients against finite differences."""

import pytest
import torch
from comfyui_affect.models.diffusion.selfcheck import SelfCheck
from comfyui_affect.models.errors import UserError


class Layered(torch.nn.Module):
    """Residual branches of random weights; `wrong` of them have another weight in the backward pass."""

    def __init__(self, wrong=0, width=64, depth=4, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weights = [
            torch.randn(width, width, generator=generator, dtype=torch.float32) * width**-0.5 for _ in range(depth + 1)
        ]
        self.wrong, self.dtype = wrong, dtype

    def forward(self, t):
        x = t.flatten(1)
        for i, weight in enumerate(self.weights[:-1]):
            branch = (x.to(self.dtype) @ weight.to(self.dtype)).float()
            if i < self.wrong:
                other = x @ self.weights[-1]
                branch = other + (branch - other).detach()  # the right value with the derivative of another weight
            x = x + torch.tanh(branch)
        return x


def run(network, fine=True, n=2, gradients=40, seed=0):
    """Checks the gradients of random inputs until it is settled; the check."""
    check = SelfCheck("network", fine)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(gradients):
        if not check.due("here"):
            return check
        t = torch.randn(n, 2, 32, generator=generator).requires_grad_(True)
        out = network(t)
        weights = torch.randn(out.shape, generator=generator)
        (gradient,) = torch.autograd.grad(out, t, weights)
        check.check(t, gradient, weights, out.detach(), network)
    return check


@pytest.mark.parametrize("seed", range(10))
def test_right_gradients_settle_after_two(seed):
    check = run(Layered(), gradients=2, seed=seed)
    assert not check.due("here") and not check.undecided


@pytest.mark.parametrize("wrong", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_wrong_gradients_are_refused(wrong, seed):
    with pytest.raises(UserError, match="gradients of this network are wrong"):
        run(Layered(wrong), seed=seed)


def test_a_gradient_that_lacks_a_part_is_refused():
    """Along itself it is right: only a random direction sees what is missing."""

    class Half(torch.nn.Module):
        def forward(self, t):
            x = t.flatten(1)
            return torch.cat([x[:, :8], x[:, 8:].detach()], dim=1) * 2

    with pytest.raises(UserError, match="are wrong"):
        run(Half())


def test_half_precision_is_judged_by_a_mean():
    assert not run(Layered(dtype=torch.bfloat16), fine=False).due("here")
    with pytest.raises(UserError, match="are wrong"):
        run(Layered(4, dtype=torch.bfloat16), fine=False)


def test_weights_that_have_moved_are_checked_again():
    check = run(Layered())
    assert not check.due("here") and check.due("elsewhere")
    assert not SelfCheck("network", True).due(None), "weights that never move need no check"


def test_what_tokens_do_not_change_is_given_up_and_said():
    class Deaf(torch.nn.Module):
        def forward(self, t):
            return 1e6 + 1e-4 * t.flatten(1)

    check = run(Deaf())
    assert check.undecided and not check.due("here")


def test_no_graph_is_left_behind():
    """A graph that is never run backward confuses `mutation_allowed`, under which transformers run."""
    asked = []

    class Watched(Layered):
        def forward(self, t):
            asked.append((t.requires_grad, torch.is_grad_enabled()))
            return super().forward(t)

    run(Watched(), gradients=2)
    assert asked == [(True, True), (False, True)] * 2
