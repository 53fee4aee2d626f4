"""The work that every peer does: a network or a whole image, at one size, with the same inputs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TOKENS = 77
_TIMESTEP = 601.0

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    network: unet (one call), vae_decoder (one call) or txt2img (a whole image).
    size: whose configuration the checkpoint has.
    states: the width of the prompt's states.
    folder: contains the checkpoint and everything derived from it.
    width, height: the image's, in pixels; batch: the UNet's rows.
    steps: of the whole image.
    """

    network: str
    size: str
    states: int
    folder: str
    width: int
    height: int
    batch: int = 2
    steps: int = 20

    @property
    def checkpoint(self) -> Path:
        """The diffusers folder of random fp16 weights."""
        return Path(self.folder) / self.size

    @property
    def name(self) -> str:
        """A name for its files."""
        return f"{self.network}-{self.width}x{self.height}-{self.batch}"

    def derived(self, what: str) -> Path:
        """Return the path of something derived from the checkpoint; ``what`` names its maker."""
        return self.checkpoint.with_name(f"{self.size}-{what}")

    def inputs(self) -> Arrays:
        """Return the network's inputs, fp32 with values that fp16 can represent, so that rounding favors no peer.

        unet: sample [B, 4, h, w], timestep [B], states [B, 77, D]; vae_decoder: z [1, 4, h, w].
        """
        rng = np.random.default_rng(3)
        latents = (4, self.height // 8, self.width // 8)

        def normal(*shape: int) -> NDArray[np.float32]:
            return rng.standard_normal(shape, np.float32).astype(np.float16).astype(np.float32)

        if self.network == "vae_decoder":
            return {"z": normal(1, *latents)}
        return {
            "sample": normal(self.batch, *latents),
            "timestep": np.full(self.batch, _TIMESTEP, np.float32),
            "states": normal(self.batch, _TOKENS, self.states),
        }

    def to_json(self) -> str:
        """Return JSON for another process's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Workload:
        """Parse the result of `to_json`."""
        return cls(**json.loads(text))
