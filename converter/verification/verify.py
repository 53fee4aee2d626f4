"""Verify a converted network: run it and its source's network on the same random inputs and compare the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.networks.features import random_inputs
from converter.runtime import Network
from converter.runtime.mil import MILNetwork
from converter.sources.tensors import Tensors
from converter.verification.limits import LEAST_DB
from converter.verification.reference import ReferenceNetwork


class VerificationError(AnemoneError):
    """A converted network's outputs differ too much from its source's."""


@dataclass(frozen=True)
class Comparison:
    """The PSNR of a network's output against its source's, in dB of the output's peak (Apple's definition).

    run: the arithmetic that computed it.
    """

    network: str
    run: str
    output: str
    psnr_db: float


def psnr(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return 20 log10(peak of ``expected`` / root mean square of the difference); -inf if ``actual`` is not finite."""
    if not np.isfinite(actual).all():
        return -np.inf
    error = float(np.sqrt(np.mean((actual.astype(np.float64) - expected.astype(np.float64)) ** 2)))
    return float(20 * np.log10((np.abs(expected).max() + 1e-5) / (error + 1e-10)))


def compare(
    network: str, runs: Mapping[str, Callable[[], Network]], reference: Network, config: dict[str, Any]
) -> list[Comparison]:
    """Return the PSNR of a package's outputs against its reference's on the same random inputs, in each of several runs.

    ``runs`` (name of the run -> a function that loads the package) are loaded one after the other, so that only one is
    in memory.
    """
    inputs = random_inputs(reference.inputs, config)
    expected = reference.predict(inputs)
    return [
        Comparison(network, run, name, psnr(array, expected[name]))
        for run, package in runs.items()
        for name, array in package().predict(inputs).items()
    ]


def verify_package(
    network: str, path: Path, config: dict[str, Any], tensors: Tensors, least: float = LEAST_DB
) -> float:
    """Return the least PSNR in dB of a package's outputs, run by our own runtime in fp32, against its source's network.

    Runs in fp32 only, since another run in fp16 adds half to the time of a whole conversion. Both networks read their
    weights from the mapped files layer by layer, so the largest layer decides how much memory this takes. Raises
    VerificationError if an output is below ``least`` (see `least_db`).
    """
    package = MILNetwork(path, stream=True)
    reference = ReferenceNetwork(network, config, tensors, package.inputs, package.outputs)
    comparisons = compare(network, {"fp32": lambda: package}, reference, config)
    for comparison in comparisons:
        if not comparison.psnr_db >= least:
            compressed = least != LEAST_DB
            weights = " of compressed weights" if compressed else ""
            way = "; more bits are nearer, and without verification it is installed as it is" if compressed else ""
            raise VerificationError(
                f"{comparison.network} as converted gives {comparison.output} with {comparison.psnr_db:.1f} dB PSNR against its source; "
                f"at least {least:.0f} dB is accepted{weights}, so it is not installed{way}"
            )
    return min(comparison.psnr_db for comparison in comparisons)
