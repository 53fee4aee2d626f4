"""An image beside the prompt: the keys and values that a model's IP-Adapter makes of it (Ye et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from converter.manifest import Manifest
from converter.networks.registry import IMAGE_ENCODER
from converter.runtime import Network
from server.pipeline.canvas.canvas import attached
from server.pipeline.clip_image import clip_input
from server.pipeline.denoising.conditioning import Conditioning, Row, Rows
from server.pipeline.denoising.rows import Inputs
from server.pipeline.images import decode_image
from server.pipeline.request import GenerationRequest

_VALUES = "image_values_"


@dataclass(frozen=True)
class ImagePrompt:
    """The UNet's inputs for an image: those of the negative row, where there is no image, and of the others.

    tokens: how many tokens the image has.
    """

    negative: Inputs
    positive: Inputs
    tokens: int

    def beside(self, conditioning: Conditioning) -> Conditioning:
        """Return the conditioning with the image's inputs in the rows of every step."""
        return replace(conditioning, steps=tuple(map(self._beside, conditioning.steps)))

    def _beside(self, rows: Rows) -> Rows:
        def joined(row: Row, inputs: Inputs) -> Row:
            return replace(row, inputs={**row.inputs, **inputs})

        negative = None if rows.negative is None else joined(rows.negative, self.negative)
        return Rows(negative, tuple(joined(row, self.positive) for row in rows.positives))


def _keys_values(adapter: Network, features: NDArray[np.float32], scale: float) -> Inputs:
    """Return an image's keys, and its values times ``scale``, which multiplies what attention to the image adds."""
    outputs = adapter.predict({"image_features": features.astype(np.float16)})
    return {
        name: (array * np.float32(scale if name.startswith(_VALUES) else 1)).astype(np.float16)
        for name, array in outputs.items()
    }


def image_prompt_of(
    request: GenerationRequest,
    attachments: Mapping[str, bytes],
    manifest: Manifest,
    network: Callable[[str], Network],
) -> ImagePrompt | None:
    """Return the image beside a request's prompt; None if it has none, or if its scale is 0.

    In the negative row the features are zeros, or for IP-Adapter Plus those of an image of zeros, as in diffusers' pipelines
    (``encode_image``). Raises ImageError if the image is gone or cannot be read.
    """
    asked = request.adapter
    if asked is None or asked.adapter_scale == 0:
        return None
    pixels = np.asarray(decode_image(attached(attachments, asked.adapter_image)))
    encoder = network(IMAGE_ENCODER.name)
    image = clip_input(pixels, encoder.inputs["pixel_values"].shape[2])
    seen = encoder.predict({"pixel_values": image})
    features, without = seen["image_embeds"], np.zeros_like(seen["image_embeds"])
    adapter = network(asked.network(manifest))
    if adapter.inputs["image_features"].shape[3] > 1:
        blank = encoder.predict({"pixel_values": np.zeros_like(image)})
        features, without = seen["image_states"], blank["image_states"]
    negative, positive = (_keys_values(adapter, each, asked.adapter_scale) for each in (without, features))
    return ImagePrompt(negative, positive, positive[f"{_VALUES}0"].shape[3])
