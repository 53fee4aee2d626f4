"""The UNet's prediction for one image: its calls for the negative prompt and the prompts, combined by guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.runtime import Network
from server.pipeline.conditioning import Conditioning, Row
from server.pipeline.denoiser import Moment
from server.pipeline.guidance import Guidance

Float16 = NDArray[np.float16]


@dataclass(frozen=True)
class GuidedUNet:
    """A UNet with the inputs that are the same in all steps of an image.

    network: rows -> the UNet's package that takes so many rows at once, or fewer if none does.
    extra_channels: [1, N, h, w], which follow the noisy latents' channels (an inpainting model's; N is 0 for others).
    """

    network: Callable[[int], Network]
    conditioning: Conditioning
    guidance: Guidance
    extra_channels: Float16

    def predict(self, noisy: Float16, moment: Moment) -> NDArray[np.float32]:
        """Return the guided prediction, fp32 [1, C, h, w]; outside guidance, that of the prompts alone."""
        rows = self.conditioning.at(moment)
        weights = tuple(row.weight for row in rows.positives)
        if rows.negative is None or not self.guidance.applies(moment.sigma):
            outputs = self._outputs(noisy, moment, rows.positives)
            return np.average(outputs, 0, weights)[None].astype(np.float32) if len(weights) > 1 else outputs
        outputs = self._outputs(noisy, moment, (rows.negative, *rows.positives))
        return self.guidance.combine(outputs[:1], outputs[1:], weights)

    def _outputs(self, noisy: Float16, moment: Moment, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Return the network's output for each row, fp32 [N, C, h, w], in as few calls as its packages allow."""
        sample = np.concatenate([noisy, self.extra_channels], 1)
        network = self.network(len(rows))
        batch = network.inputs["sample"].shape[0]
        outputs = []
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            # A package of two rows computes a single one twice.
            filled = [*part, *[part[-1]] * (batch - len(part))]
            inputs = {name: np.concatenate([row.inputs[name] for row in filled]) for name in part[0].inputs}
            if "time_ids" in inputs:
                # Apple's packages of 2023 take the numbers of both rows as one row of twelve.
                inputs["time_ids"] = inputs["time_ids"].reshape(network.inputs["time_ids"].shape)
            inputs |= {"sample": np.repeat(sample, batch, 0), "timestep": np.full(batch, moment.timestep, np.float16)}
            outputs.append(network.predict(inputs)["noise_pred"][: len(part)])
        return np.asarray(np.concatenate(outputs), np.float32)
