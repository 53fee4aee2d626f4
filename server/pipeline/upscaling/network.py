"""An upscaler's network, loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converter.errors import AnemoneError
from converter.networks.registry import UPSCALER
from converter.runtime import Network
from converter.upscaler_folder import UpscalerFolder
from server.pipeline.images import Pixels, from_unit, to_unit
from server.pipeline.networks import ComputeUnits, load_package

#: Where the network runs on a Mac, if the settings do not say otherwise.
_UNITS = "CPU_AND_NE"


@dataclass(frozen=True)
class UpscalingNetwork:
    """A network that enlarges tiles of ``tile`` x ``tile`` pixels ``scale`` times."""

    name: str
    network: Network
    tile: int
    scale: int

    @staticmethod
    def open(folder: UpscalerFolder, compute_units: ComputeUnits, precision: str) -> UpscalingNetwork:
        """Load the network; raises DamagedModel if a file of it has changed, and what loading raises."""
        folder.compare()
        about = folder.manifest
        units = compute_units.get(UPSCALER.name, _UNITS)
        return UpscalingNetwork(
            folder.path.name, load_package(folder.package, "main", units, precision), about.tile, about.scale
        )

    def enlarge(self, tile: Pixels) -> Pixels:
        """Return a tile enlarged, uint8 [scale * tile, scale * tile, 3]. Raises AnemoneError if its numbers overflow."""
        y = self.network.predict({"pixels": to_unit(tile)})["enlarged"]
        if not np.isfinite(y).all():
            raise AnemoneError(f"the output of the upscaler {self.name} is not finite: its numbers overflowed")
        return from_unit(y)
