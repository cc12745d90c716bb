"""What ComfyUI's own functions make of the same files: LoRA on the same random weights, prompts in the same words.

Not compared is LoKr with Tucker's core: ComfyUI logs an error of torch.kron's for it and leaves the weight as it was.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import ldm
import loras
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.diffusion import checkpoints
from comfyui_affect.models.diffusion.lora import apply_lora
from comfyui_affect.models.diffusion.names import original_names
from comfyui_affect.models.diffusion.text import parse_weights, tokenize
from safetensors.torch import load_file, save_file


def ask(task, **arguments):
    """An answer of `reference.py`, run in ComfyUI's folder by its Python."""
    where = os.environ["COMFYUI_PATH"]
    done = subprocess.run(
        [os.environ.get("COMFYUI_PYTHON", sys.executable), str(Path(__file__).with_name("reference.py"))],
        cwd=where,
        env=os.environ | {"PYTHONPATH": where, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        input=json.dumps({"task": task, **arguments}),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def weights_of(model, text):
    """Every weight under ComfyUI's name."""
    names, found = original_names(model.unet), {}
    for name, module in model.unet.named_modules():
        for kind in ("weight", "bias"):
            if name in names and getattr(module, kind, None) is not None:
                found[f"diffusion_model.{names[name]}.{kind}"] = getattr(module, kind)
    for tower, label in zip(text.towers, text.names):
        for name, place in tower.places():
            found[f"{label}.transformer.text_model.{name}.weight"] = getattr(place.module, place.weight)[place.rows]
    return found


@pytest.mark.parametrize("family, made", [("sd15", loras.every_kind), ("sdxl", loras.of_sdxl)])
@pytest.mark.parametrize("strength", [1.0, 0.6, -0.5])
def test_a_lora_changes_every_weight_as_comfyui_changes_it(tmp_path, family, made, strength):
    checkpoint, file, out = (tmp_path / f"{name}.safetensors" for name in ("checkpoint", "lora", "out"))
    save_file({"sd15": ldm.checkpoint, "sdxl": ldm.sdxl}[family](), checkpoint)
    content = made()
    save_file(dict(content), file)
    model, text, _ = checkpoints.load_checkpoint(checkpoint)
    ours, plain = weights_of(*apply_lora(model, text, file, strength, strength)[:2]), weights_of(model, text)
    answer = ask("lora", checkpoint=str(checkpoint), file=str(file), strength=strength, out=str(out))
    theirs = load_file(out)
    unet = {k for k in theirs if k.startswith("diffusion_model.")}
    assert unet == {k for k in ours if k.startswith("diffusion_model.")}
    changed = 0
    for name in set(ours) & set(theirs):
        assert torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5), name
        changed += not torch.equal(ours[name], plain[name])
    assert changed == answer["patched"]


def random_prompt(rng):
    words = [
        "house",
        "a red lake",
        "(",
        ")",
        "(sky:1.2)",
        "(x:1.)",
        "(y:1e-1)",
        ":",
        "((",
        "))",
        "\\(",
        "\\)",
        "emotional",
        "embedding:one",
        "embedding:two,",
        " , ",
        "(embedding:one:1.3)",
        "extraordinarily unphotogenic",
        "[b]",
        "(a (b:0.5) c:2)",
        "(z:.5)",
        "(:1.1)",
    ]
    return " ".join(rng.choice(words) for _ in range(rng.randrange(1, 60)))


def test_prompts_are_read_as_comfyui_reads_them(tmp_path):
    """Weights, chunks and embeddings, token by token."""
    folder = tmp_path / "models" / "embeddings"
    folder.mkdir(parents=True)
    save_file({"emb_params": torch.randn(3, 8)}, folder / "one.safetensors")
    save_file({"clip_l": torch.randn(8), "clip_g": torch.randn(2, 12)}, folder / "two.safetensors")
    rng = random.Random(0)
    texts = [
        "",
        "a house",
        "unbalanced) (b)",
        "(a (b)",
        "house " * 100,
        "embedding:one",
        "x embedding:two, y",
        *(random_prompt(rng) for _ in range(300)),
    ]
    theirs = ask("prompts", texts=texts, embeddings=str(folder))
    with host.use(host.Host(tmp_path)):
        for text, chunks, weights in zip(texts, theirs["chunks"], theirs["weights"]):
            assert parse_weights(text) == [(t, pytest.approx(w)) for t, w in weights], text
            ours = [[(getattr(t, "vector", t), w) for t, w in chunk] for chunk in tokenize(text)]
            assert [len(c) for c in ours] == [len(c) for c in chunks], text
            for mine, other in zip((x for c in ours for x in c), (x for c in chunks for x in c)):
                token = mine[0].flatten().tolist() if isinstance(mine[0], torch.Tensor) else mine[0]
                assert token == pytest.approx(other[0]) and mine[1] == pytest.approx(other[1]), text
