"""Find operations in a Core ML package that would leave the Neural Engine, slow it, or lose precision.

This needs the package only, no Mac.

>>> text, status = lint(Path("unet.mlpackage"))
>>> [finding.rule for finding in lint_package(Path("unet.mlpackage"), "M4")]

The rules: E1 unsupported types, E2 rank, E3 axis lengths, E4 flexible shapes, E5 unsupported operations, E6 weight
sizes, E7 versions, E8 kernels, E9 compression; W1 linear layers, W2 padding, W3 softmax, W4 transposed rows, W5 joined
rows, W6 decomposed norms, W7 unused parts, W8 fused attention, W9 compile time, W10 islands, W11 traffic;
N1 constants, N2 squares and exponentials, N3 late scale, N4 angles, N5 epsilons, N6 narrow slices, N7 indices, N8
palettes, N9 flat products.
Core ML itself decides the placement, on a Mac; this does not replace its compute plan there.
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
