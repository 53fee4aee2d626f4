"""The UNet's prediction for one image: its calls for the negative prompt and the prompts, combined by guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.runtime import Network
from server.pipeline.denoising.conditioning import Conditioning, Row
from server.pipeline.denoising.controls import Controls
from server.pipeline.denoising.denoiser import Moment, Predicting
from server.pipeline.denoising.guidance import Guidance
from server.pipeline.denoising.rows import Float16, Inputs, predict_rows
from server.pipeline.networks import Call


@dataclass(frozen=True)
class GuidedUNet:
    """A UNet with the inputs that are the same in all steps of an image.

    network: rows -> the UNet's package that takes so many rows at once, or fewer if none does.
    extra_channels: [1, N, h, w], which follow the noisy latents' channels (an inpainting model's); None for other models.
    controls: the ControlNets whose residuals ``network`` takes; None if it takes none.
    """

    network: Callable[[int], Network]
    conditioning: Conditioning
    guidance: Guidance
    controls: Controls | None = None
    extra_channels: Float16 | None = None

    def predict(self, noisy: Float16, moment: Moment) -> Predicting:
        """Return the guided prediction, outside guidance that of the prompts alone; all rows count as one call."""
        began, rows = time.perf_counter(), self.conditioning.at(moment)
        weights = tuple(row.weight for row in rows.positives)
        if rows.negative is None or not self.guidance.interval.contains(moment.sigma):
            outputs = self._outputs(noisy, moment, rows.positives)
            prediction = self.guidance.without_negative(outputs, weights)
        else:
            outputs = self._outputs(noisy, moment, (rows.negative, *rows.positives))
            prediction = self.guidance.combine(outputs[:1], outputs[1:], weights)
        yield Call(time.perf_counter() - began)
        return prediction

    def _outputs(self, noisy: Float16, moment: Moment, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Return the network's output for each row, fp32 [N, C, h, w], in as few calls as its packages allow."""
        sample = noisy if self.extra_channels is None else np.concatenate([noisy, self.extra_channels], 1)
        network = self.network(len(rows))
        inputs: list[Inputs] = [row.inputs for row in rows]
        if self.controls is not None:
            inputs = self.controls.rows(network, noisy, moment, inputs)
        return np.asarray(predict_rows(network, inputs, sample, moment.timestep)["noise_pred"], np.float32)
