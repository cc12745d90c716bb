"""Runs a ComfyUI workflow with no ComfyUI installed, and holds the `affect` command.

The way of a workflow: `load` reads the file; `convert` turns the UI format into the API format (a prompt);
`check` looks at the whole prompt before anything runs; `execute` runs what the outputs need. Node classes
come from `registry`: this package's own, and in `core/` those of ComfyUI's that a workflow here can use.
"""
