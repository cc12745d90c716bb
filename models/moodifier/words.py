"""Finding an object's name in a prompt: by its letters, and by CLIP's tokens."""

from __future__ import annotations

import re


def forms(name: str) -> list[str]:
    """A name as it may stand in a sentence: as given, in the plural, in the singular."""
    singular = [
        name[: -len(end)]
        for end in ("es", "s")
        if name.endswith(end) and len(name) > len(end) + 2 and not name.endswith("ss")
    ]
    return [name, f"{name}s", f"{name}es", *singular[::-1]]


def pattern(name: str) -> str:
    """A regular expression for a name as whole words; its first group is the article before it, its second the name."""
    return rf"(?<!\w)(?:(an?)\s+)?({'|'.join(map(re.escape, forms(name)))})(?!\w)"


def stands_in(prompt: str, name: str) -> bool:
    return re.search(pattern(name), prompt, flags=re.IGNORECASE) is not None


def article(words: str) -> str:
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def described(prompt: str, name: str, attribute: str) -> str:
    """The prompt with an attribute before the first place of a name, and the article that fits it."""

    def put(match: re.Match[str]) -> str:
        words = f"{attribute} {match.group(2)}"
        return article(words) if match.group(1) else words

    return re.sub(pattern(name), put, prompt, count=1, flags=re.IGNORECASE) if attribute else prompt


def said_at(prompt: str, name: str) -> list[int]:
    """Positions of the first place of a name among the tokens that CLIP reads of a prompt (chunks of 77, each with
    its start token); none where it does not stand there."""
    from ..diffusion.text import tokenize
    from ..networks.tokenizer import END, START, token_ids

    flat = [i for chunk in tokenize(prompt) for i, _ in chunk]
    # A name of several words may begin in one chunk and end in the next: the marks between them are passed over.
    there = [place for place, token in enumerate(flat) if token not in (START, END)]
    tokens = [flat[place] for place in there]
    for form in forms(name):
        wanted = token_ids(form)
        for i in range(len(tokens) - len(wanted) + 1):
            if tokens[i : i + len(wanted)] == wanted:
                return there[i : i + len(wanted)]
    return []
