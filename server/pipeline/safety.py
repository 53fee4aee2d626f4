"""Judges finished images by the model's safety checker, and blurs or refuses those in which it finds something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.networks.registry import SAFETY_CHECKER
from converter.runtime import Network
from server.pipeline.images import Pixels
from server.settings import Safety

#: OpenAI's mean and standard deviation of red, green and blue, for CLIP (transformers' OPENAI_CLIP_MEAN and _STD). Apple's
#: Swift pipeline takes ImageNet's here, for which the checker was not trained.
_MEAN = np.asarray([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.asarray([0.26862954, 0.26130258, 0.27577711], np.float32)
#: The blur's standard deviation as a fraction of the longer side: 43 pixels of 512, which leaves colored clouds.
_BLUR = 1 / 12


class UnsafeImage(AnemoneError):
    """The safety checker found something in an image that is not to be delivered."""


def clip_input(pixels: Pixels, side: int) -> NDArray[np.float16]:
    """Return the image, uint8 [H, W, 3], as CLIP takes it: fp16 [1, 3, side, side].

    transformers' CLIPImageProcessor: the shorter side to ``side`` (bicubic), the middle cut out, mean and deviation as above.
    """
    height, width, _ = pixels.shape
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    cut = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return ((cut - _MEAN) / _STD).transpose(2, 0, 1)[None].astype(np.float16)


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
