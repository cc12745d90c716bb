"""Which servers may be sent a picture, and which of them a key.

A workflow names its MLLM server, and workflows come from strangers. So a picture goes to servers on this machine, and
to others only where the person at this machine has allowed it; a key goes only to the host and port that it belongs to.

AFFECT_MLLM_HOSTS    hosts, separated by commas, that may be sent pictures: gpu.lan (any port) or gpu.lan:8000 (one
                     port)
AFFECT_MLLM_API_KEY  is sent to those of these hosts that are named with their port; to one without, at the scheme's own
                     port (443 for https)
OPENAI_API_KEY       is sent to https://api.openai.com, which may then be sent pictures too
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from .. import host
from ..errors import UserError

# The address is not repeated, because it may hold a password.
NO_ADDRESS = "The MLLM's base_url is not an address. Write it as http://127.0.0.1:11434/v1."
_OPENAI = "api.openai.com"
_KEYS = ("AFFECT_MLLM_API_KEY", "OPENAI_API_KEY")
_PORTS = {"http": 80, "https": 443}


def check_url(base_url: str) -> str:
    """The address itself. UserError where it is not one, or holds a password, which would be saved in the workflow."""
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in _PORTS and parts.hostname and parts.port != 0  # a port that is not a number raises
    except ValueError:
        good = False
    if not good or re.search(r"[^\x21-\x7e]|\\", base_url):  # characters that programs read in different ways
        raise UserError(NO_ADDRESS)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "The MLLM's base_url holds a name, password or key, which would be saved in the workflow. Put the key "
            "into the environment as AFFECT_MLLM_API_KEY."
        )
    return base_url


def place(url: str) -> tuple[str, int]:
    """(host in lower case, port) of an address."""
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)


def named(url: str) -> str:
    """host:port of an address, as AFFECT_MLLM_HOSTS lists it."""
    name, port = place(url)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def is_this_machine(name: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_allowed(url: str, confirmed: bool = False) -> None:
    """UserError, with the setting that would allow it, where pictures may not be sent to a server.

    confirmed  whether the person at this machine typed the address (it did not come with a workflow)
    """
    name, _ = place(url)
    openai = url.startswith("https://") and name == _OPENAI and _key("OPENAI_API_KEY")
    if confirmed or is_this_machine(name) or openai or _listed(url, host.current().mllm_hosts(), any_port=True):
        return
    extra = " or set OPENAI_API_KEY," if name == _OPENAI else ""
    raise UserError(
        f"The workflow would send the picture to {named(url)}, which is another machine, and nobody here has allowed "
        f"that. If you trust it:{extra} {host.current().how_to_allow(named(url))}"
    )


def key_for(url: str) -> str:
    """The key that may be sent to a server (see the module), "" where none may. UserError for a key that does not fit
    into a header."""
    if url.startswith("https://") and place(url) == (_OPENAI, 443):
        return _key("OPENAI_API_KEY")
    hosts = os.environ.get("AFFECT_MLLM_HOSTS", "").split(",")
    return _key("AFFECT_MLLM_API_KEY") if _listed(url, hosts, any_port=False) else ""


def _listed(url: str, hosts: Iterable[str], any_port: bool) -> bool:
    """Whether an address is among hosts. `any_port`: whether a host without a port means all ports, or the scheme's
    own."""
    name, port = place(url)
    for entry in hosts:
        try:
            parts = urlsplit(f"//{entry.strip().lower()}")
            same_port = port == parts.port if parts.port else any_port or port == _PORTS.get(urlsplit(url).scheme)
        except ValueError:
            continue
        if name and name == (parts.hostname or "").rstrip(".") and same_port:
            return True
    return False


def _key(name: str) -> str:
    key = os.environ.get(name, "").strip()  # a file's last line ends with a newline
    if re.search(r"[^\x21-\x7e]", key):
        raise UserError(f"{name} in the environment holds spaces or other characters that no key has. Set it again.")
    return key


def redacted(text: str) -> str:
    """The text without the environment's keys. Some servers repeat the headers that they were sent: plain, in another
    case, or encoded as JSON, in an address or in base64."""
    for key in filter(None, (os.environ.get(name, "").strip() for name in _KEYS)):
        if len(key) < 8:  # not a secret but a word that some servers require, such as "none"
            continue
        codes = [
            base64.b64encode(code.encode("utf-8", "replace")).decode().rstrip("=") for code in (key, f"Bearer {key}")
        ]
        for form in sorted({key, json.dumps(key)[1:-1], quote(key, safe=""), *codes}, key=len, reverse=True):
            text = re.sub(re.escape(form), "[key]", text, flags=re.IGNORECASE)
    return text
