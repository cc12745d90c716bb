"""Patches of other nodes in front of the optimizer."""

import pytest
from graphs import node
from random_graphs import falls, graph, results


def guided(kind, patch):
    """The graph with `patch` between the model and everything else."""
    prompt = graph(kind, **{"50": patch})
    for name in ("4", "7"):
        prompt[name]["inputs"]["model"] = ["50", 0]
    return prompt


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd15-lowvram"])
@pytest.mark.parametrize("which", ["FreeU", "FreeU_V2"])
def test_freeu_writes_into_skips(comfy, tmp_path, kind, which):
    _, before, plain = results(comfy.run(graph(kind), tmp_path))
    trace, after, images = results(
        comfy.run(guided(kind, node(which, model=["1", 0], b1=1.3, b2=1.4, s1=0.9, s2=0.2)), tmp_path)
    )
    assert falls(trace) and images[0].tobytes() != plain[0].tobytes()
    assert after["bits"] == before["bits"] and not after["patched"]


@pytest.mark.parametrize(
    "kind, where",
    [
        *(
            ("sd15", where)
            for where in (
                "attn2_patch",
                "attn2_output_patch",
                "output_block_patch",
                "attn2_replace",
                "wrapper",
                "function wrapper",
            )
        ),
        ("sd15-lowvram", "attn2_patch"),
        ("flux", "wrapper"),
        ("qwen", "double_block"),
    ],
)
def test_patches_that_hold_tensors_of_inference_mode(comfy, tmp_path, kind, where):
    _, before, plain = results(comfy.run(graph(kind), tmp_path))
    trace, after, images = results(comfy.run(guided(kind, node("TensorPatch", model=["1", 0], where=where)), tmp_path))
    assert falls(trace) and images[0].tobytes() != plain[0].tobytes()
    assert after["bits"] == before["bits"] and not after["patched"]
