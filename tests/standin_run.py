"""Runs the nodes on the stand-in device, in a process of its own: `python standin_run.py [TEMPLATE ...]`. Prints one
line each, and ends with 1 where a node did what such a device refuses."""

from __future__ import annotations

import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import standin
import torch
from comfyui_affect import workflows
from comfyui_affect.models import host
from comfyui_affect.workflows.headless.formats.load import Loaded
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.run import execute, prepare

TEMPLATES = Path(workflows.__file__).parent
SHORT = {"steps": 2, "max_inner_steps": 1, "iterations": 2, "method": "PCA"}
"""What every template is shortened to."""

_node = lambda key, **inputs: {"class_type": key, "inputs": inputs}
JUDGES = {
    "1": _node("LoadImage", image="example.png"),
    "2": _node("AffectExampleImage", picture="scene"),
    "3": _node("ImageScale", image=["1", 0], upscale_method="bilinear", width=64, height=64, crop="center"),
    "4": _node("ImageScale", image=["2", 0], upscale_method="bilinear", width=64, height=64, crop="center"),
    "5": _node("AffectEmotionClassifierLoader", classifier="tiny-a", clip_model="tiny"),
    "6": _node("AffectClipScorerLoader", model="tiny"),
    "7": _node("AffectEmotion", emotion="fear", intensity=1.0),
    "8": _node(
        "AffectEditMetrics",
        image=["3", 0],
        edited=["4", 0],
        emotion=["7", 0],
        classifier=["5", 0],
        clip_scorer=["6", 0],
    ),
    "9": _node("AffectEmotionReadout", image=["3", 0], classifier=["5", 0]),
    "10": _node("PreviewAny", source=["8", 0]),
    "11": _node("PreviewAny", source=["9", 1]),
    "12": _node("AffectEmotionClassifierLoader", classifier="clip-zero-shot", clip_model="tiny"),
    "13": _node("AffectEmotionReadout", image=["3", 0], classifier=["12", 0]),
    "14": _node("PreviewAny", source=["13", 1]),
}


class There(EmbeddedHost):
    device = standin.DEVICE


def refused() -> None:
    """AssertionError where the stand-in lets pass what it must not: else the rest would prove nothing."""
    here, there = torch.ones(4), torch.ones(4, device=standin.DEVICE)
    for deed in (
        lambda: there.double(),
        lambda: torch.ones(2, dtype=torch.float64).to(standin.DEVICE),
        lambda: there + here,
        lambda: torch.zeros(2, dtype=torch.float64, device=standin.DEVICE),
        lambda: torch.tensor([0.5], dtype=torch.float64, device=standin.DEVICE),
        lambda: there.numpy(),
        lambda: torch.linspace(0, 1, 5, device=standin.DEVICE, dtype=torch.float64),
    ):
        try:
            deed()
        except (TypeError, RuntimeError):
            continue
        raise AssertionError("the stand-in refused nothing")
    assert float((there.cpu().double() + 1).sum()) == 8.0


def shortened(prompt: dict[str, Any]) -> dict[str, Any]:
    for node in prompt.values():
        node["inputs"].update(
            {k: v for k, v in SHORT.items() if k in node["inputs"] and not isinstance(node["inputs"][k], list)}
        )
    return prompt


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    bad = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        standin.stand_in(),
        host.use(There(Path(folder, "in"), Path(folder, "out"))),
    ):
        shutil.copytree(TEMPLATES / "examples", Path(folder, "in"))
        refused()
        for name in names:
            try:
                prepared = prepare(Loaded(JUDGES, None) if name == "judges" else TEMPLATES / f"{name}.json")
                shortened(prepared.prompt)
                execute(prepared)
                print(f"{name} ran")
            except Exception:
                bad += 1
                print(f"{name} FAILED\n{traceback.format_exc()[:3000]}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
