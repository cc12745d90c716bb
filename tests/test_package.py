"""The house: what is installed, what starts fast, and that the nodes keep their contract."""

import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import comfyui_affect
import pytest
from comfyui_affect.models.emotions import MIKELS
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
    found = {
        ".".join(("comfyui_affect", *p.parent.relative_to(ROOT).parts))
        for p in ROOT.rglob("__init__.py")
        if not {".venv", "build", "tests"} & set(p.relative_to(ROOT).parts)
    }
    assert found <= listed


def test_the_version_of_the_distribution_is_the_package_s():
    """ComfyUI's registry and ComfyUI-Manager read it in pyproject.toml, where it is text and runs no code."""
    assert _pyproject()["project"]["version"] == comfyui_affect.__version__


def test_requirements_leave_other_packages_alone():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines and all(">=" in line for line in lines)
    assert not {line.split(">=")[0] for line in lines} & {"torch", "torchvision", "torchaudio", "transformers"}


def test_names_that_the_readme_of_0_1_imported_are_still_there():
    from comfyui_affect.models.classifiers import load_classifier
    from comfyui_affect.models.diffusion import diffusers
    from comfyui_affect.models.muse import muse_guider
    from comfyui_affect.models.networks import classifiers, scorers
    from comfyui_affect.models.scorers import load_scorer

    assert (load_classifier, load_scorer) == (classifiers.load_classifier, scorers.load_scorer)
    assert diffusers.MuseGuider is muse_guider
    with pytest.raises(AttributeError, match="has no attribute 'MuseGuide'"):
        _ = diffusers.MuseGuide


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, comfyui_affect; heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'open_clip', "
        "'torchvision', 'matplotlib', 'skimage'} & set(sys.modules); sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


def test_it_loads_as_a_custom_node_folder():
    """ComfyUI loads the folder under a name of its own, with a top-level module named nodes in the way."""
    code = (
        f"import sys, types, importlib.util; sys.modules['nodes'] = types.ModuleType('nodes');"
        f"spec = importlib.util.spec_from_file_location('pack_xyz', r'{ROOT / '__init__.py'}', "
        f"submodule_search_locations=[r'{ROOT}']); m = importlib.util.module_from_spec(spec);"
        "sys.modules['pack_xyz'] = m; spec.loader.exec_module(m);"
        "assert m.NODE_CLASS_MAPPINGS and m.WEB_DIRECTORY; [c.INPUT_TYPES() for c in m.NODE_CLASS_MAPPINGS.values()]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


# DESIGN's table, which shared workflows depend on: key -> (display name, inputs in order, outputs). An input is a
# socket, or a widget with its default; a choice is a list of what must be among its values.
_MUSE = {
    "model": "MODEL",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "vae": "VAE",
    "emotion": "AFFECT_EMOTION",
    "classifier": "AFFECT_EMOTION_CLASSIFIER",
    "cfg": ("FLOAT", 7.5),
    "n_tokens": ("INT", 4),
    "learning_rate": ("FLOAT", 0.01),
    "max_inner_steps": ("INT", 20),
    "stop_loss": ("FLOAT", 0.0001),
    "inherent_weight": ("FLOAT", 0.0005),
    "similar_weight": ("FLOAT", 0.0015),
    "seed": ("INT", 0),
}
_MUSE_OPTIONAL = {"timing_gate": "AFFECT_TIMING_GATE", "init_tokens": "AFFECT_EMOTION_TOKENS"}
CONTRACT = {
    "AffectEmotion": ("Emotion", {"emotion": [*MIKELS, "joy", "grief"], "intensity": ("FLOAT", 1.0)}, "AFFECT_EMOTION"),
    "AffectEmotionMix": (
        "Emotion Mix",
        {"emotion_a": "AFFECT_EMOTION", "emotion_b": "AFFECT_EMOTION", "balance": ("FLOAT", 0.5)},
        "AFFECT_EMOTION",
    ),
    "AffectEmotionVAD": (
        "Emotion from Valence-Arousal-Dominance",
        {"valence": ("FLOAT", 0.5), "arousal": ("FLOAT", 0.5), "dominance": ("FLOAT", 0.5)},
        "AFFECT_EMOTION",
    ),
    "AffectEmotionFromText": ("Emotion from Text", {"text": "STRING"}, "AFFECT_EMOTION"),
    "AffectEmotionClassifierLoader": (
        "Load Emotion Classifier",
        {
            "classifier": ["tiny-a", "tiny-b", "tiny-c", "clip-zero-shot", "photo", "photo-lite2"],
            "clip_model": ["tiny"],
        },
        "AFFECT_EMOTION_CLASSIFIER",
    ),
    "AffectEmotionReadout": (
        "Emotion Readout",
        {"image": "IMAGE", "classifier": "AFFECT_EMOTION_CLASSIFIER"},
        "IMAGE STRING",
    ),
    "AffectTinyModelLoader": ("Load Tiny Demo Model", {}, "MODEL CLIP VAE"),
    "AffectExampleImage": ("Load Example Image", {"picture": ["scene", "coffee"]}, "IMAGE"),
    "AffectClipScorerLoader": ("Load CLIP Scorer", {"model": ["tiny", "ViT-L-14:openai"]}, "AFFECT_CLIP_SCORER"),
    "AffectClipTimingGate": (
        "CLIP Timing Gate",
        {
            "clip_scorer": "AFFECT_CLIP_SCORER",
            "prompt": "STRING",
            "threshold": ("FLOAT", 18.0),
            "estimate": ["one_step", "full"],
            "force_open_at": ("FLOAT", 1.0),
        },
        "AFFECT_TIMING_GATE",
    ),
    "AffectEmotionTokenOptimizer": ("Emotion Token Optimizer", _MUSE | _MUSE_OPTIONAL, "GUIDER"),
    "AffectEmotionTrace": (
        "Emotion Trace",
        {"guider": "GUIDER", "latent": "LATENT"},
        "IMAGE STRING AFFECT_EMOTION_TOKENS",
    ),
    "AffectEmotionSampler": (
        "Emotion Sampler",
        _MUSE
        | {
            "latent_image": "LATENT",
            "steps": ("INT", 20),
            "sampler_name": ["euler"],
            "scheduler": ["normal", "karras"],
            "denoise": ("FLOAT", 1.0),
            "add_noise": ("BOOLEAN", True),
        }
        | _MUSE_OPTIONAL,
        "LATENT IMAGE AFFECT_EMOTION_TOKENS",
    ),
    "AffectDDIMInversion": (
        "DDIM Inversion",
        {"model": "MODEL", "positive": "CONDITIONING", "latent_image": "LATENT", "steps": ("INT", 20)},
        "LATENT NOISE",
    ),
    "AffectSaveEmotionTokens": ("Save Emotion Tokens", {"tokens": "AFFECT_EMOTION_TOKENS", "name": "STRING"}, ""),
    "AffectLoadEmotionTokens": ("Load Emotion Tokens", {"name": "STRING"}, "AFFECT_EMOTION_TOKENS"),
    "AffectApplyEmotionTokens": (
        "Apply Emotion Tokens",
        {"conditioning": "CONDITIONING", "tokens": "AFFECT_EMOTION_TOKENS"},
        "CONDITIONING",
    ),
    "AffectReferenceGallery": ("Load Reference Gallery", {"folder": "STRING"}, "AFFECT_REFERENCE_GALLERY"),
    "AffectSSIMReferenceRetriever": (
        "SSIM Reference Retriever",
        {
            "image": "IMAGE",
            "gallery": "AFFECT_REFERENCE_GALLERY",
            "noun": "STRING",
            "k": ("INT", 1),
            "emotion": "AFFECT_EMOTION",
            "adjective": "STRING",
        },
        "IMAGE STRING",
    ),
    "AffectDenseNetGramTransfer": (
        "DenseNet Gram Transfer",
        {
            "image": "IMAGE",
            "reference": "IMAGE",
            "iterations": ("INT", 500),
            "content_weight": ("FLOAT", 1.0),
            "sentiment_weight": ("FLOAT", 1e6),
            "seed": ("INT", 0),
            "mask": "MASK",
            "surface": ["auto", "photograph", "pixels"],
        },
        "IMAGE IMAGE AFFECT_GRADE",
    ),
    "AffectGradeFit": (
        "Grade from Edit",
        {
            "image": "IMAGE",
            "edited": "IMAGE",
            "detail": ("FLOAT", 0.5),
            "align": ("BOOLEAN", True),
            "mask": "MASK",
        },
        "IMAGE AFFECT_GRADE IMAGE STRING",
    ),
    "AffectGradeApply": (
        "Apply Grade",
        {"image": "IMAGE", "grade": "AFFECT_GRADE", "strength": ("FLOAT", 1.0), "mask": "MASK"},
        "IMAGE",
    ),
    "AffectGradeSave": ("Save Grade", {"grade": "AFFECT_GRADE", "name": "STRING", "format": ["local", "cube"]}, ""),
    "AffectGradeLoad": ("Load Grade", {"name": "STRING"}, "AFFECT_GRADE"),
    "AffectEmoLatLoader": ("Load EmoLat", {"model": ["tiny"]}, "AFFECT_EMOLAT"),
    "AffectEmoLatCodebookSampler": (
        "EmoLat Codebook Sampler",
        {
            "emolat": "AFFECT_EMOLAT",
            "emotion": "AFFECT_EMOTION",
            "n_codes": ("INT", 1),
            "temperature": ("FLOAT", 1.0),
            "seed": ("INT", 0),
        },
        "AFFECT_EMOLAT_CODE",
    ),
    "AffectEmoLatTransfer": (
        "EmoLat Transfer",
        {
            "emolat": "AFFECT_EMOLAT",
            "image": "IMAGE",
            "code": "AFFECT_EMOLAT_CODE",
            "text": "STRING",
            "strength": ("FLOAT", 1.0),
            "mask": "MASK",
            "surface": ["auto", "photograph", "pixels"],
        },
        "IMAGE AFFECT_GRADE",
    ),
    "AffectMLLMLoader": (
        "Load MLLM",
        {"provider": ["rules", "openai-compatible", "transformers"], "model": "STRING", "base_url": "STRING"},
        "AFFECT_MLLM",
    ),
    "AffectMLLMMaskGenerator": (
        "MLLM Mask Generator",
        {
            "image": "IMAGE",
            "emotion": "AFFECT_EMOTION",
            "mllm": "AFFECT_MLLM",
            "objects": ("STRING", ""),
            "grounding": ["attention", "clipseg", "boxes", "saliency"],
            "feather": ("INT", 6),
            "model": "MODEL",
            "clip": "CLIP",
            "vae": "VAE",
        },
        "MASK STRING STRING IMAGE STRING",
    ),
    "AffectMoodifyCLIPLoader": ("Load MoodifyCLIP", {"model": ["tiny"]}, "AFFECT_MOODIFY_CLIP AFFECT_CLIP_SCORER"),
    "AffectMoodifyCLIPTextEncode": (
        "MoodifyCLIP Text Encode",
        {"moodify_clip": "AFFECT_MOODIFY_CLIP", "text": "STRING"},
        "CONDITIONING",
    ),
    "AffectAttentionBlendSampler": (
        "Attention-Blend Sampler",
        {
            "model": "MODEL",
            "source": "CONDITIONING",
            "target": "CONDITIONING",
            "latent_image": "LATENT",
            "mask": "MASK",
            "steps": ("INT", 25),
            "cfg": ("FLOAT", 5.0),
            "cross_replace": ("FLOAT", 0.6),
            "seed": ("INT", 0),
        },
        "LATENT",
    ),
    "AffectEditMetrics": (
        "Edit Metrics",
        {
            "image": "IMAGE",
            "edited": "IMAGE",
            "mask": "MASK",
            "emotion": "AFFECT_EMOTION",
            "classifier": "AFFECT_EMOTION_CLASSIFIER",
            "clip_scorer": "AFFECT_CLIP_SCORER",
        },
        "STRING IMAGE",
    ),
    "AffectEmoLatMap": ("EmoLat Map", {"emolat": "AFFECT_EMOLAT", "method": ["t-SNE", "PCA"]}, "IMAGE"),
}


def test_the_contract_names_every_node():
    assert set(CONTRACT) == set(NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize("key", CONTRACT)
def test_node_contract(key):
    name, inputs, outputs = CONTRACT[key]
    node = NODE_CLASS_MAPPINGS[key]
    declared = node.INPUT_TYPES()
    given = declared["required"] | declared.get("optional", {})
    assert name == NODE_DISPLAY_NAME_MAPPINGS[key] and list(node.RETURN_TYPES) == outputs.split()
    assert [i for i in given if i in inputs] == list(inputs)
    assert set(declared["required"]) <= set(inputs), "a new input must be optional: shared workflows lack it"
    for i, wanted in inputs.items():
        kind, options = given[i]
        if isinstance(wanted, list):
            assert isinstance(kind, list) and set(wanted) <= set(kind)
            assert options.get("default", kind[0]) == wanted[0]
        elif isinstance(wanted, tuple):
            assert (kind, options["default"]) == wanted
        else:  # a socket, or a text whose default is no part of the contract
            assert wanted in kind.split(",") and wanted not in ("INT", "FLOAT", "BOOLEAN")


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
    aliases = node.SEARCH_ALIASES  # what else people type into ComfyUI's search
    assert len(aliases) >= 3 and len({a.lower() for a in aliases}) == len(aliases)
    assert NODE_DISPLAY_NAME_MAPPINGS[key].lower() not in [a for a in aliases if len(a.split()) > 1]


def test_the_pack_says_where_it_lives():
    urls = _pyproject()["project"]["urls"]
    assert all(url.startswith("https://") for url in urls.values()) and {
        "Repository",
        "Documentation",
        "Bug Tracker",
    } <= set(urls)


def test_every_socket_type_of_ours_has_a_colour():
    listed = (ROOT / "web" / "sockets.js").read_text(encoding="utf-8")
    kinds = set()
    for node in NODE_CLASS_MAPPINGS.values():
        declared = node.INPUT_TYPES()
        kinds |= {
            kind
            for group in ("required", "optional")
            for kind, *_ in declared.get(group, {}).values()
            if isinstance(kind, str)
        }
        kinds |= set(node.RETURN_TYPES)
    ours = {kind for kind in kinds if kind.startswith("AFFECT_")}
    assert len(ours) >= 10
    for kind in ours:
        assert f'"{kind}": ' in listed if "," in kind else f"  {kind}: " in listed, f"{kind} is drawn grey"


def test_extensions_go_by_the_packs_name():
    scripts = list((ROOT / "web").glob("*.js"))
    name = _pyproject()["project"]["name"]
    assert scripts and all(f'name: "{name}.{script.stem}"' in script.read_text(encoding="utf-8") for script in scripts)


def test_an_error_is_named_without_a_path():
    """ComfyUI heads an error's details with the exception's module, which for a node pack holds the whole path to
    it."""
    from comfyui_affect.models.errors import UserError

    assert UserError.__module__ == "affect"
    error = UserError("The mask is empty.")
    error.node = "3"  # an attribute travels along
    again = pickle.loads(pickle.dumps(error))  # as out of a process pool
    assert type(again) is UserError and again.args == error.args and again.__dict__ == error.__dict__
    assert traceback.format_exception_only(again)[0].startswith("affect.UserError: The mask is empty.")
