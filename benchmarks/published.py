"""Every family in the forms it is published in, at full size: converted with the defaults, verified, and timed.

    python -m benchmarks.published --family sd15 --family sdxl

Weights are random, in the published configurations, tensor names and types. A table of source form, family, seconds,
memory of the process's own (mapped files not counted), and the least agreement with diffusers' and transformers'
networks on the checkpoint's weights.
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
    """Form -> the source's path and what writes it."""
    size, words, file = SIZES[family], folder / "tokenizer", folder / f"{family}.safetensors"
    found: dict[str, tuple[Path, Callable[[], None]]] = {
        "folder, fp16": (folder / family, partial(write_checkpoint, folder / family, size, words)),
        "file, fp16": (file, partial(write_file, file, size)),
    }
    if family == "sd15":
        found["file, bf16"] = (file, partial(write_file, file, size, "BF16"))
        found["file, fp32"] = (file, partial(write_file, file, size, "F32"))
    if size.unet.get("time_cond_proj_dim"):
        # Latent consistency models with the guidance scale as an input are published as folders only.
        del found["file, fp16"]
    return found


def main() -> None:
    """Measure and print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=SIZES, help="only these (all)")
    parser.add_argument("--folder", type=Path, help="where to write checkpoints, up to 14 GB (a temporary folder)")
    given = parser.parse_args()
    print("| source | family | seconds | own memory | least agreement |\n| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        _tokenizer(folder / "tokenizer")
        for family in given.family or SIZES:
            for form, (source, write) in _forms(folder, family).items():
                write()
                found = cost([sys.executable, "-m", "server", "convert", str(source), "-o", str(folder / "out")])
                least = min(int(db) for db in _AGREEMENT.findall(found.printed))
                memory = f"{found.own_bytes / 1e9:.2f} GB"
                print(f"| {form} | {family} | {found.seconds:.1f} | {memory} | {least} dB |", flush=True)
                for path in (source, folder / "out"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
