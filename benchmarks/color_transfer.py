"""ComfyUI's own ColorTransfer node on pairs of pictures: run by ComfyUI's Python in its folder, never imported. Reads
[{"inputs": [picture, reference], "method", "out"}] from its input."""

import json
import os
import sys

sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, ".")

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_post_processing import ColorTransfer  # noqa: E402
from PIL import Image  # noqa: E402


def _read(path: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255)[None]


if __name__ == "__main__":
    for job in json.load(sys.stdin):
        source, reference = map(_read, job["inputs"])
        out = ColorTransfer.execute(source, reference, job["method"], {"source_stats": "per_frame"}).args[0]
        Image.fromarray((out[0] * 255).round().clamp(0, 255).byte().numpy()).save(job["out"] + ".part", format="png")
        os.replace(job["out"] + ".part", job["out"])
