"""Calls of a network for the rows of a step: those of the negative prompt and of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime import Network

Float16 = NDArray[np.float16]
#: A network's inputs for one row, by name, each with a first axis of 1.
Inputs = Mapping[str, Float16]


def predict_rows(network: Network, rows: Sequence[Inputs], sample: Float16, timestep: float) -> dict[str, NDArray[Any]]:
    """Return the network's outputs by name, the first axis as long as ``rows``, in as few calls as its package allows.

    ``sample`` is [1, C, h, w] for all rows. Of a row's inputs the network gets those that it has.
    """
    batch = network.inputs["sample"].shape[0]
    calls = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        # A package of two rows computes a single one twice.
        filled = [*part, *[part[-1]] * (batch - len(part))]
        inputs = {name: np.concatenate([row[name] for row in filled]) for name in part[0] if name in network.inputs}
        if "time_ids" in inputs:
            # Apple's packages of 2023 take the numbers of both rows as one row of twelve.
            inputs["time_ids"] = inputs["time_ids"].reshape(network.inputs["time_ids"].shape)
        inputs |= {"sample": np.repeat(sample, batch, 0), "timestep": np.full(batch, timestep, np.float16)}
        calls.append({name: output[: len(part)] for name, output in network.predict(inputs).items()})
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
