"""A node pack for `affect bench comfyui`: times guiders side by side inside a running ComfyUI."""

import json
import time

import torch


class TimeGuiders:
    """Seconds of a step by each guider, and of a decode and a CLIP pass, as JSON."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "benchmarks", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "plain": ("GUIDER",),
                "closed": ("GUIDER",),
                "off": ("GUIDER",),
                "sampler": ("SAMPLER",),
                "sigmas": ("SIGMAS",),
                "latent": ("LATENT",),
                "rounds": ("INT", {"default": 7}),
            }
        }

    def run(self, plain, closed, off, sampler, sigmas, latent, rounds):
        samples = latent["samples"]
        noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
        times: dict[str, list[float]] = {"plain": [], "closed": [], "off": [], "decode": [], "clip": []}
        guiders = {"plain": plain, "closed": closed, "off": off}

        def sample(guider):
            guider.sample(noise, samples, sampler, sigmas, seed=0, disable_pbar=True)

        for guider in guiders.values():
            sample(guider)  # loads what there is to load
        text = closed.gate.scorer.text_features([closed.gate.prompt])
        for r in range(rounds):
            for name in list(guiders)[r % 3 :] + list(guiders)[: r % 3]:
                times[name].append(self._time(lambda name=name: sample(guiders[name])) / (len(sigmas) - 1))
            times["decode"].append(self._time(lambda: closed.vae.decode(samples), 10))
            image = closed.vae.decode(samples)
            times["clip"].append(self._time(lambda image=image: closed.gate.scorer.score(image, text), 10))
        # The fastest: a busy machine adds time and never takes any away.
        return {"ui": {"text": [json.dumps({k: min(v) for k, v in times.items()})]}}

    @staticmethod
    def _time(function, repeats=1):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats


NODE_CLASS_MAPPINGS = {"TimeGuiders": TimeGuiders}
