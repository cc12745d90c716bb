"""The embedded host as `protocol.Engine`: diffusers' networks, our own samplers and schedules."""

from __future__ import annotations

from typing import Any

import torch

from ... import host
from ..protocol import Algorithm, Conditioning, Method
from ..sampling import SAMPLERS, SCHEDULES, Sampler, prepare_noise, schedule
from .denoiser import DiffusersModel
from .guider import CFGGuider, MethodGuider


class DiffusersEngine:
    """See `protocol.Engine`."""

    def guider(
        self, model: DiffusersModel, vae: Any, positive: Conditioning, negative: Conditioning, method: Method
    ) -> MethodGuider:
        return MethodGuider(model, vae, positive, negative, method)

    def sample(
        self,
        guider: CFGGuider,
        latent_image: dict[str, Any],
        seed: int,
        sampler_name: str,
        scheduler: str,
        steps: int,
        denoise: float,
        add_noise: bool,
    ) -> dict[str, Any]:
        latent = guider.model.fit_empty(latent_image["samples"])
        noise = prepare_noise(latent, seed, latent_image.get("batch_index")) if add_noise else torch.zeros_like(latent)
        sigmas = schedule(scheduler, guider.model.sigma_table, steps, denoise)
        bar = host.current().progress(steps, "sampling")
        try:
            samples = guider.sample(
                noise,
                latent,
                Sampler(sampler_name),
                sigmas,
                latent_image.get("noise_mask"),
                callback=lambda *_: bar.update(),
                seed=seed,
            )
        finally:
            bar.close()
        return {**latent_image, "samples": samples}

    def run(
        self,
        model: DiffusersModel,
        texts: dict[str, Conditioning],
        algorithm: Algorithm,
        latent: torch.Tensor,
        sigmas: torch.Tensor,
        seed: int = 0,
        rows: int = 2,
        label: str = "sampling",
    ) -> torch.Tensor:
        contexts = {name: model.context(text) for name, text in texts.items()}
        x = model.latent_in(latent)
        bar = host.current().progress(max(1, len(sigmas) - 1), label)

        def stepped(step: int, prediction: torch.Tensor) -> None:
            host.current().check_interrupted()
            bar.update()

        try:
            return model.latent_out(algorithm(model, contexts, x, sigmas.to(x), stepped)).cpu()
        finally:
            bar.close()

    def sigmas(self, model: DiffusersModel, scheduler: str, steps: int) -> torch.Tensor:
        return schedule(scheduler, model.sigma_table, steps)

    def is_flow(self, model: DiffusersModel) -> bool:
        return False

    def encode_text(self, clip: Any, text: str) -> Conditioning:
        return clip.encode(text)

    def encode_image(self, vae: Any, image: torch.Tensor) -> torch.Tensor:
        h, w = (side // vae.factor * vae.factor for side in image.shape[1:3])
        top, left = (image.shape[1] - h) // 2, (image.shape[2] - w) // 2
        return vae.encode(image[:, top : top + h, left : left + w, :3].movedim(-1, 1).float())

    def load(self, *networks: torch.nn.Module) -> None:
        """Nothing: they are where they were loaded."""

    def sampling_choices(self) -> tuple[list[str], list[str]]:
        return list(SAMPLERS), list(SCHEDULES)

    def tiny_pipeline(self) -> tuple[Any, Any, Any]:
        from .tiny import load_pipeline

        return load_pipeline()
