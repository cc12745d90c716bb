"""What the benchmarks take for the code of their results."""

from importlib import import_module

import pytest
from comfyui_affect.benchmarks import COMMANDS, clipstyler, dependencies, gram_quality, store
from comfyui_affect.models.errors import UserError

MODEL = """
from __future__ import annotations
from .parts import half, other

SCALE = 2.0

def whole(x: float) -> float:
    "Twice a half."
    return SCALE * half(x)  # so

def unused(x):
    return other(x)
"""
PARTS = """
def half(x):
    return x / 2

def other(x):
    return -x
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes files of a package, and gives the digest of `model:whole` as they then stand."""
    monkeypatch.setattr(dependencies, "PACKAGE", tmp_path)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        dependencies._module.cache_clear()
        return dependencies.digest(["model:whole"])

    yield write
    dependencies._module.cache_clear()


def test_what_changes_no_result_changes_no_digest(package):
    first = package({"model.py": MODEL, "parts.py": PARTS})
    assert package({"model.py": MODEL.replace("Twice", "Two times").replace("so", "thus")}) == first
    assert package({"model.py": MODEL.replace("x: float) -> float", "x)")}) == first
    assert package({"parts.py": PARTS.replace("return -x", "return x")}) == first  # nothing of it is used
    moved = {"folder/inner.py": PARTS, "folder/__init__.py": "from .inner import half, other\n"}
    assert package({**moved, "model.py": MODEL.replace(".parts", ".folder")}) == first
    by_module = MODEL.replace(".parts import half, other", ". import folder").replace("half(x)", "folder.half(x)")
    package({"model.py": by_module})
    assert dependencies.reached(["model:whole"]) == {
        ("model.py", "whole"),
        ("model.py", "SCALE"),
        ("folder/inner.py", "half"),
    }


@pytest.mark.parametrize(
    "file, before, after",
    [("model", "SCALE = 2.0", "SCALE = 3.0"), ("model", "SCALE *", "SCALE +"), ("parts", "x / 2", "x / 3")],
)
def test_what_changes_a_result_changes_the_digest(package, file, before, after):
    first = package({"model.py": MODEL, "parts.py": PARTS})
    text = {"model": MODEL, "parts": PARTS}[file]
    assert before in text
    assert package({f"{file}.py": text.replace(before, after)}) != first


def test_statements_that_bind_no_name_count(package):
    first = package({"model.py": MODEL, "parts.py": PARTS})
    assert package({"parts.py": PARTS + "half.cache = {}\nprint(other(1))\n"}) != first
    assert ("parts.py", "other") in dependencies.reached(["model:whole"])


def test_a_function_that_was_moved_away_is_an_error(package):
    package({"model.py": MODEL, "parts.py": PARTS})
    with pytest.raises(UserError, match=r"'model:moved'.*model\.py defines no moved"):
        dependencies.digest(["model:moved"])
    with pytest.raises(UserError, match=r"'models.gone'.*no module models\.gone"):
        dependencies.digest(["models.gone"])
    with pytest.raises(UserError, match=r"model\.py, line 3, imports half from elsewhere"):
        package({"model.py": MODEL.replace(".parts", ".elsewhere")})
    store.fingerprint.cache_clear()
    with pytest.raises(UserError, match=r"no module models\.gone"):
        store.fingerprint(("models.gone",))


def test_every_benchmark_names_code_that_exists():
    modules = [import_module(f"comfyui_affect.{module}") for module, _ in COMMANDS.values()]
    named = {m.__name__: m.CODE for m in [*modules, store, clipstyler, gram_quality] if hasattr(m, "CODE")}
    assert len(named) >= 8
    for code in named.values():
        assert len(dependencies.reached(code)) > 20


def test_images_of_muse_depend_on_muse_and_not_on_moodifiers_rules():
    files = {file for file, _ in dependencies.reached(store.CODE)}
    assert any("muse" in file for file in files) and any("moodscenes" in file for file in files)
    assert not any(file.startswith("models/moodifier/rules") for file in files)
