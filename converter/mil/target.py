"""The oldest macOS that a program runs on, which decides its opset and the form of some operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converter.errors import AnemoneError


class TargetError(AnemoneError):
    """A deployment target is unknown, or lacks a feature that an option needs."""


TargetName = Literal["macOS13", "macOS14", "macOS15"]


@dataclass(frozen=True)
class Target:
    """A macOS release as a deployment target (coremltools' ``ct.target`` of the same name).

    opset: the operations' version (coremltools' ops/defs: iOS16, iOS17, iOS18). specification_version: the package's.
    """

    name: TargetName
    opset: str
    specification_version: int

    def at_least(self, other: Target) -> bool:
        """Return whether programs for this target may use the features of ``other``."""
        return self.specification_version >= other.specification_version


#: The first release whose programs accept fp16 inputs.
MACOS13 = Target("macOS13", "CoreML6", 7)
MACOS14 = Target("macOS14", "CoreML7", 8)
#: The first release with several functions in one package.
MACOS15 = Target("macOS15", "CoreML8", 9)
#: By name, oldest first.
TARGETS: dict[TargetName, Target] = {t.name: t for t in (MACOS13, MACOS14, MACOS15)}


def target_named(name: str) -> Target:
    """Return the target called ``name``; raises TargetError for an unknown name."""
    for target in TARGETS.values():
        if target.name == name:
            return target
    raise TargetError(f"unknown deployment target {name!r}; accepted: {', '.join(TARGETS)}")
