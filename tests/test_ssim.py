"""SSIM against scikit-image, the fast scans against the exact one, and searches against brute force."""

import numpy as np
import pytest

from comfyui_affect.models import ssim

FAST = [pytest.param(True, marks=pytest.mark.skipif(not ssim.has_numba(), reason="numba is not installed")), False]


def noise(n, seed=0, size=64):
    """Smooth and rough pictures of several contrasts."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        x = rng.normal(size=(size, size))
        for _ in range(i % 4):
            x = (x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, -1, 0) + np.roll(x, -1, 1)) / 5
        x = (x - x.min()) / (np.ptp(x) + 1e-9) * rng.uniform(5, 255)
        out.append(x.astype(np.uint8))
    return np.stack(out)


def packed(pictures):
    """Rows as an index keeps them: pixels, then something else."""
    return np.concatenate([pictures.reshape(len(pictures), -1), np.full((len(pictures), 7), 255, np.uint8)], axis=1)


def statistics(pictures):
    return np.stack([ssim.statistics(p) for p in pictures])


def test_exact_is_scikit_images():
    from skimage.metrics import structural_similarity

    pictures = noise(200)
    for a, b in zip(pictures[:100], pictures[100:]):
        theirs = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
        assert ssim.exact(a, b[None])[0] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("fast", FAST)
def test_fast_scores_are_near_the_exact_ones(fast):
    pictures = np.concatenate([noise(60), np.zeros((1, 64, 64), np.uint8), np.full((1, 64, 64), 255, np.uint8)])
    numbers = np.arange(len(pictures))[::-1]
    for query in (pictures[3], pictures[40], pictures[60], pictures[61]):
        want = ssim.exact(query, pictures[numbers])
        scan = ssim.Scan(query, fast)
        assert np.isfinite(want).all()
        assert np.abs(scan.scores(packed(pictures), numbers) - want).max() < ssim.FAST_ERROR
        if fast:
            assert np.abs(scan.scores(packed(pictures), numbers, statistics(pictures)) - want).max() < ssim.CACHED_ERROR
        assert (scan.bounds(statistics(pictures), numbers) >= want - ssim.CACHED_ERROR).all()


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("with_cache", [False, True])
def test_a_search_is_brute_force(fast, with_cache):
    pictures = noise(300, seed=1)
    pictures[77] = pictures[12]  # equal scores: the earlier one comes first
    cached = statistics(pictures) if with_cache else None
    numbers = np.arange(len(pictures))
    for query in (pictures[12], noise(1, seed=9)[0]):
        want = ssim.exact(query, pictures)
        order = np.lexsort((numbers, -want))[:5]
        found, scores, visited = ssim.best(query, packed(pictures), numbers, 5, cached, fast)
        assert found == order.tolist() and scores == want[order].tolist() and visited == 300


@pytest.mark.skipif(not ssim.has_numba(), reason="numba is not installed")
def test_few_are_visited_among_near_duplicates():
    rng = np.random.default_rng(2)
    base = noise(60, seed=3)
    pictures = np.clip(np.repeat(base, 50, axis=0).astype(int) + rng.integers(-1, 2, (3000, 64, 64)), 0, 255).astype(np.uint8)
    want = ssim.exact(pictures[700], pictures)
    found, _, visited = ssim.best(pictures[700], packed(pictures), np.arange(3000), 5, statistics(pictures))
    assert found == np.lexsort((np.arange(3000), -want))[:5].tolist() and visited < 0.1 * 3000


def test_fewer_pictures_than_asked_for():
    pictures = noise(3)
    assert len(ssim.best(pictures[0], packed(pictures), np.arange(3), 5, fast=False)[0]) == 3
    assert ssim.best(pictures[0], packed(pictures), np.arange(0), 5, fast=False) == ([], [], 0)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim.exact(pictures[0][:8, :8], pictures[:, :8, :8])
