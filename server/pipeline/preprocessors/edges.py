"""Maps of edges and lines, white on black, for ControlNets that were trained with these.

OpenCV is imported on first use: the HTTP process starts and answers most requests without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.pipeline.images import Pixels

Floats = NDArray[np.float32]

#: Canny's thresholds that the published ControlNets were trained with (diffusers' ControlNet guide, and lllyasviel's).
LOW_THRESHOLD, HIGH_THRESHOLD = 100, 200
#: Standard deviations of the blurs of `soft_edge`, in pixels of an image 512 pixels wide or high.
_SOFT_SCALES = (1.0, 2.0, 4.0)
#: The blur and the least difference, in levels, of controlnet_aux' LineartStandardDetector.
_LINE_BLUR, _LINE_LEVELS = 6.0, 8.0


def _white_on_black(strength: Floats) -> Pixels:
    """Return RGB from strengths in 0 to 1, [h, w]."""
    levels = np.clip(strength * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, 2)


def canny(image: Pixels, low: int = LOW_THRESHOLD, high: int = HIGH_THRESHOLD) -> Pixels:
    """Return the edges that Canny's algorithm (1986) finds in an RGB image: uint8 [h, w, 3], 0 or 255.

    ``low`` and ``high`` are thresholds of the gradient, 0 to 255: an edge begins at ``high`` and goes on down to ``low``.
    """
    import cv2

    return np.repeat(np.asarray(cv2.Canny(image, low, high), np.uint8)[..., None], 3, 2)


def soft_edge(image: Pixels) -> Pixels:
    """Return the strength of edges at three scales, uint8 [h, w, 3]: an image's outlines, blurred.

    This has no weights: the largest of the Sobel gradients of three Gaussian blurs, and of the three channels, with the
    strongest hundredth of all pixels white. It resembles what holistically-nested edge detection (HED) finds, without its
    knowledge of which edges belong to objects.
    """
    import cv2

    unit = max(image.shape[:2]) / 512
    strongest = np.zeros(image.shape[:2], np.float32)
    for scale in _SOFT_SCALES:
        blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), scale * unit)
        across, down = cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)
        # A wider blur flattens the same step in proportion.
        strongest = np.maximum(strongest, np.hypot(across, down).max(2) * np.float32(scale))
    white = float(np.percentile(strongest, 99))
    return _white_on_black(np.asarray(strongest / max(white, 1.0), np.float32))


def lines(image: Pixels) -> Pixels:
    """Return dark lines on a light ground as white lines on black, uint8 [h, w, 3], as controlnet_aux' lineart_standard does.

    A pixel is as bright as it is darker than its surroundings (a Gaussian blur), in the channel where that is least,
    relative to the median of all pixels that are darker by more than 8 levels.
    """
    import cv2

    pixels = image.astype(np.float32)
    darker = np.clip((cv2.GaussianBlur(pixels, (0, 0), _LINE_BLUR) - pixels).min(2), 0, 255)
    marked = darker[darker > _LINE_LEVELS]
    typical = max(16.0, float(np.median(marked))) if marked.size else 16.0
    return _white_on_black(np.asarray(darker / typical * (127 / 255), np.float32))


def invert(image: Pixels) -> Pixels:
    """Return the negative: a drawing in black on white becomes the map that edge ControlNets take."""
    return np.asarray(255 - image, np.uint8)
