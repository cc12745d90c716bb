"""Valence and arousal of photographs: the regression, the ratings it takes, and the bundled heads as classifiers."""

import hashlib
import json

import numpy as np
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.emotions import MIKELS, EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.networks import efficientnet
from comfyui_affect.models.networks.classifiers import load_classifier, names
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS
from comfyui_affect.training.va_head import Rated, correlations, cross_validated, read_ratings, ridge
from comfyui_affect.workflows.headless.host import EmbeddedHost
from PIL import Image
from skimage.data import chelsea

HEADER = "file,valence_mean,arousal_mean,theme\n"
COLUMNS = ("file", "valence_mean", "arousal_mean", "theme")


def test_ridge_finds_a_plane_and_its_dual_form_is_the_primal_one():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 60))
    y = x[:, :2] * 3 + 1
    weight, bias = ridge(x, y, 1e-6)
    assert np.allclose(x @ weight.T + bias, y, atol=1e-3)
    strong, _ = ridge(x, y, 50.0)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / std
    primal = np.linalg.solve(z.T @ z + 50.0 * np.eye(60), z.T @ (y - y.mean(axis=0))).T / std
    assert np.allclose(strong, primal) and np.abs(strong).sum() < np.abs(weight).sum()


def test_groups_are_held_out_whole():
    """Where a feature only names its group, answers on groups that were held out are worth nothing."""
    random = np.random.default_rng(1)
    groups = [f"theme {i // 4}" for i in range(160)]
    of_group = np.repeat(random.normal(size=(40, 2)), 4, axis=0)
    x = np.repeat(np.eye(40), 4, axis=0) + 0.01 * random.normal(size=(160, 40))
    rated = Rated([], groups, of_group)
    assert max(cross_validated(x, rated, 1.0)) < 0.3
    weight, bias = ridge(x, of_group, 1.0)
    assert min(correlations(x @ weight.T + bias, of_group)) > 0.9


@pytest.mark.parametrize(
    "rows, said",
    [
        ("a.png,3,4,x\n", "1 groups"),
        ("gone.png,3,4,x\n", "line 2: there is no picture 'gone.png'"),
        ("a.png,8,4,x\n", "line 2: a rating of .* outside of 1 to 7"),
        ("a.png,nan,4,x\n", "outside of 1 to 7"),
        ("a.png,high,4,x\n", "line 2: a rating is not a number"),
    ],
)
def test_bad_ratings_get_a_sentence(tmp_path, rows, said):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "r.csv").write_text(HEADER + rows)
    with pytest.raises(UserError, match=said):
        read_ratings(tmp_path, tmp_path / "r.csv", COLUMNS, (1.0, 7.0))


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "r.csv").write_text("file,valence,arousal_mean,theme\n")
    with pytest.raises(UserError, match="no column 'valence_mean'"):
        read_ratings(tmp_path, tmp_path / "r.csv", COLUMNS, (1.0, 7.0))


def test_themes_are_split_by_their_names():
    rated = Rated([None] * 40, [f"t{i}" for i in range(40)], np.zeros((40, 2)))
    parts = [rated.chosen(digits) for digits in ("0123", "456789", "abcdef")]
    assert sum(len(p.groups) for p in parts) == 40
    assert all(hashlib.sha256(g.encode()).hexdigest()[-1] in "0123" for g in parts[0].groups)


@pytest.mark.parametrize("name", ["photo", "photo-lite2"])
def test_the_bundled_heads_judge_photographs(name):
    assert name in names()
    if efficientnet.weights_file("efficientnet-lite2") is None:
        pytest.skip("the extra photo is not installed")
    judge = load_classifier(name)
    cat = torch.from_numpy(np.ascontiguousarray(chelsea())).movedim(-1, 0)[None].float() / 255
    image = cat.clone().requires_grad_(True)
    logits = judge(image)
    assert logits.shape == (1, 8)
    logits[0, 6].backward()
    assert float(image.grad.abs().sum()) > 0
    valence, arousal = judge.points(cat)[0].tolist()
    assert 0.4 < valence < 0.9 and 0.2 < arousal < 0.8  # a calm cat
    nearest = min(MIKELS, key=lambda e: np.hypot(*(np.array(EmotionTarget.of(e).vad[:2]) - (valence, arousal))))
    assert MIKELS[int(logits.argmax())] == nearest


def test_a_heads_card_says_where_its_ratings_come_from():
    from comfyui_affect.models import bundled
    from comfyui_affect.models.files import load_safetensors

    for name in ("va-lite0", "va-lite2"):
        _, metadata = load_safetensors(bundled.path(name))
        assert "OASIS" in json.loads(metadata["note"]) and json.loads(metadata["r_test"])["arousal"] > 0.4


@pytest.fixture
def photographs(tmp_path):
    if not efficientnet.weights_file("efficientnet-lite0"):
        pytest.skip("EfficientNet-Lite0 is not installed")
    from skimage.data import chelsea, coffee

    cut = [np.ascontiguousarray(picture()[:288, :400]) for picture in (chelsea, coffee)]
    with host.use(EmbeddedHost(tmp_path / "input", tmp_path / "output", tmp_path / "models")):
        yield torch.from_numpy(np.stack(cut)).float() / 255


def test_the_readout_draws_the_plane_beside_the_bars(photographs):
    chart, said = NODE_CLASS_MAPPINGS["AffectEmotionReadout"]().run(photographs, load_classifier("photo"))
    bars, _ = NODE_CLASS_MAPPINGS["AffectEmotionReadout"]().run(photographs, load_classifier("tiny-b"))
    assert chart.shape[:2] == bars.shape[:2] and chart.shape[2] == bars.shape[2] + bars.shape[1]
    assert not torch.equal(chart[0, :, bars.shape[2] :], chart[1, :, bars.shape[2] :])
    points = load_classifier("photo").points(photographs.movedim(-1, 1))
    for row, point in zip(json.loads(said), points.tolist()):
        assert (row["valence"], row["arousal"]) == tuple(round(v, 4) for v in point)


def test_metrics_give_valence_and_arousal_before_and_after_without_an_emotion(photographs, capsys):
    dark = photographs * 0.3
    told = NODE_CLASS_MAPPINGS["AffectEditMetrics"]().run(photographs, dark, classifier=load_classifier("photo"))[0]
    head = load_classifier("photo")
    before, after = (head.points(x.movedim(-1, 1)) for x in (photographs, dark))
    for row, x, y in zip(json.loads(told), before, after):
        for axis, name in enumerate(("valence", "arousal")):
            assert row[name] == pytest.approx(float(y[axis]), abs=1e-4)
            assert row[f"{name}_change"] == pytest.approx(float(y[axis] - x[axis]), abs=1e-4) and row[f"{name}_change"]
    assert "no effect" not in capsys.readouterr().err
