"""The templates in ComfyUI's own frontend, in a headless Chromium: no node is missing, no widget is broken, and what
the frontend exports for the API is what our conversion gives."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from comfyui_affect import workflows
from comfyui_affect.models import host
from comfyui_affect.workflows.headless.convert import convert
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
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1800,1100"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    driver.get(comfy.url)
    WebDriverWait(driver, 120).until(lambda d: d.execute_script(
        "return window.app?.graph && window.LiteGraph?.registered_node_types?.AffectEmotion !== undefined"))
    driver.execute_script("document.querySelectorAll('.p-dialog-close-button').forEach(b => b.click())")
    yield driver
    driver.quit()


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
    assert ours == shown["prompt"]


def test_our_sockets_have_colours_of_their_own(browser):
    colours = browser.execute_script("return Object.entries(LGraphCanvas.link_type_colors).filter(([k]) => k.startsWith('AFFECT_'))")
    assert len(dict(colours)) >= 5 and all(colour.startswith("#") for _, colour in colours)
