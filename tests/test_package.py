"""The house: what is installed, what starts fast, and that the nodes keep their contract."""

import subprocess
import sys
from pathlib import Path

import pytest

import comfyui_affect
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

ROOT = Path(comfyui_affect.__file__).parent


def _pyproject():
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_folder_is_installed():
    listed = set(_pyproject()["tool"]["setuptools"]["packages"])
    found = {".".join(("comfyui_affect", *p.parent.relative_to(ROOT).parts)) for p in ROOT.rglob("__init__.py")
             if not {".venv", "build", "tests"} & set(p.relative_to(ROOT).parts)}
    assert found <= listed


def test_requirements_leave_other_packages_alone():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines and all(">=" in line for line in lines)
    assert not any(line.startswith("torch") for line in lines)


def test_importing_the_package_imports_nothing_heavy():
    code = ("import sys, comfyui_affect; heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'open_clip', "
            "'torchvision', 'matplotlib', 'skimage'} & set(sys.modules); sys.exit(','.join(sorted(heavy)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


def test_it_loads_as_a_custom_node_folder():
    """ComfyUI loads the folder under a name of its own, with a top-level module named nodes in the way."""
    code = (f"import sys, types, importlib.util; sys.modules['nodes'] = types.ModuleType('nodes');"
            f"spec = importlib.util.spec_from_file_location('pack_xyz', r'{ROOT / '__init__.py'}', "
            f"submodule_search_locations=[r'{ROOT}']); m = importlib.util.module_from_spec(spec);"
            "sys.modules['pack_xyz'] = m; spec.loader.exec_module(m);"
            "assert m.NODE_CLASS_MAPPINGS and m.WEB_DIRECTORY; [c.INPUT_TYPES() for c in m.NODE_CLASS_MAPPINGS.values()]")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


CONTRACT = {  # DESIGN's table: key -> (display name, inputs)
    "AffectEmotion": ("Emotion", ["emotion", "intensity"]),
    "AffectEmotionMix": ("Emotion Mix", ["emotion_a", "emotion_b", "balance"]),
    "AffectEmotionVAD": ("Emotion from Valence-Arousal-Dominance", ["valence", "arousal", "dominance"]),
    "AffectEmotionFromText": ("Emotion from Text", ["text"]),
    "AffectEmotionClassifierLoader": ("Load Emotion Classifier", ["classifier", "clip_model"]),
    "AffectEmotionReadout": ("Emotion Readout", ["image", "classifier"]),
    "AffectTinyModelLoader": ("Load Tiny Demo Model", []),
    "AffectClipScorerLoader": ("Load CLIP Scorer", ["model"]),
    "AffectClipTimingGate": ("CLIP Timing Gate", ["clip_scorer", "prompt", "threshold", "estimate", "force_open_at"]),
    "AffectEmotionTokenOptimizer": ("Emotion Token Optimizer", [
        "model", "positive", "negative", "vae", "emotion", "classifier", "cfg", "n_tokens", "learning_rate",
        "max_inner_steps", "stop_loss", "inherent_weight", "similar_weight", "seed", "timing_gate", "init_tokens"]),
    "AffectEmotionTrace": ("Emotion Trace", ["guider", "latent"]),
    "AffectDDIMInversion": ("DDIM Inversion", ["model", "positive", "latent_image", "steps"]),
    "AffectSaveEmotionTokens": (None, ["tokens", "name"]),
    "AffectLoadEmotionTokens": (None, ["name"]),
    "AffectApplyEmotionTokens": (None, ["conditioning", "tokens"]),
}


@pytest.mark.parametrize("key", CONTRACT)
def test_node_contract(key):
    name, names = CONTRACT[key]
    declared = NODE_CLASS_MAPPINGS[key].INPUT_TYPES()
    inputs = [*declared["required"], *declared.get("optional", {})]
    assert name in (None, NODE_DISPLAY_NAME_MAPPINGS[key])
    assert [i for i in inputs if i in names] == names


@pytest.mark.parametrize("key", NODE_CLASS_MAPPINGS)
def test_nodes_explain_themselves(key):
    node = NODE_CLASS_MAPPINGS[key]
    declared = node.INPUT_TYPES()
    assert node.CATEGORY.startswith("affect/") and len(node.DESCRIPTION) > 20
    assert key in NODE_DISPLAY_NAME_MAPPINGS and hasattr(node, node.FUNCTION)
    for group in ("required", "optional"):
        for name, spec in declared.get(group, {}).items():
            assert spec[1].get("tooltip"), f"{key}.{name} has no tooltip"
    assert len(getattr(node, "OUTPUT_TOOLTIPS", ())) == len(node.RETURN_TYPES)
