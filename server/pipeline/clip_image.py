"""Images as CLIP's vision towers take them: for the safety checker and the image encoder of IP-Adapters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from server.pipeline.images import Pixels

#: OpenAI's mean and standard deviation of red, green and blue, for CLIP (transformers' OPENAI_CLIP_MEAN and _STD). Apple's
#: Swift pipeline takes ImageNet's here, for which the checker was not trained.
_MEAN = np.asarray([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.asarray([0.26862954, 0.26130258, 0.27577711], np.float32)


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
