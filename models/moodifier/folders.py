"""Which MoodifyCLIPs are there: for menus, so nothing heavy is imported."""

from __future__ import annotations

from .. import files, host
from ..clip_folder import CONFIG, WEIGHTS


def folders() -> list[str]:
    """The folders of models/moodify_clip that hold a model, as `clip.load_moodify_clip` takes them."""
    return [
        name.rpartition("/")[0]
        for name in host.current().list_files("moodify_clip", (".json",))
        if name.endswith(f"/{CONFIG}")
    ]


def state_of(name: str) -> str:
    """Another text once a folder's weights or configuration have changed; "" for the bundled one."""
    return (
        ""
        if name == "tiny"
        else " ".join(files.state_of("moodify_clip", f"{name}/{part}") for part in (CONFIG, WEIGHTS))
    )
