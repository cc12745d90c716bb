"""Which servers may be asked about a picture, and which of them gets the key.

A workflow names its MLLM server, and workflows come from strangers: a picture goes to this machine, and elsewhere only
where the person at this machine has said so; a key goes only to the host and port that it was given for.

AFFECT_MLLM_HOSTS    hosts by commas that may be sent pictures: gpu.lan (any port) or gpu.lan:8000 (that port alone)
AFFECT_MLLM_API_KEY  goes to those of them that are named with their port; without one, to the scheme's own (443 of
                     https)
OPENAI_API_KEY       goes to https://api.openai.com, which may then be sent pictures too
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

NO_ADDRESS = "The MLLM's base_url is no address. Write it as http://127.0.0.1:11434/v1."  # not repeated: a password may stand in it
_OPENAI = "api.openai.com"
_KEYS = ("AFFECT_MLLM_API_KEY", "OPENAI_API_KEY")
_PORTS = {"http": 80, "https": 443}


def check_url(base_url: str) -> str:
    """The address, or UserError where it is none or carries a password (it would stand in the workflow)."""
    try:
        where = urlsplit(base_url)
        good = where.scheme in _PORTS and where.hostname and where.port != 0  # a port that is no number raises
    except ValueError:
        good = False
    if not good or re.search(r"[^\x21-\x7e]|\\", base_url):  # what programs read in different ways
        raise UserError(NO_ADDRESS)
    if where.username or where.password or where.query or where.fragment:
        raise UserError(
            "The MLLM's base_url carries a name, password or key, which would be saved in the workflow. Put the key "
            "into the environment as AFFECT_MLLM_API_KEY."
        )
    return base_url


def place(url: str) -> tuple[str, int]:
    """(host in small letters, port) of an address."""
    where = urlsplit(url)
    return (where.hostname or "").rstrip("."), where.port or _PORTS.get(where.scheme, 0)


def named(url: str) -> str:
    """host:port of an address, as AFFECT_MLLM_HOSTS takes it."""
    name, port = place(url)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def is_this_machine(name: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_allowed(url: str, confirmed: bool = False) -> None:
    """UserError, with the line to set, where pictures may not be sent to a server.

    confirmed  whether the person at this machine has typed the address, and no workflow brought it
    """
    name, _ = place(url)
    openai = url.startswith("https://") and name == _OPENAI and _key("OPENAI_API_KEY")
    if confirmed or is_this_machine(name) or openai or _stands_in(url, host.current().mllm_hosts(), any_port=True):
        return
    extra = " or set OPENAI_API_KEY," if name == _OPENAI else ""
    raise UserError(
        f"The workflow would send the picture to {named(url)}, which is another machine, and nobody here has allowed "
        f"that. If you trust it:{extra} {host.current().how_to_allow(named(url))}"
    )


def key_for(url: str) -> str:
    """The key that may go to a server (see the module), "" where none may. UserError for a key that no header can
    carry."""
    if url.startswith("https://") and place(url) == (_OPENAI, 443):
        return _key("OPENAI_API_KEY")
    hosts = os.environ.get("AFFECT_MLLM_HOSTS", "").split(",")
    return _key("AFFECT_MLLM_API_KEY") if _stands_in(url, hosts, any_port=False) else ""


def _stands_in(url: str, hosts: Iterable[str], any_port: bool) -> bool:
    """Whether an address is among hosts. `any_port`: whether one without a port stands for all of them, or for the
    scheme's own."""
    name, port = place(url)
    for entry in hosts:
        try:
            where = urlsplit(f"//{entry.strip().lower()}")
            same_port = port == where.port if where.port else any_port or port == _PORTS.get(urlsplit(url).scheme)
        except ValueError:
            continue
        if name and name == (where.hostname or "").rstrip(".") and same_port:
            return True
    return False


def _key(name: str) -> str:
    key = os.environ.get(name, "").strip()  # a file's last line ends with a newline
    if re.search(r"[^\x21-\x7e]", key):
        raise UserError(f"{name} in the environment holds spaces or other characters that no key has. Set it anew.")
    return key


def redacted(text: str) -> str:
    """The text without the keys of the environment: some servers repeat the headers that they were sent, plain, in
    another case, or written as JSON, in an address or in base64."""
    for key in filter(None, (os.environ.get(name, "").strip() for name in _KEYS)):
        if len(key) < 8:  # no secret but a word that some servers want to see, such as "none"
            continue
        codes = [
            base64.b64encode(code.encode("utf-8", "replace")).decode().rstrip("=") for code in (key, f"Bearer {key}")
        ]
        for form in sorted({key, json.dumps(key)[1:-1], quote(key, safe=""), *codes}, key=len, reverse=True):
            text = re.sub(re.escape(form), "[key]", text, flags=re.IGNORECASE)
    return text
