"""Workflow templates (JSON) and `headless/`, which runs them without a screen and without ComfyUI."""
