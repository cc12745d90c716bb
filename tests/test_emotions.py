import pytest
from comfyui_affect.models.emotions import (
    EKMAN,
    GOEMOTIONS,
    LABELS,
    MIKELS,
    OPPOSITE,
    WHEEL,
    EmotionTarget,
    neighbours,
    to_mikels,
)
from comfyui_affect.models.errors import UserError


def test_canonical_order_and_wheel():
    assert MIKELS == ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
    assert sorted(WHEEL) == sorted(MIKELS)
    assert neighbours("sadness") == ("fear", "disgust")
    assert neighbours("amusement") == ("anger", "contentment")
    assert all(OPPOSITE[OPPOSITE[e]] == e for e in MIKELS)


def test_every_label_is_a_distribution_and_appears_once():
    assert LABELS[:8] == MIKELS and len(set(LABELS)) == len(LABELS)
    assert set(LABELS) == set(MIKELS) | set(GOEMOTIONS) | set(EKMAN)
    for label in LABELS:
        target = EmotionTarget.of(label)
        assert sum(target.distribution) == pytest.approx(1)
        assert all(0 <= v <= 1 for v in target.vad)


@pytest.mark.parametrize("name", MIKELS)
def test_an_emotions_own_vad_point_is_mostly_that_emotion(name):
    assert EmotionTarget.from_vad(*EmotionTarget.of(name).vad).dominant == name


def test_a_far_vad_point_is_still_a_distribution():
    assert sum(EmotionTarget.from_vad(0.0, 0.0, 1.0).distribution) == pytest.approx(1)


def test_mix_balances_distribution_and_intensity():
    mixed = EmotionTarget.of("fear", 1.0).mix(EmotionTarget.of("awe", 0.5), 0.25)
    assert mixed.distribution[MIKELS.index("fear")] == pytest.approx(0.75)
    assert mixed.distribution[MIKELS.index("awe")] == pytest.approx(0.25)
    assert mixed.intensity == pytest.approx(0.875)


def test_similar_emotions_leave_out_what_belongs_to_the_target():
    assert EmotionTarget.of("fear").similar() == ("excitement", "sadness")
    mixed = EmotionTarget.of("fear").mix(EmotionTarget.of("sadness"), 0.4)
    assert mixed.similar() == ("excitement",)


def test_text_weighs_words():
    target = EmotionTarget.from_text("Very happy, and slightly sad!")
    assert target.distribution[MIKELS.index("sadness")] == pytest.approx(0.5 / 2.5)


def test_unknown_words_are_refused_with_a_hint():
    with pytest.raises(UserError, match="amusement"):
        EmotionTarget.from_text("a wooden table")
    with pytest.raises(UserError, match="Did you mean"):
        to_mikels("saddness")
    with pytest.raises(UserError, match="0..1"):
        EmotionTarget.of("fear", 1.5)
