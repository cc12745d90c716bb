"""The one exception that speaks to the person who asked."""


class UserError(Exception):
    """The request was wrong, or cannot be met. The message is one readable paragraph: what, where, what to do.

    The command prints it without a traceback (exit code 2 before anything ran, 1 while running); ComfyUI shows it
    on the node.
    """
