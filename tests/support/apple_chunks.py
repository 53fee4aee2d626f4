"""Splits packages into two chunks like Apple's converter."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

__all__ = ["cut_in_two"]


def cut_in_two(package: Path, out: Path) -> tuple[Path, Path]:
    """Write both chunks of a package into ``out``, by the function of coremltools that Apple's chunk_mlprogram.py calls."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from coremltools.models.utils import bisect_model

        bisect_model(str(package), str(out), check_output_correctness=False)
    return out / f"{package.stem}_chunk1.mlpackage", out / f"{package.stem}_chunk2.mlpackage"
