"""Converts every family, at full size and in all published forms, with the defaults; verifies and times it.

    python -m benchmarks.published --family sd15 --family sdxl

Weights are random, in the published configurations, tensor names and types. The table has the source's form, the family,
seconds, the process's own memory (without mapped files), and the least agreement with diffusers' and transformers' networks
on the checkpoint's weights.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.checkpoints import SIZES, write_checkpoint, write_file
from benchmarks.measure import cost
from converter.sources.clip_vocabulary import END, tokenizer_files

_AGREEMENT = re.compile(r"(\d+) dB of the source's")


def _tokenizer(folder: Path) -> Path:
    folder.mkdir()
    for name, content in tokenizer_files(END).items():
        (folder / name).write_bytes(content)
    return folder


def _forms(folder: Path, family: str) -> dict[str, tuple[Path, Callable[[], None]]]:
    """Return form -> the source's path and the function that writes it."""
    size, words, file = SIZES[family], folder / "tokenizer", folder / f"{family}.safetensors"
    forms: dict[str, tuple[Path, Callable[[], None]]] = {
        "folder, fp16": (folder / family, partial(write_checkpoint, folder / family, size, words)),
        "file, fp16": (file, partial(write_file, file, size)),
    }
    if family == "sd15":
        forms["file, bf16"] = (file, partial(write_file, file, size, "BF16"))
        forms["file, fp32"] = (file, partial(write_file, file, size, "F32"))
    if size.unet.get("time_cond_proj_dim"):
        # Latent consistency models with the guidance scale as an input are published as folders only.
        del forms["file, fp16"]
    return forms


def main() -> None:
    """Measure, and print each row of the table when it is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=SIZES, help="only these (all)")
    parser.add_argument("--folder", type=Path, help="the folder for checkpoints, up to 14 GB (a temporary folder)")
    args = parser.parse_args()
    print("| source | family | seconds | own memory | least agreement |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        _tokenizer(folder / "tokenizer")
        for family in args.family or SIZES:
            for form, (source, write) in _forms(folder, family).items():
                write()
                measured = cost([sys.executable, "-m", "server", "convert", str(source), "-o", str(folder / "out")])
                least = min(int(db) for db in _AGREEMENT.findall(measured.printed))
                memory = f"{measured.own_bytes / 1e9:.2f} GB"
                print(f"| {form} | {family} | {measured.seconds:.1f} | {memory} | {least} dB |", flush=True)
                for path in (source, folder / "out"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
