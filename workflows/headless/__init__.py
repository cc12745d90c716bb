"""Runs a ComfyUI workflow with no ComfyUI installed, and holds the `affect` command.

The way of a workflow: `load` reads the file; `convert` turns the UI format into the API format (a prompt);
`check` looks at the whole prompt before anything runs; `execute` runs what the outputs need. Node classes
come from `registry`: this package's own, and in `core/` those of ComfyUI's that a workflow here can use; those of a
server come from `object_info`.

Converting goes from the file's shape (`shape`) to drawn nodes (`graph`), their widgets after the types' definitions
(`widgets`) and what stands inside subgraphs (`subgraphs`), and follows the links between them (`links`).
"""
