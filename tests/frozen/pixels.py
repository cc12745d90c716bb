"""Whether the frozen workflows still give the same tensors, bit for bit: record before a change, compare after it.

    python tests/frozen/pixels.py record before.json [NAME ...]
    python tests/frozen/pixels.py compare before.json [NAME ...]

Every tensor that any node of any of the thirteen workflows gives (images, masks, latents) is hashed as it is in memory:
shape, type and bytes. They hold all seven nodes of the design. The picture that they load is scikit-image's cat. The
figures belong to one machine, one version of every library and one number of threads, so that they are no test: it
takes some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a node's output: itself, or what a dictionary (a latent), a list or a tuple holds."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    return hashlib.sha256(f"{tuple(data.shape)} {data.dtype}".encode() + data.numpy().tobytes()).hexdigest()


def hashes(name: str, folder: Path) -> dict[str, str]:
    """{"node.output.number": SHA-256} of one frozen workflow, run in the embedded host."""
    from comfyui_affect.models import host
    from comfyui_affect.workflows.headless.execute import Executor
    from comfyui_affect.workflows.headless.host import EmbeddedHost
    from comfyui_affect.workflows.headless.registry import default_registry
    from comfyui_affect.workflows.headless.run import prepare
    from PIL import Image
    from skimage.data import chelsea

    (folder / "input").mkdir(parents=True)
    Image.fromarray(chelsea()).save(folder / "input" / "example.png")
    with host.use(EmbeddedHost(folder / "input", folder / "output", folder / "models")):
        prompt = prepare(HERE / "workflows" / f"{name}.json").prompt
        results = Executor(default_registry()).run(prompt)
    return {
        f"{node} {prompt[node]['class_type']}.{slot}.{i}": digest(tensor)
        for node, result in results.items()
        for slot, output in enumerate(result.outputs)
        for i, tensor in enumerate(tensors(output))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("names", nargs="*", help="workflows (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.names or sorted(path.stem for path in (HERE / "workflows").glob("*.json"))
    known = json.loads(args.file.read_text()) if args.file.is_file() else {}
    differing = 0
    for name in names:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = hashes(name, Path(folder))
        seconds = time.perf_counter() - start
        if args.what == "record":
            known[name] = found
            args.file.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{name}: {len(found)} tensors recorded in {seconds:.0f} s", flush=True)
            continue
        before = known[name]
        other = sorted(key for key in before.keys() | found.keys() if before.get(key) != found.get(key))
        differing += len(other)
        print(f"{name}: {len(before)} tensors, {len(other)} differ ({seconds:.0f} s)", *other, sep="\n    ", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
