"""What holds for any input, on inputs that hypothesis draws: alignment, feathered masks, transport plans, emotions, the
MLLM's answers, images and masks of any size."""

import json

import numpy as np
import pytest
import torch
from comfyui_affect.models.emotions import LABELS, MIKELS, EmotionTarget
from comfyui_affect.models.moodifier import instruction, losses, masks
from comfyui_affect.models.moodifier.attention import align, id_scores
from comfyui_affect.models.tensors.composites import composite
from comfyui_affect.models.tensors.luminance import luminance, with_luminance
from comfyui_affect.models.tensors.masks import coverage, sized_mask
from comfyui_affect.models.tensors.resize import resized
from comfyui_affect.models.tensors.uint8 import from_uint8, to_uint8, truncated
from hypothesis import given, settings
from hypothesis import strategies as st

draws = settings(derandomize=True, max_examples=60, deadline=None, database=None)
shares = st.floats(0, 1)


def tensor(draw, *shape, low=0.0, high=1.0):
    """A random tensor of that shape, with some of its values at the ends of its range."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.5, 1.0, 2.0]))
    return (low + (high - low) * (0.5 + spread * (torch.rand(shape, generator=generator) - 0.5))).clamp(low, high)


# -- alignment ------------------------------------------------------------------------------------------------------


def common_length(a, b):
    """The length of the longest common subsequence, word for word after its definition."""
    if not a or not b:
        return 0
    return max(common_length(a[1:], b[1:]) + 1 if a[0] == b[0] else 0, common_length(a[1:], b), common_length(a, b[1:]))


words = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@draws
@given(words, words)
def test_an_alignment_keeps_order_and_matches_as_many_words_as_can_be(source, target):
    found = align(id_scores(source, target)).tolist()
    matched = [(i, j) for j, i in enumerate(found) if i >= 0]
    assert len(found) == len(target) and all(source[i] == target[j] for i, j in matched)
    assert [i for i, _ in matched] == sorted({i for i, _ in matched})  # in order, and each once
    assert len(matched) == common_length(source, target)


@draws
@given(st.data())
def test_an_alignment_of_any_scores_keeps_order_and_makes_no_match_without_a_score(data):
    scores = tensor(data.draw, data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6)), low=-1.0)
    found = [(int(i), j) for j, i in enumerate(align(scores)) if i >= 0]
    assert [i for i, _ in found] == sorted({i for i, _ in found}) and all(scores[i, j] > 0 for i, j in found)


# -- masks ----------------------------------------------------------------------------------------------------------


@draws
@given(st.data(), st.integers(0, 5))
def test_a_feathered_mask_is_zero_beyond_its_reach(data, pixels):
    h, w = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    mask = tensor(data.draw, 1, 1, h, w) * (tensor(data.draw, 1, 1, h, w) > 0.9)
    soft = masks.feathered(mask, pixels)
    assert soft.shape == mask.shape and bool((soft >= mask).all()) and float(soft.max()) <= 1
    ys, xs = np.nonzero(mask[0, 0].numpy())
    for y, x in np.ndindex(h, w):
        reached = any(max(abs(y - a), abs(x - b)) <= pixels for a, b in zip(ys, xs))
        assert reached or soft[0, 0, y, x] == 0


@draws
@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_a_cell_is_zero_exactly_where_no_pixel_of_it_is_covered(data, h, w):
    mask = (tensor(data.draw, 1, 1, data.draw(st.integers(h, 20)), data.draw(st.integers(w, 20))) > 0.9).float()
    covered = coverage(mask, h, w)
    assert covered.shape == (1, 1, h, w) and bool(((covered >= 0) & (covered <= 1)).all())
    rows, columns = mask.shape[2:]
    for y, x in np.ndindex(h, w):
        cell = mask[0, 0, y * rows // h : -(-(y + 1) * rows // h), x * columns // w : -(-(x + 1) * columns // w)]
        assert float(covered[0, 0, y, x]) == pytest.approx(float(cell.mean()), abs=1e-6)
        assert bool(covered[0, 0, y, x] == 0) == (not cell.any())


# -- transport ------------------------------------------------------------------------------------------------------


@draws
@given(st.data(), st.sampled_from([0.05, 0.2, 1.0]))
def test_a_transport_plan_has_its_marginals(data, epsilon):
    n, m = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    cost = tensor(data.draw, n, m, high=2.0)
    plan = losses.sinkhorn(cost, epsilon)
    assert plan.shape == (n, m) and bool((plan >= 0).all())
    assert plan.sum(dim=1).tolist() == pytest.approx([1 / n] * n, abs=1e-5)
    assert plan.sum(dim=0).tolist() == pytest.approx([1 / m] * m, abs=1e-5)
    # What every pair of a row or of a column costs more moves nothing.
    dearer = cost + tensor(data.draw, n, 1) + tensor(data.draw, 1, m)
    assert torch.allclose(losses.sinkhorn(dearer, epsilon), plan, atol=1e-4)


# -- emotions -------------------------------------------------------------------------------------------------------

named = st.builds(EmotionTarget.of, st.sampled_from(LABELS), shares)
points = st.builds(EmotionTarget.from_vad, shares, shares, shares, shares)
texts = st.lists(st.sampled_from(LABELS), min_size=1, max_size=5).map(" very ".join).map(EmotionTarget.from_text)
emotions = st.recursive(
    named | points | texts, lambda one: st.builds(EmotionTarget.mix, one, one, shares), max_leaves=6
)


@draws
@given(emotions)
def test_emotions_sum_to_one_and_their_points_lie_where_points_may(emotion):
    assert sum(emotion.distribution) == pytest.approx(1, abs=1e-9) and min(emotion.distribution) >= 0
    assert emotion.dominant in MIKELS and 0 <= emotion.intensity <= 1
    assert all(0 <= v <= 1 for v in emotion.vad)
    again = EmotionTarget.from_vad(*emotion.vad)
    assert again.vad == emotion.vad and sum(again.distribution) == pytest.approx(1, abs=1e-9)
    assert not set(emotion.similar()) & set(emotion.wanted())


@draws
@given(named, named, shares)
def test_a_mix_lies_between_its_two(a, b, balance):
    mixed = a.mix(b, balance)
    for x, y, z in zip((*a.distribution, *a.vad, a.intensity), (*b.distribution, *b.vad, b.intensity),
                       (*mixed.distribution, *mixed.vad, mixed.intensity)):  # fmt: skip
        assert z == pytest.approx((1 - balance) * x + balance * y, abs=1e-9)


# -- answers --------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
corners = st.tuples(*[st.floats(0, 1) | st.integers(0, 200)] * 4)
ordered = corners.map(lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])])
objects = st.fixed_dictionaries(
    {"name": st.text(max_size=9)}, optional={"attribute": st.text(max_size=9), "box": st.none() | ordered}
)
prompts = st.text(min_size=1, max_size=20)
sound = st.fixed_dictionaries(
    {"objects": st.lists(objects, max_size=10), "source_prompt": prompts, "target_prompt": prompts}
)
odd = st.fixed_dictionaries(
    {
        "objects": st.lists(objects | json_values, max_size=4) | json_values,
        "source_prompt": prompts | json_values,
        "target_prompt": prompts | json_values,
    },
    optional={"extra": json_values},
)
around = st.text(alphabet=st.sampled_from('}[]"\\ a:,{'), max_size=12)
answers = st.tuples(around, (sound | odd).map(json.dumps), around).map("".join)


@settings(draws, max_examples=120)
@given(answers | sound.map(json.dumps) | answers.map(lambda text: text[: len(text) * 2 // 3]) | st.text(max_size=60))
def test_any_text_is_an_answer_or_a_broken_answer(text):
    try:
        found = instruction.parse(text, (200, 100))
    except instruction.BrokenAnswer as error:
        assert str(error)
        return
    assert len(found.objects) <= instruction.MOST_OBJECTS
    for prompt in (found.source_prompt, found.target_prompt):
        assert 0 < len(prompt) <= instruction.LONGEST_PROMPT and prompt == instruction.plain(prompt, 1200)
    for change in found.objects:
        assert change.name and not set(change.name + change.attribute) & set("()[]{}|<>\\\n")
        if change.box is not None:
            left, top, right, bottom = change.box
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


@draws
@given(st.lists(st.tuples(shares, shares, shares, shares), min_size=1, max_size=4), st.sampled_from([1, 1000, "size"]))
def test_boxes_in_any_unit_are_the_same_shares(corners, unit):
    """Shares, thousandths, or pixels of a picture of 200 by 100."""
    ordered = [(min(a, c), min(b, d), max(a, c) + 0.02, max(b, d) + 0.02) for a, b, c, d in corners]
    ordered = [tuple(min(v, 1.0) for v in box) for box in ordered] + [(0.0, 0.0, 1.0, 1.0)]
    ordered = [box for box in ordered if box[0] + 0.01 < box[2] and box[1] + 0.01 < box[3]]
    w, h = (200, 100) if unit == "size" else (unit, unit)
    given_boxes = [[a * w, b * h, c * w, d * h] for a, b, c, d in ordered]
    told = {"source_prompt": "x", "target_prompt": "y", "objects": [{"name": "o", "box": box} for box in given_boxes]}
    found = instruction.parse(json.dumps(told | {"objects": told["objects"][-8:]}), (200, 100))
    for change, box in zip(found.objects, ordered[-8:], strict=True):
        assert change.box == pytest.approx(box, abs=1e-9)


# -- images ---------------------------------------------------------------------------------------------------------


@draws
@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_resizing_keeps_range_and_gives_the_size(data, h, w):
    image = tensor(data.draw, 2, 3, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), low=0.2, high=0.8)
    small = resized(image, h, w)
    assert small.shape == (2, 3, h, w)
    assert float(image.min()) - 1e-5 <= float(small.min()) and float(small.max()) <= float(image.max()) + 1e-5
    assert torch.allclose(resized(torch.full_like(image, 0.3), h, w), torch.full_like(small, 0.3), atol=1e-6)
    for mask in (image[0, 0], image[:, 0], image[:, :1]):
        sized = sized_mask(mask, small)
        assert sized.shape == (1 if mask.ndim == 2 else 2, 1, h, w)
        assert torch.allclose(sized[0, 0], small[0, 0], atol=1e-6)


@draws
@given(st.data())
def test_eight_bits_and_back(data):
    values = tensor(data.draw, 5, 4, 3, low=-0.2, high=1.2)
    nearest, lower, inside = to_uint8(values), truncated(values), values.clamp(0, 1).numpy()
    assert np.abs(from_uint8(nearest) - inside).max() <= 0.5 / 255 + 1e-6
    assert (from_uint8(lower) <= inside + 1e-6).all() and (nearest.astype(int) - lower <= 1).all()
    assert (to_uint8(from_uint8(nearest)) == nearest).all()


@draws
@given(st.data())
def test_composites_and_luminance_stay_in_range(data):
    source, edited = (tensor(data.draw, 2, 3, 4, 5) for _ in range(2))
    mask = tensor(data.draw, 2, 1, 4, 5)
    mask[mask < 0.3] = 0
    out = composite(source, edited, mask)
    outside = (mask == 0).expand_as(out)
    assert torch.equal(out[outside], source[outside]) and composite(source, edited, None) is edited
    low, high = torch.minimum(source, edited), torch.maximum(source, edited)
    assert bool(((out >= low - 1e-6) & (out <= high + 1e-6)).all())
    light, coloured = luminance(edited), with_luminance(source, edited)
    assert light.shape == (2, 1, 4, 5) and 0 <= float(light.min()) <= float(light.max()) <= 1
    assert 0 <= float(coloured.min()) <= float(coloured.max()) <= 1
    grey = luminance(source).expand(-1, 3, -1, -1)
    assert torch.allclose(luminance(with_luminance(grey, edited)), light, atol=1e-5)
