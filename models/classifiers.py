"""Former place of `networks.classifiers.load_classifier`, which programs written for 0.1 import from here."""

from .networks.classifiers import load_classifier

__all__ = ["load_classifier"]
