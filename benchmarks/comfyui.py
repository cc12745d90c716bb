"""The extension inside a real ComfyUI: start-up time, agreement with the embedded host, interrupt, memory, and what the
guider costs before its gate opens. Everything on the bundled tiny model, in a server that this starts and stops.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..models import pictures
from ..models.errors import UserError
from .comfyui_server import ComfyUI, start, stop
from .figures import SHARE, Figures

SAMPLERS = ("euler", "heun", "dpmpp_2m")
SCHEDULERS = ("normal", "karras", "simple", "sgm_uniform", "exponential")
OPTIONAL = (
    "diffusers",
    "accelerate",
    "matplotlib",
    "open_clip",
    "torchmetrics",
    "piq",
    "lpips",
    "websocket",
    "numba",
    "skimage",
    "sklearn",
    "tensorboard",
)

STEP = "share of a plain step"

LIMITS = {
    "startup": 0.2,
    "startup_without_optional": 0.2,
    "startup_without_any_one": 0.2,
    "interrupt": 2.0,
    "memory_growth": 0.05,
    "pixel_difference": 0.02,
    "closed_gate_overhead": 0.05,
    "off_overhead": 0.05,
}
"""What is promised. Beyond any of them the benchmark ends with exit code 1. (Off, the guider promises nothing at
all: 5 % is what two measurements of one thing differ by here.)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench comfyui`."""
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=os.environ.get("COMFYUI_PATH"),
        metavar="FOLDER",
        help="ComfyUI's folder (default: $COMFYUI_PATH)",
    )
    parser.add_argument(
        "--python",
        default=os.environ.get("COMFYUI_PYTHON", sys.executable),
        help="the Python that has its requirements (default: $COMFYUI_PYTHON, else this one)",
    )
    parser.add_argument("--prompts", type=int, default=100, help="for the memory figure (default: %(default)s)")
    parser.add_argument(
        "--only", choices=("startup", "overhead", "agreement", "interrupt", "memory"), help="one part (default: all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def main(args: argparse.Namespace) -> int:
    """Starts a ComfyUI, measures and stops it. Exit code 1 where a figure is beyond its limit."""
    if not args.comfyui:
        raise UserError("Say where ComfyUI is: --comfyui FOLDER, or the environment variable COMFYUI_PATH.")
    figures = Figures()
    wanted = lambda part: args.only in (None, part)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        if wanted("startup"):
            without = _startup(args, base / "bare", _blocked(base / "bare", OPTIONAL))
            figures.put("startup_without_optional", without, "s")
            without = max(_startup(args, base / name, _blocked(base / name, (name,))) for name in OPTIONAL)
            figures.put("startup_without_any_one", without, "s")
        comfy = start(args.comfyui, args.python, base / "full", packs=[Path(__file__).parent / "comfyui_timing"])
        try:
            figures.put("startup", loading_time(comfy), "s")
            if wanted("overhead"):
                figures.put_all(overhead(comfy, base))
            if wanted("agreement"):
                figures.put_all(agreement(comfy, base))
            if wanted("interrupt"):
                figures.put("interrupt", interrupt(comfy, base), "s")
            if wanted("memory"):
                figures.put_all(memory(comfy, base, args.prompts))
        finally:
            stop(comfy)
    figures.write(args.json, "comfyui", prompts=args.prompts, only=args.only)
    beyond = {name: limit for name, limit in LIMITS.items() if figures.get(name, 0.0) > limit}
    for name, limit in beyond.items():
        print(f"{name} is more than {limit:g} {figures.unit[name]}")
    return int(bool(beyond))


def loading_time(comfy: ComfyUI) -> float:
    """Seconds that ComfyUI's log gives for this extension. UserError where it did not load clean."""
    line = re.search(r"([\d.]+) seconds(.*)ComfyUI-Affect", comfy.log)
    if not line or "FAILED" in line.group(2):
        raise UserError(f"The extension did not load:\n{comfy.log[-2000:]}")
    return float(line.group(1))


def _blocked(base: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """An environment in which packages cannot be imported."""
    (base / "block").mkdir(parents=True)
    (base / "block" / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "found = PathFinder.find_spec\n"
        "PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None: None if name.split('.')[0] in "
        f"{packages!r} else found(name, path, target))\n"
    )
    return {"PYTHONPATH": str(base / "block")}


def _startup(args: argparse.Namespace, base: Path, environment: dict[str, str]) -> float:
    comfy = start(args.comfyui, args.python, base, environment=environment)
    try:
        return loading_time(comfy)
    finally:
        stop(comfy)


def _node(key: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": key, "inputs": inputs}


def _graph(
    seed: int = 1, steps: int = 6, inner: int = 3, intensity: float = 1.0, threshold: float | None = None
) -> dict[str, Any]:
    """The tiny model, guided; with a gate where a threshold is given."""
    prompt = {
        "1": _node("AffectTinyModelLoader"),
        "2": _node("CLIPTextEncode", clip=["1", 1], text="a house by a lake"),
        "3": _node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": _node("AffectEmotion", emotion="fear", intensity=intensity),
        "5": _node("AffectEmotionClassifierLoader", classifier="tiny-a", clip_model="tiny"),
        "6": _node(
            "AffectEmotionTokenOptimizer",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            vae=["1", 2],
            emotion=["4", 0],
            classifier=["5", 0],
            cfg=7.5,
            n_tokens=4,
            learning_rate=0.01,
            max_inner_steps=inner,
            stop_loss=0.0,
            inherent_weight=0.0005,
            similar_weight=0.0015,
            seed=seed,
        ),
        "7": _node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "8": _node("KSamplerSelect", sampler_name="euler"),
        "9": _node("RandomNoise", noise_seed=seed),
        "10": _node("BasicScheduler", model=["1", 0], scheduler="karras", steps=steps, denoise=1.0),
    }
    if threshold is not None:
        prompt["20"] = _node("AffectClipScorerLoader", model="tiny")
        prompt["21"] = _node(
            "AffectClipTimingGate",
            clip_scorer=["20", 0],
            prompt="a house by a lake",
            threshold=threshold,
            estimate="one_step",
            force_open_at=1.0,
        )
        prompt["6"]["inputs"]["timing_gate"] = ["21", 0]
    return prompt


def _sampled(prompt: dict[str, Any], guider: str = "6", name: str = "affect") -> dict[str, Any]:
    return prompt | {
        "11": _node(
            "SamplerCustomAdvanced",
            noise=["9", 0],
            guider=[guider, 0],
            sampler=["8", 0],
            sigmas=["10", 0],
            latent_image=["7", 0],
        ),
        "12": _node("VAEDecode", samples=["11", 0], vae=["1", 2]),
        "13": _node("SaveImage", images=["12", 0], filename_prefix=name),
    }


def overhead(comfy: ComfyUI, base: Path) -> Figures:
    """What the guider adds to a plain CFGGuider's step: with a gate that stays closed, without the decode and the CLIP
    pass, which are figures of their own; and at intensity 0."""
    prompt = _graph(steps=20, threshold=100.0)
    off = _graph(steps=20, intensity=0.0)
    prompt |= {
        "30": off["4"],
        "31": off["6"],
        "32": _node("CFGGuider", model=["1", 0], positive=["2", 0], negative=["3", 0], cfg=7.5),
    }
    prompt["31"]["inputs"]["emotion"] = ["30", 0]
    prompt["33"] = _node(
        "TimeGuiders",
        plain=["32", 0],
        closed=["6", 0],
        off=["31", 0],
        sampler=["8", 0],
        sigmas=["10", 0],
        latent=["34", 0],
        rounds=15,
    )
    prompt["34"] = _node("VAEEncode", pixels=["35", 0], vae=["1", 2])  # a latent of the model's own channels
    prompt["35"] = _node("EmptyImage", width=128, height=128, batch_size=1, color=0)
    text = next(o["text"] for o in comfy.run(prompt, base) if "text" in o)
    t = json.loads(text)
    figures = Figures()
    closed = (t["closed"] - t["plain"] - t["decode"] - t["clip"]) / t["plain"]
    figures.put("closed_gate_overhead", closed, STEP)
    figures.put("off_overhead", t["off"] / t["plain"] - 1, STEP)
    figures.put("decode_share", t["decode"] / t["plain"], STEP)
    figures.put("clip_share", t["clip"] / t["plain"], STEP)
    figures.put("plain_step_ms", 1000 * t["plain"], "ms")
    return figures


def agreement(comfy: ComfyUI, base: Path) -> Figures:
    """The largest mean absolute pixel difference between ComfyUI and the embedded host, plain and guided, over three
    samplers by every schedule that both have."""
    import numpy as np

    from ..models import host
    from ..workflows.headless.formats.load import Loaded
    from ..workflows.headless.host import EmbeddedHost
    from ..workflows.headless.run import execute, prepare

    worst = {"pixel_difference": 0.0, "pixel_difference_muse": 0.0}
    for sampler in SAMPLERS:
        for scheduler in SCHEDULERS:
            for kind, name in (("pixel_difference", "32"), ("pixel_difference_muse", "6")):
                prompt = _sampled(_graph(seed=3), name)
                if name == "32":
                    del prompt["6"]
                    prompt["32"] = _node("CFGGuider", model=["1", 0], positive=["2", 0], negative=["3", 0], cfg=7.5)
                prompt["8"]["inputs"]["sampler_name"], prompt["10"]["inputs"]["scheduler"] = sampler, scheduler
                by_comfyui = comfy.run(prompt, base / "comfyui")
                with host.use(EmbeddedHost(base, base / "embedded")):
                    by_us = execute(prepare(Loaded(prompt, None)))
                a, b = (np.asarray(pictures.read(o[0]["path"]), dtype=float) / 255 for o in (by_comfyui, by_us))
                worst[kind] = max(worst[kind], float(np.abs(a - b).mean()))
    figures = Figures()
    for kind, difference in worst.items():
        figures.put(kind, difference, "mean absolute, 0..1")
    return figures


def interrupt(comfy: ComfyUI, base: Path) -> float:
    """Seconds from an interrupt during an inner loop to its message; the next prompt must then run."""
    from ..workflows.headless.remote.server import ServerFailed

    asked: list[float] = []

    def ask() -> None:
        asked.append(time.monotonic())
        comfy.server._call("POST", "/interrupt")

    threading.Timer(5.0, ask).start()
    try:
        comfy.run(_sampled(_graph(seed=9, steps=20, inner=1000)), base)
        raise UserError("The long run was over before it could be interrupted.")
    except ServerFailed:
        seconds = time.monotonic() - asked[0]
    comfy.run(_sampled(_graph(seed=10, steps=2, inner=1)), base)
    return seconds


def memory(comfy: ComfyUI, base: Path, prompts: int) -> Figures:
    """How much the server's memory grows from the tenth prompt to the last, as a share."""
    after = {}
    for i in range(1, prompts + 1):
        comfy.run(_sampled(_graph(seed=100 + i, steps=3, inner=2, threshold=-100.0)), base)
        after[i] = comfy.memory()
    figures = Figures()
    figures.put("memory_growth", after[prompts] / after[min(10, prompts)] - 1, SHARE)
    figures.put("memory_gb", after[prompts] / 2**30, "GB")
    return figures
