"""Find what in a Core ML package would leave the Neural Engine, slow it, or lose precision, from the package alone.

>>> text, status = lint(Path("unet.mlpackage"))
>>> [finding.rule for finding in lint_package(Path("unet.mlpackage"), "M4")]

The rules: E1 foreign types, E2 rank, E3 axis lengths, E4 flexible shapes, E5 operations without a path, E6 weight
sizes, E7 versions, E8 kernels, E9 compression; W1 linear layers, W2 padding, W3 softmax, W4 transposed rows, W5 joined
rows, W6 spelled-out norms, W7 superfluous things, W8 fused attention, W9 compile time, W10 islands, W11 traffic;
N1 constants, N2 squares and exponentials, N3 late scale, N4 angles, N5 epsilons, N6 narrow slices, N7 indices, N8
palettes, N9 flat products.
Core ML decides placement itself, on a Mac; nothing here replaces its compute plan there.
"""

from __future__ import annotations

from converter.lint.chips import CHIPS, DEFAULT_CHIP, ChipError
from converter.lint.finding import Finding, Place, exit_status, worst
from converter.lint.packages import lint, lint_folder, lint_package
from converter.lint.report import report

__all__ = [
    "CHIPS",
    "DEFAULT_CHIP",
    "ChipError",
    "Finding",
    "Place",
    "exit_status",
    "lint",
    "lint_folder",
    "lint_package",
    "report",
    "worst",
]
