"""The `affect` command's subcommands, one file each.

A module has `add_commands(commands)`, which declares its subcommands; each sets `run`, a function from the parsed
arguments to an exit code. Modules are light to import: what a command needs is imported inside that function.
`dispatch` hands `demo`, `data`, `train`, `bench` and `evaluate` to the parts of the package that implement them.
"""
