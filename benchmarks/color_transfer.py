"""ComfyUI's own ColorTransfer node on pairs of pictures: run by ComfyUI's Python in its folder, never imported. Reads
[{"inputs": [picture, reference], "method", "out"}] from its input, all .npy files of [H, W, 3] in 8 bits."""

import json
import sys

sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, ".")

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_post_processing import ColorTransfer  # noqa: E402


def _tensor(path: str) -> torch.Tensor:
    return torch.from_numpy(np.load(path).astype(np.float32) / 255)[None]


if __name__ == "__main__":
    for job in json.load(sys.stdin):
        source, reference = map(_tensor, job["inputs"])
        out = ColorTransfer.execute(source, reference, job["method"], {"source_stats": "per_frame"}).args[0]
        np.save(job["out"], (out[0] * 255).round().clamp(0, 255).byte().numpy())
