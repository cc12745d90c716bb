"""SSIM against scikit-image, the fast scans against the exact one, and searches against brute force."""

import numpy as np
import pytest
from comfyui_affect.models.reference import ssim

needs_numba = pytest.mark.skipif(ssim.kernels() is None, reason="numba is not installed")
FAST = [pytest.param(True, marks=needs_numba), False]


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
    return np.stack([ssim.statistics(p).reshape(-1) for p in pictures])


def flat(*greys, size=64):
    return np.stack([np.full((size, size), g, np.uint8) for g in greys])


def stripes(low, high, size=64):
    """A diagonal of one grey in three: its local mean lies between the steps of the cache."""
    r, c = np.indices((size, size))
    return np.where((r + c) % 3 == 0, low, high).astype(np.uint8)[None]


def test_exact_is_scikit_images():
    from skimage.metrics import structural_similarity

    pictures = noise(200)
    for a, b in zip(pictures[:100], pictures[100:]):
        theirs = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert ssim.exact(a, b[None])[0] == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("fast", FAST)
def test_fast_scores_are_within_their_errors(fast):
    """Also where float32 and 16 bits are at their worst: flat and nearly flat pictures."""
    pictures = np.concatenate(
        [noise(60), flat(0, 255, 189, 213, 249, 243, 128), stripes(254, 255), stripes(127, 128), stripes(0, 1)]
    )
    numbers = np.arange(len(pictures))[::-1].copy()
    for query in pictures[[3, 40, *range(60, len(pictures))]]:
        want = ssim.exact(query, pictures[numbers])
        scan = ssim.Scan(query, fast)
        assert np.isfinite(want).all()
        assert np.abs(scan.scores(packed(pictures), numbers) - want).max() < ssim.FAST_ERROR
        assert np.abs(scan.sure(packed(pictures), numbers) - want).max() < ssim.SURE_ERROR
        if fast:
            assert np.abs(scan.scores(packed(pictures), numbers, statistics(pictures)) - want).max() < scan.cached_error
            assert (scan.bounds(statistics(pictures), numbers) >= want - scan.cached_error).all()


@pytest.mark.parametrize("fast", FAST)
def test_a_search_bears_fast_scores_that_are_as_wrong_as_they_may_be(fast, monkeypatch):
    base = noise(1, seed=5)[0].astype(int)
    rng = np.random.default_rng(6)
    pictures = np.clip(base + rng.integers(0, 2, (400, 64, 64)) * (rng.random((400, 64, 64)) < 0.002), 0, 255).astype(
        np.uint8
    )
    want = np.lexsort((np.arange(400), -ssim.exact(pictures[7], pictures)))[:5].tolist()
    original = ssim.Scan.scores
    monkeypatch.setattr(
        ssim.Scan,
        "scores",
        lambda self, rows, numbers, cached=None, floor=-1.0: (
            original(self, rows, numbers, cached)
            + rng.choice([-0.9, 0.9], len(numbers)) * (ssim.FAST_ERROR if cached is None else self.cached_error)
        ),
    )
    for cached in (None, statistics(pictures)):
        assert ssim.best(pictures[7], packed(pictures), np.arange(400), 5, cached, fast)[0] == want


@needs_numba
@pytest.mark.parametrize("with_cache", [False, True])
def test_what_cannot_reach_the_floor_is_given_up_below_it(with_cache):
    pictures = noise(60, seed=4)
    cached, numbers = statistics(pictures) if with_cache else None, np.arange(60)
    scan = ssim.Scan(pictures[3])
    whole = scan.scores(packed(pictures), numbers, cached)
    floor = float(np.sort(whole)[-20])
    some = scan.scores(packed(pictures), numbers, cached, floor)
    over = whole >= floor
    assert over.sum() == 20 and (some[over] == whole[over]).all()
    assert (some[~over] >= whole[~over]).all() and (some[~over] < floor).all() and (some != whole).any()


@pytest.mark.parametrize("fast", FAST)
def test_a_mapped_gallery_is_read_in_parts(fast, tmp_path, monkeypatch):
    monkeypatch.setattr(ssim, "AT_ONCE", 50)
    pictures = noise(700, seed=5)
    packed(pictures).tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.uint8, "r").reshape(packed(pictures).shape)
    want = np.lexsort((np.arange(700), -ssim.exact(pictures[3], pictures)))[:5].tolist()
    assert ssim.best(pictures[3], mapped, np.arange(700), 5, None, fast)[0] == want


@needs_numba
def test_more_can_be_asked_for_than_a_sample_holds():
    pictures = np.repeat(noise(30, seed=8), 80, axis=0)
    found, _, _ = ssim.best(pictures[0], packed(pictures), np.arange(2400), 300, statistics(pictures))
    assert len(found) == 300 and found[:80] == list(range(80))


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


@needs_numba
def test_few_are_visited_among_near_duplicates():
    rng = np.random.default_rng(2)
    base = noise(60, seed=3)
    pictures = np.clip(np.repeat(base, 50, axis=0).astype(int) + rng.integers(-1, 2, (3000, 64, 64)), 0, 255).astype(
        np.uint8
    )
    want = ssim.exact(pictures[700], pictures)
    found, _, visited = ssim.best(pictures[700], packed(pictures), np.arange(3000), 5, statistics(pictures))
    assert found == np.lexsort((np.arange(3000), -want))[:5].tolist() and visited < 0.05 * 3000


def test_fewer_pictures_than_asked_for():
    pictures = noise(3)
    assert len(ssim.best(pictures[0], packed(pictures), np.arange(3), 5, fast=False)[0]) == 3
    assert ssim.best(pictures[0], packed(pictures), np.arange(0), 5, fast=False) == ([], [], 0)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim.exact(pictures[0][:8, :8], pictures[:, :8, :8])
