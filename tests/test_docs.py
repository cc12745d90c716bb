"""The pages: what they link to exists, what they list is what the code has, and their examples run."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import comfyui_affect
import pytest
from comfyui_affect import nodes

ROOT = Path(nodes.__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("web/docs/*.md")])
HELP = ROOT / "web" / "docs"

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="installed without its pages")


def slug(heading):
    """A heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"(?:\]\(|src=\")([^)\s\"]+)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


def defined(path):
    """The names of a file: functions, classes, constants, and methods and fields as CLASS.NAME."""
    names = set()
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
            names |= {
                f"{statement.name}.{inner.name}" for inner in statement.body if isinstance(inner, ast.FunctionDef)
            }
        else:
            names |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def test_architecture_names_functions_that_are_there():
    page = ROOT / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"(`[^`]+`(?:, `[^`]+`)*(?: and `[^`]+`)? in )?\[([^\]]+)\]\((\.\./[^)]+\.py)\)", text)
    checked = 0
    for before, words, target in links:
        names = re.findall(r"`(\w+)`", before) + ([] if "/" in words else re.split(r", ", words))
        path = page.parent / target
        for name in names:
            if name in ("nodes", "benchmarks"):
                continue
            assert name in defined(path), f"{target} defines no {name}"
            checked += 1
    assert checked > 40


def test_nodes_page_is_what_the_nodes_declare():
    spec = importlib.util.spec_from_file_location("make_nodes", ROOT / "docs" / "make_nodes.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.PAGE.read_text(encoding="utf-8") == make.page(), "run python docs/make_nodes.py"
    assert all(key in make.page() for key in nodes.NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize("key", sorted(nodes.NODE_CLASS_MAPPINGS))
def test_every_node_has_a_help_page(key):
    text = (HELP / f"{key}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {nodes.NODE_DISPLAY_NAME_MAPPINGS[key]}\n\n") and len(text.split()) > 15
    declared = nodes.NODE_CLASS_MAPPINGS[key].INPUT_TYPES()
    known = {*declared.get("required", {}), *declared.get("optional", {})}
    known |= set(getattr(nodes.NODE_CLASS_MAPPINGS[key], "RETURN_NAMES", ()))
    others = {name for node in nodes.NODE_CLASS_MAPPINGS.values() for name in every_input(node)}
    for word in re.findall(r"^- \*\*([a-z_]+)\*\*", text, re.MULTILINE):
        assert word in known or word not in others, f"{key} has no input {word}"


def every_input(node):
    declared = node.INPUT_TYPES()
    return {*declared.get("required", {}), *declared.get("optional", {})}


def test_no_help_page_is_of_a_node_that_is_gone():
    assert {path.stem for path in HELP.glob("*.md")} == set(nodes.NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_examples_run(page):
    """With four steps in place of twenty."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "sigma_table, 20)" in example
    names = {}
    exec(example.replace("sigma_table, 20)", "sigma_table, 4)"), names)
    image = names["image"]
    assert image.shape == (1, 3, 128, 128) and 0 <= float(image.min()) < float(image.max()) <= 1
    if page != "README.md":
        assert any(call.inner_steps for call in names["trace"].calls)


def test_published_figures_have_units_and_intervals_around_them():
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    assert len(files) >= 11
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        figures, unit = content["figures"], content["unit"]
        assert content["name"] == file.stem and set(unit) == set(figures)
        for name in figures:
            if name.endswith(".low"):
                assert unit[name] == unit[name.removesuffix(".low")]
                low, high = figures[name], figures[f"{name.removesuffix('.low')}.high"]
                assert None in (low, high) or low <= high, f"{file.name}: {name}"


def test_the_version_is_one():
    version = comfyui_affect.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
