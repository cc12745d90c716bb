"""Figures of merit against values worked by hand or by another library."""

import pytest
import torch
from comfyui_affect.models import metrics


def test_kernel_distance_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # (cosine + 1)^3: 1 between unlike, 8 between like rows; the diagonals are left out of the first two means.
    assert metrics.kernel_distance(a, b) == pytest.approx(1 + 8 - 2 * (8 + 8 + 1 + 1) / 4)
    with pytest.raises(ValueError):
        metrics.kernel_distance(a, b[:1])


def test_kernel_distance_tells_sets_apart():
    draw = lambda seed, shift: torch.nn.functional.normalize(
        torch.randn(200, 8, generator=torch.Generator().manual_seed(seed)) + shift, dim=1
    )
    assert (
        abs(metrics.kernel_distance(draw(0, 0.0), draw(1, 0.0)))
        < 0.1
        < metrics.kernel_distance(draw(0, 0.0), draw(1, 1.0))
    )


def test_semantic_diversity_is_the_variance_inside_a_class():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 5.0]])
    assert metrics.semantic_diversity(features, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


def test_intervals():
    low, high = metrics.wilson_interval(0.5, 100)
    assert low == pytest.approx(0.4038, abs=1e-3) and high == pytest.approx(0.5962, abs=1e-3)
    assert metrics.mean_interval(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx((2 - 1.96 / 3**0.5, 2 + 1.96 / 3**0.5))


def test_rank_correlation():
    assert metrics.rank_correlation([0, 1, 2], [0.1, 0.5, 0.9]) == pytest.approx(1)
    assert metrics.rank_correlation([0, 1, 2], [0.9, 0.5, 0.1]) == pytest.approx(-1)
    assert metrics.rank_correlation([0, 1, 2], [0.5, 0.5, 0.5]) == 0


def test_frechet_distance_of_shifted_gaussians():
    a = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    assert metrics.frechet_distance(a, a + torch.tensor([2.0, 0.0, 0.0])) == pytest.approx(4, abs=1e-3)
