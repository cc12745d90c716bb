"""Compares our conversion with ComfyUI's own frontend over a folder of workflows, such as ComfyUI's official templates
(the folder `templates` of the package comfyui-workflow-templates-json).

    python tests/comfyui/corpus.py record TEMPLATES ANSWERS     once: what `app.graphToPrompt()` gives in a headless
    Chromium python tests/comfyui/corpus.py compare TEMPLATES ANSWERS    prints the share of equal prompts, and why
    others differ

`record` starts the ComfyUI of COMFYUI_PATH (its Python from COMFYUI_PYTHON). ANSWERS also holds that server's
/object_info, so that `compare` needs no server. Two prompts are equal where they hold the same nodes with the same
inputs, linked alike; ids, titles and what is there for the browser alone (3D views, players, buttons) do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comfyui_affect.benchmarks.comfyui_server import start, stop
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats import convert as conversion
from comfyui_affect.workflows.headless.formats.text import choose
from comfyui_affect.workflows.headless.registry import FRONTEND_ONLY, Registry
from comfyui_affect.workflows.headless.remote.object_info import registry_of

BROWSER_TYPES = {"LOAD_3D", "LOAD_3D_ADVANCED", "PREVIEW_3D", "IMAGECOMPARE", "AUDIO_UI", "AUDIO_RECORD", "WEBCAM"}
"""Inputs whose values the browser draws or records when the prompt is queued."""

BROWSER_INPUTS = {
    "preview_text",
    "preview_mode",
    "upload 3d model",
    "upload extra resources",
    "clear",
    "refresh",
    "waiting for camera...",
}
"""Buttons and views that the frontend sends along, and that no node declares."""

ASK = """
const [workflow, done] = arguments;
(async () => {
  await app.loadGraphData(workflow);
  const chance = Math.random;
  Math.random = () => 0;  // of {a|b} choices, the first
  try { return JSON.stringify((await app.graphToPrompt()).output); } finally { Math.random = chance; }
})().then(prompt => done({prompt}), error => done({error: String(error)}));
"""


class First(random.Random):
    """Of {a|b} choices, the first."""

    def choice(self, options: Any) -> Any:
        return options[0]


def workflows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, workflow) of the folder's files in the UI format."""
    for path in sorted(folder.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("nodes"), list):
            yield str(path.relative_to(folder)), content


def node_types(workflow: dict[str, Any]) -> set[str]:
    """Node types of a workflow and its subgraphs that a server must know."""
    kinds, subgraphs, graphs = set(), set(), [workflow]
    while graphs:
        graph = graphs.pop()
        kinds |= {node["type"] for node in graph["nodes"]}
        inner = (graph.get("definitions") or {}).get("subgraphs") or []
        subgraphs |= {definition["id"] for definition in inner}
        graphs += inner
    return kinds - subgraphs - FRONTEND_ONLY


# -- the frontend's answers
# ----------------------------------------------------------------------------------------------------------


def record(folder: Path, answers: Path) -> None:
    """Asks the frontend about every workflow whose nodes the server knows. What ANSWERS holds already is not asked
    again."""
    base = Path(tempfile.mkdtemp())
    comfy = start(
        Path(os.environ["COMFYUI_PATH"]), os.environ.get("COMFYUI_PYTHON", sys.executable), base, api_nodes=True
    )
    try:
        object_info = comfy.server._json("GET", "/object_info")
        known = json.loads(answers.read_text()) if answers.is_file() else {"answers": {}}
        known["object_info"] = object_info
        waiting = [
            (name, workflow)
            for name, workflow in workflows(folder)
            if name not in known["answers"] and node_types(workflow) <= set(object_info)
        ]
        for first in range(0, len(waiting), 25):  # a page that has seen many workflows grows slow
            browser = open_frontend(comfy.url)
            try:
                for name, workflow in waiting[first : first + 25]:
                    answer = browser.execute_async_script(ASK, workflow)
                    known["answers"][name] = {"prompt": json.loads(answer["prompt"])} if "prompt" in answer else answer
                    print(name, answer.get("error", ""), flush=True)
            finally:
                browser.quit()
                answers.write_text(json.dumps(known))
    finally:
        stop(comfy)
        shutil.rmtree(base, ignore_errors=True)


def open_frontend(url: str) -> Any:
    """A headless Chromium with ComfyUI's frontend, ready."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1800,1100"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    browser.set_script_timeout(90)
    browser.get(url)
    WebDriverWait(browser, 120).until(
        lambda b: b.execute_script(
            "return window.app?.graph && window.LiteGraph?.registered_node_types?.KSampler !== undefined"
        )
    )
    return browser


# -- the comparison
# ------------------------------------------------------------------------------------------------------------------


def compare(folder: Path, answers: Path) -> dict[str, Any]:
    """{"equal": names, "different": {name: differences}, "refused": {name: why}, "slowest": (seconds, name)}."""
    known = json.loads(answers.read_text())
    registry = registry_of(known["object_info"])
    found: dict[str, Any] = {"equal": [], "different": {}, "refused": {}, "slowest": (0.0, "")}
    conversion.choose = lambda text, _: choose(text, First())
    try:
        for name, workflow in workflows(folder):
            answer = known["answers"].get(name)
            if answer is None or not node_types(workflow) <= set(registry.keys()):
                continue
            begun = time.perf_counter()
            try:
                ours = conversion.convert(workflow, registry).prompt
            except UserError as error:
                found["refused"][name] = str(error)
                continue
            found["slowest"] = max(found["slowest"], (time.perf_counter() - begun, name))
            theirs = answer.get("prompt", {})
            if Counter(kinds(ours, registry).values()) == Counter(kinds(theirs, registry).values()):
                found["equal"].append(name)
            else:
                found["different"][name] = list(differences(ours, theirs, registry))
    finally:
        conversion.choose = choose
    return found


def inputs_that_count(node: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """A node's inputs without those for the browser alone, their numbers as JavaScript has them."""
    kind = registry.get(node["class_type"])
    declared = kind.inputs() if kind else {}
    added = {"Preview3D": "image", "SaveGLB": "image"}.get(node["class_type"])
    return {
        name: plain(value)
        for name, value in node["inputs"].items()
        if name not in BROWSER_INPUTS
        and name != added
        and not (name in declared and declared[name].widget_type in BROWSER_TYPES)
    }


def plain(value: Any) -> Any:
    """A value with its numbers as JavaScript has them: one kind, and exact up to 2**53."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(float(value)) if isinstance(value, int) and not isinstance(value, bool) else value


def kinds(prompt: dict[str, Any], registry: Registry) -> dict[str, int]:
    """The kind of each node: its type and its inputs, where a link's is the kind of the node that it comes from. No
    ids are in it."""
    found: dict[str, int] = {}

    def kind_of(node_id: str) -> int:
        if node_id not in found:
            found[node_id] = 0  # a circle ends here
            inputs = [
                (
                    name,
                    (kind_of(value[0]) if value[0] in prompt else None, value[1])
                    if isinstance(value, list)
                    else json.dumps(value, sort_keys=True),
                )
                for name, value in sorted(inputs_that_count(prompt[node_id], registry).items())
            ]
            found[node_id] = hash((prompt[node_id]["class_type"], tuple(inputs)))
        return found[node_id]

    for node_id in prompt:
        kind_of(node_id)
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any], registry: Registry) -> Iterator[str]:
    """What differs, by ids, among the nodes that have no like on the other side. A node to which the frontend has
    given another id stands as one missing and one too many."""
    one, other = kinds(ours, registry), kinds(theirs, registry)
    alone = {i for i, kind in one.items() if kind not in other.values()} | {
        i for i, kind in other.items() if kind not in one.values()
    }
    for node_id in sorted(alone):
        if node_id not in ours or node_id not in theirs:
            whose = "ours" if node_id in ours else "the frontend's"
            yield f"node {node_id} ({(ours.get(node_id) or theirs[node_id])['class_type']}) is in {whose} alone"
            continue
        one, other = (inputs_that_count(prompt[node_id], registry) for prompt in (ours, theirs))
        for name in sorted(set(one) | set(other)):
            if one.get(name, "absent") != other.get(name, "absent"):
                yield (
                    f"node {node_id} ({ours[node_id]['class_type']}), {name}: {str(one.get(name, 'absent'))[:60]!r}, "
                    f"and in the frontend {str(other.get(name, 'absent'))[:60]!r}"
                )


def report(found: dict[str, Any]) -> None:
    for name, why in found["refused"].items():
        print(f"refused    {name}: {why}")
    for name, lines in found["different"].items():
        print(f"different  {name}")
        for line in lines[:8]:
            print(f"           {line}")
    total = len(found["equal"]) + len(found["different"]) + len(found["refused"])
    print(
        f"{len(found['equal'])} of {total} prompts equal the frontend's ({len(found['equal']) / max(total, 1):.1%}); "
        f"{len(found['refused'])} refused; the slowest took {found['slowest'][0]:.2f} s ({found['slowest'][1]})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("record", "compare"))
    parser.add_argument("templates", type=Path)
    parser.add_argument("answers", type=Path)
    args = parser.parse_args()
    if args.do == "record":
        record(args.templates, args.answers)
    else:
        report(compare(args.templates, args.answers))


if __name__ == "__main__":
    main()
