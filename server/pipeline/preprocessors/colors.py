"""Maps of colors: an image without its details, for ControlNets that add details (tile, blur, color)."""

from __future__ import annotations

import numpy as np

from server.pipeline.images import Pixels

#: The side of a block of `color_grid`, of T2I-Adapter's color annotator.
_BLOCK = 64
#: How much smaller `tile` makes an image before it is enlarged again.
_TILE_FACTOR = 8
#: The standard deviation of `blur`, in pixels of an image 512 pixels wide or high: the default of A1111's blur_gaussian.
_BLUR = 9.0


def _through(image: Pixels, factor: int, enlarge: int) -> Pixels:
    """Return the image reduced by ``factor``, averaging, and enlarged again with one of OpenCV's interpolations."""
    import cv2

    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=enlarge), np.uint8)


def color_grid(image: Pixels) -> Pixels:
    """Return the mean colors of blocks of about 64x64 pixels, uint8 [h, w, 3]: a rough palette with its places."""
    import cv2

    return _through(image, _BLOCK, cv2.INTER_NEAREST)


def tile(image: Pixels) -> Pixels:
    """Return the image at an eighth of its size, enlarged again (bicubic), uint8 [h, w, 3]."""
    import cv2

    return _through(image, _TILE_FACTOR, cv2.INTER_CUBIC)


def blur(image: Pixels) -> Pixels:
    """Return the image after a Gaussian blur, uint8 [h, w, 3]; its width grows with the image's."""
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR * max(image.shape[:2]) / 512), np.uint8)
