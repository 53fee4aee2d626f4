"""Inputs of the UNet from steps of images, which ``anemone analyze`` measures on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.runtime import Network
from server.errors import quoted
from server.pipeline.denoising.denoiser import Note
from server.pipeline.networks import load_package
from server.pipeline.request import RequestError, bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.terminal import Bar

_Inputs: TypeAlias = dict[str, NDArray[Any]]

#: What the images show, unless the user gives prompts.
PROMPTS = (
    "a black and brown dog standing outside a door",
    "a red circle on a blue background",
    "a train with graffiti on it, a mountain range in the background",
    "a portrait of an old woman, oil painting",
    "two bowls of soup and a spoon on a wooden table, photo from above",
    "a city at night in the rain, neon signs, anime",
    "a small white house by the sea, watercolor",
    "a robot reading a newspaper, 3d render",
)
_STEPS = 8
#: Steps of the images on which gains are measured: at least so many of each prompt's, and of all prompts together. One more of
#: each prompt is for comparing recipes, since on what they were chosen for they seem better than they are.
_STEPS_EACH, _STEPS_TOGETHER = 2, 16


class _Recorder:
    """A UNet that keeps a copy of the inputs of each call."""

    def __init__(self, network: Network) -> None:
        self._network, self.inputs, self.outputs = network, network.inputs, network.outputs
        self.calls: list[dict[str, NDArray[Any]]] = []

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.calls.append({name: np.array(array) for name, array in inputs.items()})
        return self._network.predict(inputs)


@dataclass(frozen=True)
class Calibration:
    """Inputs of the UNet: those that gains are measured on, and others, one for each prompt, that recipes are compared on.

    notes: what of the prompts is not in their images, as sentences.
    """

    measured: list[_Inputs]
    compared: list[_Inputs]
    notes: list[str]


def calibrate(model: ModelFolder, prompts: Mapping[str, str], bar: Bar) -> Calibration:
    """Return inputs of the UNet from images of the prompts, each prompt's from a later step than the one before.

    ``prompts``: where each is given -> the prompt. Raises AnemoneError before the first image if one is not accepted.
    """
    requests = []
    for number, (place, prompt) in enumerate(prompts.items()):
        try:
            requests.append(bind(model.manifest, prompt=prompt, steps=_STEPS, seed=number))
        except RequestError as error:
            raise AnemoneError(f"{place} cannot be measured: {error}") from error
    recorders: list[_Recorder] = []

    def loader(path: Path, function: str, compute_units: str) -> Network:
        network = load_package(path, function, compute_units)
        if "sample" not in network.inputs:
            return network
        recorders.append(_Recorder(network))
        return recorders[-1]

    pipeline, result = StableDiffusion(model, {}, loader), Calibration([], [], [])
    for number, (prompt, request) in enumerate(zip(prompts.values(), requests, strict=True)):
        bar.show("calibration images", number, len(prompts))
        found = (event.text for event in pipeline.generate(request, {}) if isinstance(event, Note))
        result.notes.extend(f"{quoted(prompt)}: {note}" for note in found)
        (recorder,) = recorders
        calls = recorder.calls
        first = number * (len(calls) - 1) // max(len(prompts) - 1, 1)
        count = min(max(_STEPS_EACH, -(-_STEPS_TOGETHER // len(prompts))), len(calls) - 1)
        *measured, compared = [calls[(first + len(calls) * k // (count + 1)) % len(calls)] for k in range(count + 1)]
        result.measured.extend(measured)
        result.compared.append(compared)
        recorder.calls = []
    return result
