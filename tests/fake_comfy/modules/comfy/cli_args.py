"""The command line's options."""

from types import SimpleNamespace

args = SimpleNamespace(multi_user=False)
