"""Judges finished images by the model's safety checker, and blurs or refuses those in which it finds something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.networks.registry import SAFETY_CHECKER
from converter.runtime import Network
from server.pipeline.clip_image import clip_input
from server.pipeline.images import Pixels
from server.settings import Safety

#: The blur's standard deviation as a fraction of the longer side: 43 pixels of 512, which leaves colored clouds.
_BLUR = 1 / 12


class UnsafeImage(AnemoneError):
    """The safety checker found something in an image that is not to be delivered."""


def blurred(pixels: Pixels) -> Pixels:
    """Return the image so blurred that nothing in it can be recognized, uint8 [H, W, 3]."""
    radius = max(pixels.shape[:2]) * _BLUR
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


class SafetyChecker:
    """A model's safety checker. It is not active if the model has none, or if the setting turns it off."""

    def __init__(self, folder: ModelFolder, network: Callable[..., Network], safety: Safety) -> None:
        """``network`` returns a network by name and size, as `Networks.get` does."""
        self._folder, self._network, self._safety = folder, network, safety
        self.active = safety != "off" and SAFETY_CHECKER.name in folder.manifest.networks

    def finds(self, pixels: Pixels) -> bool:
        """Return whether the checker finds one of its concepts in the image, uint8 [H, W, 3]."""
        package = self._folder.default(SAFETY_CHECKER.name)
        checker = self._network(SAFETY_CHECKER.name, package.width, package.height)
        side = checker.inputs["clip_input"].shape[2]
        # The network also blackens images of its own size; what it is given for them does not matter.
        unused = {name: np.zeros(checker.inputs[name].shape, np.float16) for name in ("images", "adjustment")}
        found = checker.predict({"clip_input": clip_input(pixels, side), **unused})["has_nsfw_concepts"]
        return bool(np.any(found))

    def checked(self, pixels: Pixels) -> tuple[Pixels, bool]:
        """Return the image to deliver, and whether something was found in it. Raises UnsafeImage if it is to be refused."""
        if not self.active or not self.finds(pixels):
            return pixels, False
        if self._safety == "refuse":
            raise UnsafeImage(
                "the model's safety checker found something in the image, which is not delivered; another seed or prompt "
                "may give an image that it lets pass"
            )
        return blurred(pixels), True
