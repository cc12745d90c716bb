"""Malformed model files of every kind that a node loads."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import ldm
import torch
from comfyui_affect.models import tiny
from fuzz.junk import VALUES, Numbered, damaged, dumps, mutated
from fuzz.sandbox import Sandbox, command
from safetensors.torch import save

_node = lambda key, **inputs: {"class_type": key, "inputs": inputs}


class _Evil:
    """A pickle that would write a file."""

    def __reduce__(self) -> Any:
        return exec, ("open('/tmp/affect-fuzz-evil', 'w').close()",)


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in state.items()}


def _shown(loader: dict[str, Any], *slots: int) -> dict[str, Any]:
    """A prompt that loads and shows outputs of the loader."""
    return {"1": loader, **{str(2 + s): _node("PreviewAny", source=["1", s]) for s in slots}}


@lru_cache(maxsize=1)
def _sound() -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    """kind -> (its path below models, the bytes of a sound file, the prompt that loads it)."""
    torch.manual_seed(0)
    return {**_diffusion_files(), **_affect_files()}


def _diffusion_files() -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    tiny_model = {"0": _node("AffectTinyModelLoader")}
    lora = {
        f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.{k}": torch.randn(*s)
        for k, s in (("lora_down.weight", (4, 64)), ("lora_up.weight", (64, 4)), ("alpha", (1,)))
    }
    files = {"lora_name": "x.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    load_lora = _node("LoraLoader", model=["0", 0], clip=["0", 1], **files)
    return {
        "checkpoint": (
            "checkpoints/x.safetensors",
            save(_contiguous(ldm.checkpoint())),
            _shown(_node("CheckpointLoaderSimple", ckpt_name="x.safetensors"), 0, 1, 2),
        ),
        "vae": (
            "vae/x.safetensors",
            save(_contiguous(ldm.vae())),
            _shown(_node("VAELoader", vae_name="x.safetensors"), 0),
        ),
        "lora": ("loras/x.safetensors", save(lora), tiny_model | _shown(load_lora, 0, 1)),
        "embedding": (
            "embeddings/x.safetensors",
            save({"emb_params": torch.randn(2, 64)}),
            tiny_model | _shown(_node("CLIPTextEncode", clip=["0", 1], text="a house embedding:x"), 0),
        ),
    }


def _affect_files() -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    head = {"fc.weight": torch.randn(8, 768), "fc.bias": torch.randn(8)}
    published_head = io.BytesIO()
    torch.save(head, published_head)
    classifier = lambda file: _shown(_node("AffectEmotionClassifierLoader", classifier=file, clip_model="tiny"), 0)
    moodify = _shown(_node("AffectMoodifyCLIPLoader", model="x"), 0, 1)
    return {
        "head": ("affect/x.safetensors", save(head), classifier("x.safetensors")),
        "published head": ("affect/x.pth", published_head.getvalue(), classifier("x.pth")),
        "emolat": (
            "emolat/x.safetensors",
            tiny.path("emolat").read_bytes(),
            _shown(_node("AffectEmoLatLoader", model="x.safetensors"), 0),
        ),
        "scorer": (
            "open_clip/x.safetensors",
            tiny.path("clip").read_bytes(),
            _shown(_node("AffectClipScorerLoader", model="x.safetensors"), 0),
        ),
        "tokens": ("emotion_tokens/x.safetensors", _tokens(), _shown(_node("AffectLoadEmotionTokens", name="x"), 0)),
        "moodify": ("moodify_clip/x/open_clip_model.safetensors", tiny.path("clip").read_bytes(), moodify),
        "moodify's config": ("moodify_clip/x/open_clip_config.json", json.dumps(MOODIFY_CONFIG).encode(), moodify),
    }


MOODIFY_CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 248, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
}


def _tokens() -> bytes:
    import tempfile

    from comfyui_affect.models.muse import EmotionTokens

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        EmotionTokens(torch.randn(1, 4, 64), "fear").save(path)
        return path.read_bytes()


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header: Any, body: bytes) -> bytes:
    text = dumps(header)
    return struct.pack("<Q", len(text)) + text + body


def _renamed(data: bytes, rng: random.Random) -> bytes:
    """Other names, shapes, types of numbers, offsets."""
    header, body = _parts(data)
    names = [n for n in header if n != "__metadata__"]
    for _ in range(rng.choice([1, 3, 10])):
        name = rng.choice(names)
        entry = header.get(name)
        if not isinstance(entry, dict):
            continue
        how = rng.randrange(7)
        if how == 0:
            header[rng.choice(["x", "", "a.b", "\ud800", name + ".weight", name[::-1], "__metadata__", "k" * 9000])] = (
                header.pop(name)
            )
        elif how == 1:
            entry["shape"] = list(reversed(entry.get("shape") or [1]))
        elif how == 2:
            entry["dtype"] = rng.choice(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "X9", 5, None])
        elif how == 3:
            entry["shape"] = rng.choice([[], [0], [1], [2**40], [-1], ["x"], [1.5], None, [1] * 70, [len(body)]])
        elif how == 4:
            entry["data_offsets"] = rng.choice([[0, 0], [0, 2**62], [5, 1], [-4, 0], [0], None, ["a", "b"], [0, 4]])
        elif how == 5:
            del header[name]
        else:
            header[f"{name}.{rng.randrange(9)}"] = copy.deepcopy(entry)
        names = [n for n in header if n != "__metadata__"] or ["x"]
    return _joined(header, body)


def _spoilt(data: bytes, rng: random.Random) -> bytes:
    """NaN, infinity or huge numbers in a file that is otherwise sound."""
    header, body = _parts(data)
    piece = struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38])) * 64
    where = rng.randrange(max(1, len(body) - len(piece))) // 4 * 4
    return _joined(header, (body[:where] + piece + body[where + len(piece) :])[: len(body)])


def _other(data: bytes, rng: random.Random) -> bytes:
    """Files of other programs."""
    out = io.BytesIO()
    how = rng.randrange(9)
    if how == 0:
        return pickle.dumps(_Evil())
    if how == 1:
        torch.save({"fc.weight": _Evil()}, out)
    elif how == 2:
        torch.save(
            rng.choice(
                [5, [1], {"fc.weight": 5}, {"fc.weight": torch.zeros(3)}, torch.nn.Linear(2, 2), {5: torch.zeros(2)}]
            ),
            out,
        )
    elif how == 3:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("archive/data.pkl", bytes(50_000_000))
    elif how == 4:
        return b"GGUF" + bytes(300)
    elif how == 5:
        return struct.pack("<Q", 2**63) + data[8:]
    elif how == 6:
        n = 400_000
        text = b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(n)) + b"}"
        return struct.pack("<Q", len(text)) + text
    elif how == 7:
        return _joined(rng.choice(VALUES), bytes(8))
    else:
        return bytes(rng.choice([0, 1, 7, 8, 9, 1000]))
    return out.getvalue()


def malformed(data: bytes, rng: random.Random) -> bytes:
    if data[:1] == b"{":  # a configuration
        return dumps(mutated(json.loads(data), rng, 2)) if rng.random() < 0.8 else damaged(data, rng)
    is_safetensors = data[:2] != b"PK"
    ways: list[Callable[[], bytes]] = [lambda: damaged(data, rng), lambda: _other(data, rng)]
    if is_safetensors:
        ways += [lambda: _renamed(data, rng)] * 3 + [
            lambda: _spoilt(data, rng),
            lambda: _joined(mutated(_parts(data)[0], rng, 2), _parts(data)[1]),
        ]
    return rng.choice(ways)()


def set_up(sandbox: Sandbox) -> None:
    _sound()


def case(sandbox: Sandbox, rng: Numbered) -> Any:
    kinds = list(_sound())
    kind = kinds[rng.index % len(kinds)]
    shutil.rmtree(sandbox.root / "models")
    path, data, prompt = _sound()[kind]
    if kind.startswith("moodify"):  # the folder's other file is sound
        for other in ("moodify", "moodify's config"):
            _put(sandbox, *_sound()[other][:2])
    _put(sandbox, path, malformed(data, rng))
    (sandbox.root / "home" / "w.json").write_text(json.dumps(prompt))

    def work() -> str | None:
        message = command(
            "run",
            sandbox.root / "home" / "w.json",
            "--models-dir",
            sandbox.root / "models",
            "--input-dir",
            sandbox.root / "input",
            "--output-dir",
            sandbox.root / "output",
        )
        assert not Path("/tmp/affect-fuzz-evil").exists(), "a pickle ran"
        return message

    return work


def _put(sandbox: Sandbox, name: str, data: bytes) -> None:
    path = sandbox.root / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
