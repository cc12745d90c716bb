"""An object's name in a prompt: its place among the letters, and among CLIP's tokens."""

from __future__ import annotations

import re


def forms(name: str) -> list[str]:
    """The forms that a name may have in a sentence: as given, in the plural, in the singular."""
    singular = [
        name[: -len(end)]
        for end in ("es", "s")
        if name.endswith(end) and len(name) > len(end) + 2 and not name.endswith("ss")
    ]
    return [name, f"{name}s", f"{name}es", *singular[::-1]]


def pattern(name: str) -> str:
    """A regular expression for a name as whole words; its first group is the article before it, its second the name."""
    return rf"(?<!\w)(?:(an?)\s+)?({'|'.join(map(re.escape, forms(name)))})(?!\w)"


def occurs_in(prompt: str, name: str) -> bool:
    """Whether a prompt holds a name, in any of its forms, as whole words."""
    return re.search(pattern(name), prompt, flags=re.IGNORECASE) is not None


def article(words: str) -> str:
    """Words after the indefinite article that fits them."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def described(prompt: str, name: str, attribute: str) -> str:
    """The prompt with an attribute before the first occurrence of a name, and the article that fits it."""

    def put(match: re.Match[str]) -> str:
        words = f"{attribute} {match.group(2)}"
        return article(words) if match.group(1) else words

    return re.sub(pattern(name), put, prompt, count=1, flags=re.IGNORECASE) if attribute else prompt


def token_positions(prompt: str, name: str) -> list[int]:
    """Positions of the first occurrence of a name among the tokens that CLIP reads of a prompt (chunks of 77, each with
    its start token); none where it does not occur."""
    from ..diffusion.text import tokenize
    from ..networks.tokenizer import END, START, token_ids

    flat = [i for chunk in tokenize(prompt) for i, _ in chunk]
    # A name of several words may begin in one chunk and end in the next: start and end tokens between are skipped.
    positions = [i for i, token in enumerate(flat) if token not in (START, END)]
    tokens = [flat[i] for i in positions]
    for form in forms(name):
        wanted = token_ids(form)
        for i in range(len(tokens) - len(wanted) + 1):
            if tokens[i : i + len(wanted)] == wanted:
                return positions[i : i + len(wanted)]
    return []
