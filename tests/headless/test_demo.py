"""The demo runs workflows like `affect run`."""

import json

import torch
from comfyui_affect.workflows.headless.commands import demo
from comfyui_affect.workflows.headless.core.images import ImageScale


def test_the_demo_has_as_many_threads_as_run(workspace, affect, scale_prompt, monkeypatch):
    """With another number, sums are taken in another order, and optimised pictures differ."""
    seen, upscale = [], ImageScale.upscale

    def counting(self, **inputs):
        seen.append(torch.get_num_threads())
        return upscale(self, **inputs)

    monkeypatch.setattr(ImageScale, "upscale", counting)
    assert affect("run", scale_prompt).code == 0
    (workspace / "w.json").write_text(json.dumps(scale_prompt))
    (made,) = demo._run(workspace / "w.json", workspace / "input", workspace / "demo", [])
    assert made.is_file() and len(set(seen)) == 1 and len(seen) == 2
    assert made.read_bytes() == (workspace / "output" / "small_00001_.png").read_bytes()
