"""Weights made in inference mode: gradients run through them, and afterwards they are what they were."""

import weakref

import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.tensors.gradients import checkpointed, mutation_allowed, ordinary, ordinary_weights
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.line = nn.BatchNorm1d(width), nn.Linear(width, width)

    def forward(self, x, options):
        options["count"] = options.get("count", 0) + 1
        return x + torch.tanh(self.line(self.norm(x))) * (1 + options["at"])


class Careless(nn.Module):
    """Writes into what it is given and into what autograd has saved, as FLUX's blocks do."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.line = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x, side=None, *, options):
        side += self.line(x)
        x += torch.tanh(self.line(self.norm(x))) * options["scale"]
        return x, side


class CarelessNet(nn.Module):
    def __init__(self, width=8, depth=6):
        super().__init__()
        self.blocks = nn.ModuleList(Careless(width) for _ in range(depth))

    def forward(self, x):
        x, side, options = x.clone(), torch.zeros_like(x), {"scale": torch.ones(1), "at": 0}
        for block in self.blocks:
            x, side = block(x, side=side, options=options)
        return x + side


class Net(nn.Module):
    """A chain of blocks whose options say where one is, as ComfyUI's transformer_options do."""

    def __init__(self, width=8, depth=6):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x):
        options = {}
        for i, block in enumerate(self.blocks):
            options["at"] = i
            x = block(x, options)
        return x


@pytest.fixture
def net():
    with torch.inference_mode():
        torch.manual_seed(0)
        return Net().eval()


def gradient(net, x):
    x = x.clone().requires_grad_(True)
    net(x).square().sum().backward()
    return x.grad


def test_autograd_refuses_inference_weights(net):
    with torch.inference_mode(False), torch.enable_grad(), pytest.raises(RuntimeError, match="nference"):
        gradient(net, torch.randn(4, 8))


def test_gradients_run_and_everything_is_put_back(net):
    x = torch.randn(4, 8)
    tables = [(m._parameters, m._buffers) for m in net.modules()]
    before = [(t, n, v, v.clone()) for pair in tables for t in pair for n, v in t.items() if v is not None]
    with torch.inference_mode(), ordinary_weights(net):
        assert not any(v.is_inference() or v.requires_grad for v in [*net.parameters(), *net.buffers()])
        got = gradient(net, x)
        assert next(net.parameters()).data_ptr() == before[0][2].data_ptr()  # no copy was made
    assert all(t[n] is v and torch.equal(v, bits) for t, n, v, bits in before)
    twin = Net().eval()
    twin.load_state_dict({k: v.clone() for k, v in net.state_dict().items()})
    assert torch.allclose(got, gradient(twin, x), atol=1e-6)


def test_everything_is_put_back_after_an_error(net):
    before = list(net.parameters())
    with pytest.raises(KeyboardInterrupt), ordinary_weights(net):
        raise KeyboardInterrupt
    assert all(a is b for a, b in zip(before, net.parameters()))


def test_weights_that_are_ordinary_already_are_left_alone():
    net = Net().eval().requires_grad_(False)
    before = list(net.parameters())
    with ordinary_weights(net):
        assert all(a is b for a, b in zip(before, net.parameters()))


def test_quantised_weights_are_refused(net):
    class Quantised(torch.Tensor):
        pass

    with torch.inference_mode():
        net.blocks[1].line.weight = nn.Parameter(torch.randn(8, 8).as_subclass(Quantised), requires_grad=False)
    before = list(net.parameters())
    with pytest.raises(UserError, match="Quantised"), ordinary_weights(net):
        pass
    assert all(a is b for a, b in zip(before, net.parameters()))


def test_ordinary_tensors_are_not_copied():
    with torch.inference_mode():
        inside = torch.ones(2)
    outside = torch.ones(2)
    assert ordinary(outside) is outside and ordinary(None) is None
    assert not ordinary(inside).is_inference() and torch.equal(ordinary(inside), inside)


def test_checkpointing_keeps_less_and_gives_the_same_gradient():
    net = Net(depth=12).eval().requires_grad_(False)
    x = torch.randn(4, 8)

    def kept_and_gradient():
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            return gradient(net, x), sum(kept)

    plain, much = kept_and_gradient()
    with checkpointed(net):
        got, little = kept_and_gradient()
    assert torch.equal(plain, got) and little < much / 3
    assert all("forward" not in m.__dict__ for m in net.modules())


def test_a_forward_that_another_pack_set_on_a_block_is_back_afterwards():
    net = CarelessNet()
    calls = []
    first = net.blocks[0]
    own = type(first).forward.__get__(first)
    first.forward = patched = lambda *a, **k: calls.append(1) or own(*a, **k)
    with checkpointed(net):
        net(torch.randn(2, 8, requires_grad=True)).sum().backward()
    assert first.forward is patched and calls
    assert all("forward" not in block.__dict__ for block in net.blocks[1:])


def test_checkpointing_inside_a_block_that_allows_mutation():
    """A transformer that is loaded whole and a VAE that is not: the one allows writing, the other checkpoints."""
    net, x = CarelessNet(), torch.randn(2, 8, requires_grad=True)
    with mutation_allowed(), checkpointed(net):
        net(x).sum().backward()
    assert x.grad.isfinite().all()
    with mutation_allowed():  # and it can be entered again
        pass


def test_what_is_written_into_stays_until_autograd_is_done_with_it():
    """Torch knows a saved tensor by its addresses, and lets go of it once somebody writes into it: the next tensor that
    comes to lie there would be taken for it."""
    a = torch.randn(8, 8, requires_grad=True)
    with mutation_allowed():
        b = a.clone()
        out = (b**2).sum()
        b.sin_()
        saved = weakref.ref(b)
        del b
        assert saved() is not None
        out.backward()
        assert torch.allclose(a.grad, 2 * a.detach())
        del out
        assert saved() is None


def test_many_writes_in_place_give_the_right_gradient():
    a, outs, want = torch.randn(64, 64, requires_grad=True), [], torch.zeros(64, 64)
    with mutation_allowed():
        for i in range(300):
            b = a.clone()
            outs.append((b**2).sum())
            b.sin_()
            del b
            outs.append(((a + i) ** 2).sum())
            want += 4 * a.detach() + 2 * i
        (got,) = torch.autograd.grad(torch.stack(outs).sum(), a)
    assert torch.allclose(got, want, rtol=1e-4)


def test_checkpointing_is_right_where_blocks_write_in_place():
    torch.manual_seed(0)
    net = CarelessNet().eval().requires_grad_(False)
    x = torch.randn(4, 8)
    with pytest.raises(RuntimeError, match="inplace"):
        gradient(net, x)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        wanted = gradient(net, x)
    with checkpointed(net):
        assert torch.allclose(gradient(net, x), wanted, atol=1e-6)


def test_inside_inference_mode_checkpointing_works_too(net):
    x = torch.randn(4, 8)
    with torch.inference_mode(), ordinary_weights(net):
        wanted = gradient(net, x)
        with checkpointed(net):
            assert torch.equal(gradient(net, x), wanted)
