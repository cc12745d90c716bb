"""The templates in ComfyUI's own frontend, in a headless Chromium: no node is missing, no widget is broken, and what
the frontend exports for the API is what our conversion gives."""

import json
import os
import shutil
import time
from pathlib import Path

import frontend
import pytest
from comfyui_affect import workflows
from comfyui_affect.models import host
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.host import EmbeddedHost

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

TEMPLATES = sorted(Path(workflows.__file__).parent.glob("*.json"))

LOAD = """
const [workflow, done] = arguments;
(async () => {
  await app.loadGraphData(workflow);
  const exported = await app.graphToPrompt();
  const nodes = app.graph._nodes.map(n => ({
    id: String(n.id), type: n.type, known: n.type in LiteGraph.registered_node_types,
    widgets: (n.widgets || []).filter(w => w.options?.values instanceof Array)
      .map(w => ({name: w.name, fits: w.options.values.includes(w.value)}))}));
  return {prompt: exported.output, nodes};
})().then(done, error => done({error: String(error)}));
"""


@pytest.fixture(scope="module")
def browser(comfy):
    with frontend.browser(comfy) as page:
        yield page.driver


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_the_frontend_opens_a_template_and_exports_what_we_convert(comfy, browser, path, tmp_path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    shown = browser.execute_async_script(LOAD, workflow)
    assert "error" not in shown, shown
    browser.execute_script("app.canvas.ds.reset(); app.canvas.fitViewToSelectionAnimated?.()")
    time.sleep(1)
    picture = os.environ.get("AFFECT_SCREENSHOTS")
    if picture:
        browser.save_screenshot(str(Path(picture) / f"{path.stem}.png"))
    alerts = browser.execute_script("return [...document.querySelectorAll('.p-toast-message')].map(m => m.innerText)")
    assert not alerts
    missing = [n["type"] for n in shown["nodes"] if not n["known"]]
    broken = [(n["type"], w["name"]) for n in shown["nodes"] for w in n["widgets"] if not w["fits"]]
    assert not missing and not broken
    with host.use(EmbeddedHost(tmp_path, tmp_path)):
        ours = convert(workflow, comfy.registry).prompt
    for node in shown["prompt"].values():  # the frontend shows PreviewAny's text in a widget that is no input of it
        declared = comfy.registry.get(node["class_type"]).inputs()
        node["inputs"] = {k: v for k, v in node["inputs"].items() if k in declared}
        node["_meta"] = {"title": node["_meta"]["title"]}  # a newer one also says which pack the node comes from
    assert ours == shown["prompt"]


FROZEN = Path(__file__).parent.parent / "frozen"
OLDER = ("retrieve_and_transfer", "emolat_eight_emotions", "transfer_own_reference")


@pytest.mark.parametrize("name", OLDER)
def test_an_input_that_a_saved_workflow_lacks_runs_as_before(comfy, browser, name):
    workflow = json.loads((FROZEN / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = json.loads((FROZEN / "prompts.json").read_text(encoding="utf-8"))[name]
    values = lambda shown: {
        key: node["inputs"]["surface"] for key, node in shown["prompt"].items() if "surface" in node["inputs"]
    }
    saved = values(browser.execute_async_script(LOAD, workflow))
    assert saved and set(saved.values()) == {"pixels"}
    script = LOAD.replace("app.loadGraphData(workflow)", "app.loadApiJson(workflow, 'older')")
    by_prompt = values(browser.execute_async_script(script, prompt))
    assert by_prompt == saved
    added = browser.execute_script(
        "return LiteGraph.createNode('AffectEmoLatTransfer').widgets.find(w => w.name === 'surface').value"
    )
    assert added == "auto"
