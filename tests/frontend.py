"""ComfyUI's frontend in a headless Chromium, for tests: a workflow opened in it, and what stands where on the screen.

Boxes are in the graph's own units (pixels at 100 %), each with the node's title bar.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Graph.CanvasInfo": False,
}
RENDERERS = {"classic": False, "nodes2": True}
"""The canvas that draws nodes itself, and Nodes 2.0, where they are elements of the page: `Comfy.VueNodes.Enabled`."""

OPEN = """
const [workflow, done] = arguments;
(async () => {
  const { ds, ...extra } = workflow.extra ?? {};  // opened as a template: fitted to the window, never at a saved view
  await app.loadGraphData({ ...workflow, extra });
})().then(() => done(null), error => done(String(error)));
"""

SWITCH = """
const [enabled, done] = arguments;
app.extensionManager.setting.set("Comfy.VueNodes.Enabled", enabled).then(() => done(null), error => done(String(error)));
"""

# Every node's box, and the largest since the page was last asked to forget it.
BOXES = """
window.affectBoxes = () => {
  const { scale, offset } = app.canvas.ds;
  const canvas = app.canvas.canvas.getBoundingClientRect();
  const boxes = {};
  for (const node of app.graph._nodes) {
    const element = LiteGraph.vueNodesMode ? document.querySelector(`[data-node-id="${node.id}"]`) : null;
    if (LiteGraph.vueNodesMode && !element) continue;
    if (element) {
      const box = element.getBoundingClientRect();
      boxes[node.id] = [(box.left - canvas.left) / scale - offset[0], (box.top - canvas.top) / scale - offset[1],
                        box.width / scale, box.height / scale];
    } else {
      const title = node.title_mode === 1 ? 0 : LiteGraph.NODE_TITLE_HEIGHT;
      boxes[node.id] = [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title];
    }
  }
  return boxes;
};
window.affectLargest = {};
window.affectWatch ??= setInterval(() => {
  for (const [id, box] of Object.entries(window.affectBoxes())) {
    const old = window.affectLargest[id];
    window.affectLargest[id] = old && old[3] > box[3] ? old : box;
  }
}, 100);
"""

# Widgets that a person should see: none that is hidden by its own declaration, by a link, or drawn by the canvas alone.
WIDGETS = """
const hidden = (node, w) => w.hidden || w.options?.hidden || w.options?.canvasOnly || w.type?.startsWith("converted-widget") ||
  w.name.startsWith("$$") || (node.inputs ?? []).some(i => i.widget?.name === w.name && i.link != null);
const found = [];
for (const node of app.graph._nodes) {
  const wanted = (node.widgets ?? []).filter(w => !hidden(node, w));
  if (!LiteGraph.vueNodesMode) {
    for (const w of wanted) {
      const height = w.computedHeight ?? w.computeSize?.(node.size[0])?.[1] ?? LiteGraph.NODE_WIDGET_HEIGHT;
      found.push([node.title, w.name, w.y + height <= node.size[1] + 1 && height >= 18]);
    }
    continue;
  }
  const element = document.querySelector(`[data-node-id="${node.id}"]`);
  const box = element?.getBoundingClientRect();
  const rows = [...(element?.querySelectorAll(".lg-node-widget") ?? [])].map(e => e.getBoundingClientRect());
  const inside = rows.filter(r => r.height > 5 && r.top >= box.top && r.bottom <= box.bottom + 1 && r.right <= box.right + 1);
  found.push([node.title, `${wanted.length} widgets`, inside.length >= wanted.length]);
}
return found;
"""

# In Nodes 2.0 a socket is an element; its colour is what the page makes of it.
SOCKETS = """
const found = [];
for (const node of app.graph._nodes) {
  const element = document.querySelector(`[data-node-id="${node.id}"]`);
  for (const [kind, slots] of [["input", (node.inputs ?? []).filter(i => !i.widget)], ["output", node.outputs ?? []]]) {
    const rows = [...element.querySelectorAll(`.lg-slot--${kind}:not(.lg-slot--dot-only)`)];
    const dots = rows.map(row => row.querySelector(`[data-testid="slot-dot"], .slot-dot`));
    slots.forEach((slot, i) => {
      const dot = dots.filter(Boolean)[i];
      const paint = dot?.querySelector("[fill]");
      found.push([String(slot.type), dot ? getComputedStyle(paint ?? dot)[paint ? "fill" : "backgroundColor"] : "none"]);
    });
  }
}
return found;
"""

# What the server sends during a run, without one: previews, progress texts, pictures and texts of the outputs.
PRETEND = """
const [messages, done] = arguments;
(async () => {
  const api = app.api ?? window.comfyAPI.api.api;
  const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
  const blob = await new Promise(resolve => canvas.toBlob(resolve, "image/jpeg"));
  api.dispatchCustomEvent("execution_start", { prompt_id: "pretended" });
  for (const { node, output, preview, text, notice } of messages) {
    const nodes = { [node]: { node_id: node, display_node_id: node, real_node_id: node, prompt_id: "pretended",
                              state: "running", value: 1, max: 2 } };
    api.dispatchCustomEvent("progress_state", { prompt_id: "pretended", nodes });
    api.dispatchCustomEvent("executing", node);
    if (preview) api.dispatchCustomEvent("b_preview_with_metadata", { blob, nodeId: node, displayNodeId: node, parentNodeId: node,
                                                                      realNodeId: node, jobId: "pretended", promptId: "pretended" });
    if (text) api.dispatchCustomEvent("progress_text", { nodeId: node, text });
    if (notice) api.dispatchEvent(new CustomEvent("affect_notice", { detail: { node, prompt_id: "pretended", text: notice } }));
    if (output) api.dispatchCustomEvent("executed", { node, display_node: node, output, prompt_id: "pretended" });
  }
})().then(() => done(null), error => done(String(error)));
"""

PREVIEWS = (
    "KSampler",
    "SamplerCustomAdvanced",
    "AffectEmotionSampler",
    "AffectAttentionBlendSampler",
    "AffectDDIMInversion",
    "AffectDenseNetGramTransfer",
)
"""Nodes that show what they are at."""
TEXTS = ("SamplerCustomAdvanced", "AffectEmotionSampler")
"""Nodes in which MUSE tells its loss."""
NOTICES = (
    "AffectMLLMMaskGenerator",
    "AffectEmoLatMap",
    "AffectSSIMReferenceRetriever",
    "AffectDenseNetGramTransfer",
)
"""Nodes that have something to say in a template."""

RUN = """
const done = arguments[arguments.length - 1];
const api = app.api ?? window.comfyAPI.api.api;
const ends = ["execution_success", "execution_error", "execution_interrupted"];
const finish = event => { ends.forEach(e => api.removeEventListener(e, finish)); done([event.type, event.detail]); };
ends.forEach(e => api.addEventListener(e, finish));
app.queuePrompt(0).then(() => { if (Object.keys(app.lastNodeErrors ?? {}).length) done(["refused", app.lastNodeErrors]); });
"""


class Page:
    """The frontend in a browser. `driver` is selenium's."""

    def __init__(self, driver: Any):
        self.driver = driver

    def script(self, text: str, *given: Any) -> Any:
        return self.driver.execute_script(text, *given)

    def ask(self, text: str, *given: Any) -> Any:
        """A script that hands its answer to a callback."""
        return self.driver.execute_async_script(text, *given)

    @property
    def version(self) -> tuple[int, ...]:
        """The frontend's version."""
        return tuple(int(part) for part in self.script("return window.__COMFYUI_FRONTEND_VERSION__").split(".")[:3])

    def render(self, renderer: str) -> None:
        """Switches to one of RENDERERS."""
        error = self.ask(SWITCH, RENDERERS[renderer])
        assert error is None, error

    def open(self, workflow: dict[str, Any]) -> None:
        """Opens a workflow as a template is opened and waits until nothing moves any more."""
        error = self.ask(OPEN, workflow)
        assert error is None, error
        self._opened()

    def open_prompt(self, prompt: dict[str, Any]) -> None:
        """Opens a prompt in the API's format; the frontend places the nodes."""
        self.ask(
            "const [prompt, done] = arguments; Promise.resolve(app.loadApiJson(prompt, 'prompt')).then(() => done())",
            prompt,
        )
        self._opened()
        self.script("app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def _opened(self) -> None:
        self.script(BOXES)
        self.settle()
        self.script("window.affectLargest = {}")

    def settle(self, seconds: float = 90.0) -> None:
        """Waits until no box changes and every picture on the page is there."""
        ends, last, same = time.monotonic() + seconds, None, 0
        while same < 4:
            now = (self.boxes(), self.script("return [...document.images].every(i => i.complete)"))
            same = (
                same + 1
                if now == last and now[1] and len(now[0]) == self.script("return app.graph._nodes.length")
                else 0
            )
            last = now
            assert time.monotonic() < ends, "the page does not come to rest"
            time.sleep(0.25)

    def boxes(self) -> dict[str, list[float]]:
        """Node id -> [x, y, width, height] as it is shown now."""
        return self.script("return window.affectBoxes()")

    def largest(self) -> dict[str, list[float]]:
        """As `boxes`, each at the height that it had at most since the workflow was opened: with live previews."""
        return self.script("return window.affectLargest")

    def zoom(self) -> float:
        return self.script("return app.canvas.ds.scale")

    def groups(self) -> list[tuple[str, list[float]]]:
        """(title, [x, y, width, height]) of every group."""
        return self.script("return app.graph._groups.map(g => [g.title, [g.pos[0], g.pos[1], g.size[0], g.size[1]]])")

    def widgets(self) -> list[tuple[str, str, bool]]:
        """(node, widget, whether it is to be seen) of every widget that is meant to be seen; in Nodes 2.0 a line a
        node."""
        return self.script(WIDGETS)

    def sockets(self) -> list[tuple[str, str]]:
        """(type, colour) of every socket in Nodes 2.0."""
        return self.script(SOCKETS)

    def run(self, seconds: float = 600.0) -> None:
        """Queues the workflow as the Run button does and waits for its end. AssertionError where it fails."""
        self.driver.set_script_timeout(seconds)
        kind, told = self.ask(RUN)
        assert kind == "execution_success", (kind, told)
        self.settle()

    def pretend(self, workflow: dict[str, Any]) -> None:
        """Shows what a run would: each node with its pictures, texts and live previews. In an instant, and the same
        everywhere."""
        messages = []
        for node in workflow["nodes"]:
            message = {
                "node": str(node["id"]),
                "preview": node["type"] in PREVIEWS,
                "text": "step 20: emotion 20/20, loss 0.123" if node["type"] in TEXTS else None,
            }
            if node["type"] in ("SaveImage", "PreviewImage"):
                message["output"] = {"images": [{"filename": "example.png", "subfolder": "", "type": "input"}]}
            elif node["type"] == "PreviewAny":
                message["output"] = {"text": ["{" + '\n "awe": 0.5,' * 8 + "\n}"]}
            if node["type"] in NOTICES:
                message["notice"] = (
                    "Nobody checked that the image shows a house and a tree by a lake. Look at the overlay. " * 3
                )
            if len(message) > 3 or message["preview"]:
                messages.append(message)
        error = self.ask(PRETEND, messages)
        assert error is None, error
        self.settle()

    def save(self, path: Path) -> None:
        """A picture of the page."""
        self.driver.save_screenshot(str(path))


def overlaps(boxes: dict[str, list[float]]) -> list[tuple[str, str]]:
    """The pairs of nodes whose boxes overlap by more than a pixel."""
    found = []
    for a, (ax, ay, aw, ah) in boxes.items():
        for b, (bx, by, bw, bh) in boxes.items():
            if int(a) < int(b) and min(ax + aw, bx + bw) - max(ax, bx) > 1 and min(ay + ah, by + bh) - max(ay, by) > 1:
                found.append((a, b))
    return found


@contextmanager
def browser(comfy: Any) -> Iterator[Page]:
    """A page of the running ComfyUI `comfy` in a window of 1800 x 1100."""
    import requests
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    requests.post(f"{comfy.url}/settings", json=SETTINGS, timeout=30).raise_for_status()
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1800,1100"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(180)
        driver.get(comfy.url)
        WebDriverWait(driver, 300).until(
            lambda d: d.execute_script(
                "return window.app?.graph && window.LiteGraph?.registered_node_types?.AffectEmotion !== undefined"
            )
        )
        time.sleep(1)
        driver.execute_script("document.querySelectorAll('.p-dialog-close-button').forEach(b => b.click())")
        yield Page(driver)
    finally:
        driver.quit()
