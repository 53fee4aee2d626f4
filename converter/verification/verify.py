"""Is a converted network the network it was made from? Both run on the same random inputs, and are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.runtime import Feature, Network
from converter.runtime.mil import MILNetwork
from converter.sources.config_tables import TEXT_ENCODER
from converter.sources.tensors import Tensors
from converter.verification.reference import ReferenceNetwork

#: Under this a network is not installed: Apple's converter draws the line there too (its ABSOLUTE_MIN_PSNR). It judges the
#: program as written, run by our own runtime; a device may answer less exactly, and what it answers is never judged by it.
LEAST_DB = 35.0
_TIMESTEP = 801.0

Arrays = dict[str, NDArray[Any]]


class VerificationError(AnemoneError):
    """A converted network does not give what its source gives."""


@dataclass(frozen=True)
class Agreement:
    """How near a network's output is to its source's, in dB of the output's peak (Apple's definition).

    run: which arithmetic gave it.
    """

    network: str
    run: str
    output: str
    psnr_db: float


def psnr(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """20 log10(peak of ``expected`` / root mean square of the difference); -inf where ``found`` is not finite."""
    if not np.isfinite(found).all():
        return -np.inf
    error = float(np.sqrt(np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)))
    return float(20 * np.log10((np.abs(expected).max() + 1e-5) / (error + 1e-10)))


def random_inputs(features: Mapping[str, Feature], config: dict[str, Any], seed: int = 0) -> Arrays:
    """Inputs such as a network meets: normal latents and states, sizes in time_ids, a prompt of token ids."""
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for name, feature in features.items():
        if name == "input_ids":
            found[name] = _prompt(feature.shape[1], config, rng)
        elif name == "timestep":
            found[name] = np.full(feature.shape, _TIMESTEP)
        elif name == "time_ids":
            found[name] = rng.choice([0, 512, 768, 1024], feature.shape)
        elif name == "x":
            found[name] = rng.uniform(-1, 1, feature.shape)
        elif name == "controlnet_cond":
            found[name] = rng.uniform(0, 1, feature.shape)
        else:
            found[name] = rng.standard_normal(feature.shape)
        found[name] = found[name].astype(feature.dtype)
    return found


def _prompt(tokens: int, config: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """A prompt of a dozen words, its end and padding; ids of old checkpoints' end are the greatest there is."""
    last = config.get("vocab_size", TEXT_ENCODER["vocab_size"].default) - 1
    end = config.get("eos_token_id", last)
    end = last if end == 2 else end
    ids = np.full((1, tokens), end)
    ids[0, 0] = end - 1
    ids[0, 1:13] = rng.integers(3, last - 2, 12)
    return ids


def compare(
    network: str, runs: Mapping[str, Callable[[], Network]], reference: Network, config: dict[str, Any]
) -> list[Agreement]:
    """How near a package's outputs are to its reference's on the same random inputs, in each of several runs.

    ``runs`` load the package, one after the other, so that no two are in memory.
    """
    inputs = random_inputs(reference.inputs, config)
    expected = reference.predict(inputs)
    return [
        Agreement(network, run, name, psnr(array, expected[name]))
        for run, package in runs.items()
        for name, array in package().predict(inputs).items()
    ]


def verify_package(network: str, path: Path, config: dict[str, Any], tensors: Tensors) -> float:
    """The least PSNR in dB of a package's outputs, run by our own runtime in fp32, against its source's network.

    In fp32 only, since another run in fp16 adds half to the time of a whole conversion. Both take their weights from the
    mapped files layer by layer, so a network of any size is verified in the memory of its largest layer. Raises VerificationError where an output is under LEAST_DB.
    """
    package = MILNetwork(path, stream=True)
    reference = ReferenceNetwork(network, config, tensors, package.inputs, package.outputs)
    agreements = compare(network, {"fp32": lambda: package}, reference, config)
    for one in agreements:
        if not one.psnr_db >= LEAST_DB:
            raise VerificationError(
                f"{one.network} as converted gives {one.output} at {one.psnr_db:.1f} dB of its source's; at least "
                f"{LEAST_DB:.0f} dB is accepted, so it is not installed"
            )
    return min(one.psnr_db for one in agreements)
