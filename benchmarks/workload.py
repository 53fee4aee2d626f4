"""What every peer is given to do: a network or a whole picture, at a size, with the same numbers going in."""

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

    network: unet (one call), vae_decoder (one call) or txt2img (a whole picture).
    size: whose configuration the checkpoint has.
    states: how wide the prompt's states are.
    folder: where the checkpoint and everything made of it is kept.
    width, height: the picture's, in pixels; batch: the UNet's rows.
    steps: of the whole picture.
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
        """A name for files about it."""
        return f"{self.network}-{self.width}x{self.height}-{self.batch}"

    def beside(self, what: str) -> Path:
        """Where something made of the checkpoint belongs: ``what`` is its maker's name."""
        return self.checkpoint.with_name(f"{self.size}-{what}")

    def inputs(self) -> Arrays:
        """The network's inputs, fp32 with values that fp16 has, so that no peer gains by how it rounds them.

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
        """For another process's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Workload:
        """What `to_json` gave."""
        return cls(**json.loads(text))
