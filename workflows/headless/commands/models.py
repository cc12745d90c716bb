"""`affect models`: lists the model files, and fetches a published one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ....models.errors import UserError, did_you_mean
from ....models.foreign import say
from .arguments import Commands, add_json, add_models_dir

if TYPE_CHECKING:
    from ..host import EmbeddedHost

KINDS = ("checkpoints", "vae", "loras", "affect", "open_clip", "mllm")


class Published(NamedTuple):
    """A published file: its repository and name on the model hub, the kind of folder and the name to save it under."""

    kind: str
    repository: str
    file: str
    saved_as: str
    about: str


PUBLISHED = {
    "sd15": Published(
        "checkpoints",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "v1-5-pruned-emaonly.safetensors",
        "v1-5-pruned-emaonly.safetensors",
        "Stable Diffusion 1.5, 4.3 GB, CreativeML OpenRAIL-M",
    ),
    "sdxl": Published(
        "checkpoints",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "sd_xl_base_1.0.safetensors",
        "sd_xl_base_1.0.safetensors",
        "Stable Diffusion XL, 6.9 GB, CreativeML OpenRAIL++-M",
    ),
    "lcm-lora-sd15": Published(
        "loras",
        "latent-consistency/lcm-lora-sdv1-5",
        "pytorch_lora_weights.safetensors",
        "lcm-lora-sdv1-5.safetensors",
        "few-step sampling for SD1.5 (sampler lcm), 135 MB",
    ),
    "vae-ft-mse": Published(
        "vae",
        "stabilityai/sd-vae-ft-mse-original",
        "vae-ft-mse-840000-ema-pruned.safetensors",
        "vae-ft-mse-840000-ema-pruned.safetensors",
        "a finer VAE for SD1.5, 335 MB",
    ),
}


def add_commands(commands: Commands) -> None:
    """Declares `models list` and `models get`."""
    models = commands.add_parser("models", help="list model files, or fetch a published one")
    actions = models.add_subparsers(dest="action", required=True, metavar="list|get")
    listing = actions.add_parser("list", help="bundled files, files in the models folder, published files")
    get = actions.add_parser("get", help="fetch a published model file into its folder")
    get.add_argument("name", metavar="NAME", help=", ".join(PUBLISHED))
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
    if args.json:
        print(
            json.dumps(
                {
                    "bundled": bundled,
                    "found": files,
                    "published": {k: p.about for k, p in PUBLISHED.items()},
                    "models_dir": str(host.models_dir),
                }
            )
        )
        return 0
    say("bundled: " + (", ".join(bundled) or "(none)"))
    for kind, names in files.items():
        say(f"{host.models_dir / kind}: " + (", ".join(names) or "(none)"))
    say("can be fetched with `affect models get NAME`:")
    for name, published in PUBLISHED.items():
        say(f"  {name:<14} {published.about}")
    return 0


def _get(args: argparse.Namespace) -> int:
    from ....models.files import check_safetensors

    if args.name not in PUBLISHED:
        raise UserError(
            f"'{args.name}' is not among the published models.{did_you_mean(args.name, PUBLISHED)} They are: "
            f"{', '.join(PUBLISHED)}. Put any other file into its folder yourself."
        )
    wanted = PUBLISHED[args.name]
    path = _host(args).models_dirs(wanted.kind)[0] / wanted.saved_as
    if path.exists():
        say(f"{path} exists already.", sys.stderr)
    else:
        _fetch(wanted, path)
    check_safetensors(path)
    say(json.dumps({"path": str(path)}) if args.json else path)
    return 0


def _fetch(wanted: Published, path: Path) -> None:
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
        cached = hf_hub_download(wanted.repository, wanted.file)
    except Exception as error:  # the libraries that it uses raise their own classes
        raise UserError(
            f"'{wanted.file}' of {wanted.repository} could not be fetched: {' '.join(str(error).split())[:300]}"
        ) from error

    def copy(to: Path) -> None:
        shutil.copyfile(cached, to)

    write_atomically(path, copy)


def _reach_hub(wanted: Published) -> None:
    """UserError if the hub does not answer one request: its client would retry for half a minute."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined,unused-ignore]  # not in its __all__

    if isinstance(try_to_load_from_cache(wanted.repository, wanted.file), str):
        return
    url = hf_hub_url(wanted.repository, wanted.file)
    try:
        get_session().head(url, timeout=10)
    except Exception as error:  # requests' or httpx's, whichever the client uses
        raise UserError(
            f"The model hub cannot be reached: {' '.join(str(error).split())[:200]}. Check the network and try again; "
            f"or get {url} by other means and save it as {wanted.kind}/{wanted.saved_as} in the models folder."
        ) from error
