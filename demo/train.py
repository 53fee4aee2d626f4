"""Runs the complete recipe: ``python -m demo.train``. A second run resumes from the last checkpoint.

demo/README.md lists the time of each stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.captions import write_tokenizer
from demo.export import export
from demo.train_text import train_text
from demo.train_unet import encode_scenes, train_unet
from demo.train_vae import train_vae

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train the stages that are not finished yet and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "run", help="checkpoints and logs (demo/run)")
    parser.add_argument(
        "--out", type=Path, default=HERE / "model", help="the diffusers checkpoint to write (demo/model)"
    )
    args = parser.parse_args()
    run: Path = args.run
    if not (run / "tokenizer" / "vocab.json").is_file():
        write_tokenizer(run / "tokenizer")
    train_vae(run)
    train_text(run)
    if not (run / "scenes.pickle").is_file():
        encode_scenes(run)
    train_unet(run)
    export(run, args.out)


if __name__ == "__main__":
    main()
