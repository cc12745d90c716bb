"""A picture of a run."""

from __future__ import annotations

import numpy as np

from ..emotions import MIKELS
from ..plots import COLOURS, figure_of, rendered
from .trace import Trace


def trace_plot(trace: Trace, image: int = 0) -> np.ndarray:
    """A MUSE run of one image of the batch: the gate's score, the emotions before and after each step's inner
    loop, and the inner losses end to end."""
    figure = figure_of(8.4, 6.4)
    gate, emotions, losses = figure.subplots(3, 1, height_ratios=(1, 1.6, 1))
    calls = trace.calls
    opened = next((c.call for c in calls if c.open and c.open[image]), None)

    scored = [(c.call, c.gate_score[image]) for c in calls if c.gate_score]
    if scored:
        gate.plot(*zip(*scored), "o-", color="#444444", label="score")
        gate.axhline(trace.threshold, color="#c8202f", linestyle="--", label=f"threshold {trace.threshold:g}")
        gate.legend(fontsize=8, loc="best")
    else:
        gate.text(0.5, 0.5, "no gate", ha="center", va="center", transform=gate.transAxes, color="#888888")
    gate.set_ylabel("CLIP gate")
    for axis in (gate, emotions):
        axis.set_xlim(-0.5, max(1, len(calls)) - 0.5)
        if opened is not None:
            axis.axvline(opened, color="#c8202f", alpha=0.3)

    after = [(c.call, c.after[image] or []) for c in calls if c.after and c.open[image]]
    named = {trace.inherent[image]} | {MIKELS[i] for i, p in enumerate(trace.emotions[image].distribution) if p > 0}
    for i, name in enumerate(MIKELS):
        if after:
            weight = dict(linewidth=2.4) if name in named else dict(linewidth=0.9, alpha=0.6)
            emotions.plot(
                [c for c, _ in after], [p[i] for _, p in after], ".-", color=COLOURS[name], label=name, **weight
            )
    emotions.set_ylim(-0.02, 1.02)
    emotions.set_ylabel("emotion")
    emotions.set_xlabel("model call")
    if after:
        emotions.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.02))

    start = 0
    for call in calls:
        values = [row[image] for row in call.losses]
        if values and call.open[image]:
            losses.plot(range(start, start + len(values)), values, color="#444444", linewidth=1)
            start += len(values)
            losses.axvline(start - 0.5, color="#dddddd", linewidth=0.6)
    losses.set_ylabel("loss")
    losses.set_xlabel("inner evaluations, step after step")
    inherent = f", inherent: {trace.inherent[image]}" if trace.inherent[image] else ""
    emotion = trace.emotions[image]
    figure.suptitle(f"{emotion.label} at intensity {emotion.intensity:g}{inherent}", fontsize=12)
    for axis in (gate, emotions, losses):
        axis.spines[["top", "right"]].set_visible(False)
    return rendered(figure)
