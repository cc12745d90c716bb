"""Former place of `networks.scorers.load_scorer`, which programs written for 0.1 import from here."""

from .networks.scorers import load_scorer

__all__ = ["load_scorer"]
