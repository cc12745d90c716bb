"""The one training loop: every trainer hands it a module, a loss and batches.

On Hugging Face accelerate: mixed precision, several processes, any device. Batches and every random draw inside a
step are functions of (seed, step) alone, so a run that was stopped goes on to exactly the weights of a run that
never was, with no data loader state to save.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..models.errors import UserError
from ..models.files import write_atomically
from .config import read
from .muon import Muon

Losses = dict[str, torch.Tensor]
"""Named scalars; their "loss" is what is minimised."""


@dataclass
class LoopConfig:
    """What a run is. `minutes` bounds its wall time: the learning rate follows the larger of the two progresses,
    so that a run ends well either way (a run bounded by time is not reproducible to the bit; steps are).
    optimizer: "adamw", or "muon" for the kernels and matrices between the first layer and the last."""

    steps: int
    batch: int
    optimizer: str = "adamw"
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.0
    grad_clip: float = 1.0
    precision: str = "no"  # accelerate's: no, fp16, bf16
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000
    minutes: float = 0.0


def split(table: dict[str, Any], cls: type, stage: str) -> tuple[Any, LoopConfig]:
    """A stage's table as (its own config, the loop's). UserError for a key that neither knows."""
    loop = set(LoopConfig.__dataclass_fields__)
    own = {k: v for k, v in table.items() if k not in loop}
    return read(cls, own, f"[{stage}]"), read(LoopConfig, {k: v for k, v in table.items() if k in loop}, f"[{stage}]")


def learning_rate(config: LoopConfig, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine to 2 % of lr at progress 1."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return config.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizer(module: nn.Module, config: LoopConfig, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of a config over a module's parameters. UserError for one that is unknown."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if config.optimizer == "muon":
        ends = ("conv_in.", "conv_out.")
        inner = [p for name, p in trained if p.ndim > 1 and not name.startswith(ends)]
        rest = [p for name, p in trained if p.ndim <= 1 or name.startswith(ends)]
        return Muon(inner, rest, config.lr, weight_decay=config.weight_decay)
    if config.optimizer != "adamw":
        raise UserError(f"There is no optimizer '{config.optimizer}' here. Choose adamw or muon.")
    kept = lambda name, p: p.ndim <= 1 or name.endswith("positional_embedding")  # a place says where, not how much
    decayed, plain = [p for name, p in trained if not kept(name, p)], [p for name, p in trained if kept(name, p)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr,
        betas=(0.9, 0.99),
        fused=fused,
    )


Trained = TypeVar("Trained", bound=nn.Module)


def fit(
    module: Trained,
    loss: Callable[[Trained, Any, int], Losses],
    batches: Callable[[int], Any],
    config: LoopConfig,
    out: Path,
    label: str,
    *given: Any,
) -> Trained:
    """Trains `module` and returns it with the averaged weights where `ema` is on, else its own.

    loss     (module, batch, step) -> named losses
    batches  step -> batch, a pure function of the step
    out      folder for checkpoint.pt, log.jsonl and TensorBoard's events; training resumes from it
    given    what else decides the weights that come out (configs, data, other models' weights), as `digest` takes it

    UserError where `out` holds a training that was given something else: its weights would pass for this one's.
    """
    from accelerate import Accelerator, PartialState
    from tqdm import tqdm

    accelerator = Accelerator(mixed_precision=config.precision, cpu=PartialState().device.type == "cpu")
    out.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(module, config, fused=accelerator.device.type == "cuda")
    # Copied before accelerate wraps the forward: a copied wrapper would call the original.
    average = copy.deepcopy(module).to(accelerator.device).requires_grad_(False) if config.ema else None
    model, optimizer = accelerator.prepare(module, optimizer)

    checkpoint = out / "checkpoint.pt"
    start, elapsed = 0, 0.0
    known = digest(replace(config, log_every=0, save_every=0), *given)
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        if state.get("given") != known:
            raise UserError(
                f"{out} holds a training of other settings, data or models. Delete that folder to train anew, or name "
                "another one with --runs."
            )
        accelerator.unwrap_model(model).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        start, elapsed = state["step"], state["elapsed"]

    def save(step: int) -> None:
        if accelerator.is_main_process:
            state = {
                "model": accelerator.unwrap_model(model).state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.state_dict() if average is not None else {},
                "step": step,
                "elapsed": elapsed + time.monotonic() - began,
                "given": known,
            }
            write_atomically(checkpoint, lambda p: torch.save(state, p))

    began = time.monotonic()
    log = _Log(out, accelerator.is_main_process)
    bar = tqdm(total=config.steps, initial=start, desc=label, disable=not accelerator.is_main_process, mininterval=2)
    model.train()
    step = start
    for step in range(start, config.steps):
        minutes = (elapsed + time.monotonic() - began) / 60
        progress = max(step / config.steps, minutes / config.minutes if config.minutes else 0.0)
        if progress >= 1.0:
            break
        # Every random draw of a step comes from (seed, step, process), whatever was drawn before.
        torch.manual_seed(hash((config.seed, step, accelerator.process_index)) % 2**63)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, progress)
        with accelerator.autocast():
            losses = loss(model, batches(step), step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["loss"])
        if config.grad_clip:
            accelerator.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        if average is not None:
            _average(average, accelerator.unwrap_model(model), min(config.ema, (1 + step) / (10 + step)))
        if step % config.log_every == 0:
            values = {k: float(v.detach()) for k, v in losses.items()}
            if not math.isfinite(values["loss"]):
                raise RuntimeError(f"{label}: the loss is {values['loss']} at step {step}; lower the learning rate.")
            log.write(step, values)
            bar.set_postfix({k: f"{v:.4f}" for k, v in values.items()})
        if (step + 1) % config.save_every == 0:
            save(step + 1)
        bar.update()
    else:
        step = config.steps
    bar.close()
    save(step)
    log.close()
    return average if average is not None else accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def on_device(device: str) -> Any:
    """accelerate's state of this process on a device of that name: the first call decides, and without it a machine
    with a GPU would train there whatever was asked for."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu")


def digest(*things: Any) -> str:
    """Twelve hex digits of what a training is given: tensors by shape and some thousand of their values, modules by
    their weights, anything else by its text."""
    found = hashlib.sha256()
    for thing in things:
        if not isinstance(thing, (nn.Module, torch.Tensor)):
            found.update(repr(thing).encode())
            continue
        for tensor in [thing] if isinstance(thing, torch.Tensor) else thing.state_dict().values():
            flat = tensor.detach().flatten()
            found.update(
                str(tuple(tensor.shape)).encode() + flat[:: max(1, len(flat) // 4096)].cpu().double().numpy().tobytes()
            )
    return found.hexdigest()[:12]


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)
    for a, b in zip(average.buffers(), model.buffers()):
        a.copy_(b)


class _Log:
    """One JSON line a logged step, and the same for TensorBoard where it is installed."""

    def __init__(self, out: Path, active: bool):
        self.active, self.writer = active, None
        if active:
            self.file = (out / "log.jsonl").open("a", encoding="utf-8")
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self.writer = SummaryWriter(str(out))

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.active:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            if self.writer:
                for name, value in values.items():
                    self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.active:
            self.file.close()
            if self.writer:
                self.writer.close()
