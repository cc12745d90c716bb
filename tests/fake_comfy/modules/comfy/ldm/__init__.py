"""See `tests/fake_comfy`."""
