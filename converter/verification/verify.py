"""Verify a converted network: it and the network it was made from run on the same random inputs and are compared."""

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
from converter.verification.reference import ReferenceNetwork

#: Under this a network is not installed: Apple's converter draws the line there too (its ABSOLUTE_MIN_PSNR). It judges the
#: program as written, run by our own runtime; a device may answer less exactly, and what it answers is never judged by it.
LEAST_DB = 35.0


class VerificationError(AnemoneError):
    """A converted network does not give what its source gives."""


@dataclass(frozen=True)
class Comparison:
    """How near a network's output is to its source's, in dB of the output's peak (Apple's definition).

    run: which arithmetic gave it.
    """

    network: str
    run: str
    output: str
    psnr_db: float


def psnr(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return 20 log10(peak of ``expected`` / root mean square of the difference); -inf where ``found`` is not finite."""
    if not np.isfinite(found).all():
        return -np.inf
    error = float(np.sqrt(np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)))
    return float(20 * np.log10((np.abs(expected).max() + 1e-5) / (error + 1e-10)))


def compare(
    network: str, runs: Mapping[str, Callable[[], Network]], reference: Network, config: dict[str, Any]
) -> list[Comparison]:
    """Return how near a package's outputs are to its reference's on the same random inputs, in each of several runs.

    ``runs`` load the package, one after the other, so that no two are in memory.
    """
    inputs = random_inputs(reference.inputs, config)
    expected = reference.predict(inputs)
    return [
        Comparison(network, run, name, psnr(array, expected[name]))
        for run, package in runs.items()
        for name, array in package().predict(inputs).items()
    ]


def verify_package(network: str, path: Path, config: dict[str, Any], tensors: Tensors) -> float:
    """Return the least PSNR in dB of a package's outputs, run by our own runtime in fp32, against its source's network.

    In fp32 only, since another run in fp16 adds half to the time of a whole conversion. Both take their weights from the
    mapped files layer by layer, so a network of any size is verified in the memory of its largest layer. Raises VerificationError where an output is under LEAST_DB.
    """
    package = MILNetwork(path, stream=True)
    reference = ReferenceNetwork(network, config, tensors, package.inputs, package.outputs)
    comparisons = compare(network, {"fp32": lambda: package}, reference, config)
    for comparison in comparisons:
        if not comparison.psnr_db >= LEAST_DB:
            raise VerificationError(
                f"{comparison.network} as converted gives {comparison.output} at {comparison.psnr_db:.1f} dB of its source's; at least "
                f"{LEAST_DB:.0f} dB is accepted, so it is not installed"
            )
    return min(comparison.psnr_db for comparison in comparisons)
