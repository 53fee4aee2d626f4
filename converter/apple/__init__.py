"""Use folders of Apple's converter (github.com/apple/ml-stable-diffusion) as models, with their packages unchanged.

>>> adopt(Path("coreml-stable-diffusion-v1-5"), AppleSettings())
"""

from __future__ import annotations

from converter.apple.adopt import adopt
from converter.apple.layout import is_apple
from converter.apple.model import AppleModel, recognize_apple
from converter.apple.settings import ACCEPTED, AppleSettings, AppleSettingsError, option

__all__ = [
    "ACCEPTED",
    "AppleModel",
    "AppleSettings",
    "AppleSettingsError",
    "adopt",
    "is_apple",
    "option",
    "recognize_apple",
]
