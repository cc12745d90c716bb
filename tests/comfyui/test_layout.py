"""The templates on the screen, in the classic canvas and in Nodes 2.0: no node covers another, before a run and
after it, every widget is to be seen, every socket of ours has its colour."""

import json
import os
import shutil
from pathlib import Path

import pytest
from comfyui_affect import workflows
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS
from frontend import RENDERERS, browser, overlaps

pytest.importorskip("selenium", reason="selenium is not installed")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

FOLDER = Path(workflows.__file__).parent
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.json"))
QUICK = [
    "emolat_map",
    "emolat_eight_emotions",
    "moodifier_by_word",
    "transfer_own_reference",
    "photograph_in_emotion",
    "edit_to_source_pixels",
]
"""Seconds each with the tiny models: these are run for real."""
ZOOM = {"eight_emotions": 0.5}
"""Forty-four nodes do not go at the others' 60 %."""


@pytest.fixture(scope="module")
def page(comfy):
    with browser(comfy) as opened:
        yield opened


@pytest.fixture
def drawn(page, renderer):
    """The page in that renderer. Nodes 2.0 was an experiment before frontend 1.40."""
    if renderer == "nodes2" and page.version < (1, 40):
        pytest.skip("this frontend has no Nodes 2.0 yet")
    page.render(renderer)
    return page


def _template(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _keep(page, name: str) -> None:
    folder = os.environ.get("AFFECT_SCREENSHOTS")
    if folder:
        page.save(Path(folder) / f"{name}.png")


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_covers_anything(drawn, renderer, name):
    """As it opens, and with every picture, text and live preview that a run brings."""
    workflow = _template(name)
    drawn.open(workflow)
    _keep(drawn, f"{name}-{renderer}-opened")
    boxes = drawn.boxes()
    assert not overlaps(boxes)
    assert not [widget for widget in drawn.widgets() if not widget[2]]
    if drawn.version >= (1, 40):  # older ones give tabs and sidebar more of the window
        assert drawn.zoom() >= ZOOM.get(name, 0.6)
    _in_groups(boxes, drawn.groups())
    drawn.pretend(workflow)
    _keep(drawn, f"{name}-{renderer}-filled")
    assert not overlaps(drawn.boxes()) and not overlaps(drawn.largest())
    assert not [widget for widget in drawn.widgets() if not widget[2]]


def _in_groups(boxes: dict[str, list[float]], groups: list[tuple[str, list[float]]]) -> None:
    """Groups lie apart, and a node lies in one or outside of all, not across a border."""
    assert not overlaps({str(i): box for i, (_, box) in enumerate(groups)})
    for node, (x, y, w, h) in boxes.items():
        for title, (gx, gy, gw, gh) in groups:
            inside = gx <= x and x + w <= gx + gw and gy <= y and y + h <= gy + gh
            apart = x + w <= gx or gx + gw <= x or y + h <= gy or gy + gh <= y
            assert inside != apart, f"node {node} lies across the border of '{title}'"


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("name", QUICK)
def test_a_run_leaves_room_for_its_results(drawn, renderer, name):
    drawn.open(_template(name))
    drawn.run()
    _keep(drawn, f"{name}-{renderer}-ran")
    assert drawn.script("return [...document.querySelectorAll('.p-toast-message')].map(m => m.innerText)") == []
    assert not overlaps(drawn.boxes()) and not overlaps(drawn.largest())
    assert not [widget for widget in drawn.widgets() if not widget[2]]


@pytest.mark.parametrize("renderer", ["nodes2"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_sockets_are_coloured_in_nodes_2(drawn, renderer, name):
    drawn.open(_template(name))
    sockets = drawn.sockets()
    assert sockets and not [kind for kind, colour in sockets if kind.startswith("AFFECT_") and _grey(colour)]


def _grey(colour: str) -> bool:
    """Whether a colour as the page gives it, "rgb(216, 88, 199)", is one; "none" where a socket was not found."""
    if "(" not in colour:
        return True
    red, green, blue, *_ = (int(float(part)) for part in colour.partition("(")[2].rstrip(")").split(","))
    return max(red, green, blue) - min(red, green, blue) < 16


def test_both_renderers_know_the_colour_of_every_type_of_ours(page):
    """Also where no template has the socket: the classic canvas by its tables, Nodes 2.0 by the page's variables."""
    kinds = set()
    for node in NODE_CLASS_MAPPINGS.values():
        declared = node.INPUT_TYPES()
        kinds |= {
            spec[0]
            for group in ("required", "optional")
            for spec in declared.get(group, {}).values()
            if isinstance(spec[0], str)
        }
        kinds |= set(node.RETURN_TYPES)
    ours = sorted(kind for kind in kinds if kind.startswith("AFFECT_"))
    assert len(ours) >= 10
    tables = page.script(
        "return [app.canvas.default_connection_color_byType, LGraphCanvas.link_type_colors].map(t => ({...t}))"
    )
    sheet = page.script(
        "const s = getComputedStyle(document.documentElement); return Object.fromEntries(arguments[0].map("
        "k => [k, s.getPropertyValue('--color-datatype-' + k).trim()]))",
        sorted({k for kind in ours for k in kind.split(",")}),
    )
    assert all(table[kind].startswith("#") for table in tables for kind in ours) and all(
        value.startswith("#") for value in sheet.values()
    )


def test_a_palette_that_names_a_type_of_ours_wins(page):
    """The frontend sets a palette's colours on the root element and in its tables, and an empty string for what it
    does not name."""
    seen = page.script("""
      const table = LGraphCanvas.link_type_colors, ours = table.AFFECT_EMOTION, root = document.documentElement.style;
      table.AFFECT_EMOTION = ""; const unnamed = table.AFFECT_EMOTION;
      table.AFFECT_EMOTION = "#123456"; root.setProperty("--color-datatype-AFFECT_EMOTION", "#123456");
      const named = [table.AFFECT_EMOTION, getComputedStyle(document.body).getPropertyValue("--color-datatype-AFFECT_EMOTION").trim()];
      table.AFFECT_EMOTION = ours; root.removeProperty("--color-datatype-AFFECT_EMOTION");
      return [ours, unnamed, named];""")
    ours, unnamed, named = seen
    assert unnamed == ours and named == ["#123456", "#123456"]
