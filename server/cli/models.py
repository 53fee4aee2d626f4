"""``anemone models``: lists the installed models, without a server."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from converter.errors import AnemoneError
from converter.folder import ModelFolder
from server.cli.flags import Commands
from server.cli.parser import path
from server.cli.serve import add_config, settings_of
from server.models.first import FirstModel
from server.models.installed import InstalledModels
from server.models.memory import memory_need
from server.terminal import printable


def add_models(commands: Commands) -> None:
    """Add the command and its flags."""
    command = commands.add_parser(
        "models",
        help="List the installed models",
        description="List the installed models with their families, image sizes, and sizes on disk and in memory.",
        epilog="examples:\n  anemone models\n  anemone models --json\n"
        "A running server can also load, convert and delete models: see /api/v1/models.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(command)
    command.add_argument("--data-dir", type=path, help="the folder with the models (the user's data folder)")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(run=_list)


def _to_dict(name: str, models: InstalledModels) -> dict[str, Any]:
    model = models.get(name)
    folder = ModelFolder(model.folder, model.manifest)
    return {
        "name": name,
        "family": folder.manifest.family,
        "sizes": [f"{w}x{h}" for w, h in folder.manifest.sizes],
        "disk_bytes": models.disk_bytes(name),
        "memory_bytes": memory_need(folder).together,
        "folder": str(folder.path),
    }


def _list(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.data_dir is not None and not settings.data_dir.is_dir():
        raise AnemoneError(
            f"the data folder {settings.data_dir} does not exist; leave --data-dir out for the usual one"
        )
    models = FirstModel(settings.model, settings.data_dir).models
    rows = [_to_dict(name, models) for name in models.names()]
    for name, reason in models.damaged().items():
        print(f"anemone: {name} is damaged: {printable(reason)}", file=sys.stderr)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print(f"no models in {models.root} yet; `anemone serve` converts the bundled one, `anemone convert` others")
    width = max((len(m["name"]) for m in rows), default=0)
    for m in rows:
        sizes = f"{m['disk_bytes'] / 1e9:.2f} GB on disk, {m['memory_bytes'] / 1e9:.2f} GB loaded"
        print(f"{m['name']:{width}}  {m['family']}  {', '.join(m['sizes'])}  {sizes}")
    return 0
