"""Runs a ComfyUI workflow without ComfyUI, and implements the `affect` command.

How a workflow is run (`run` puts the steps together):

    formats/   reads the file and turns the UI format into the API format, a prompt (`prompt`)
    edit       carries out `--set`
    check      checks the whole prompt before anything runs (constants: `values`)
    execute    runs the nodes that the outputs need
    remote/    does the same on a running ComfyUI

`registry` has the node types: this package's own and those of ComfyUI's core nodes that `core/` implements. `host`
provides folders and progress bars. `cli` is the command's entry point, `commands/` its subcommands.
"""
