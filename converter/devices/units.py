"""Choose the compute units of a model's networks: by the settings, else by network kind and attention."""

from __future__ import annotations

from collections.abc import Mapping

from converter.manifest import Manifest
from converter.networks.registry import kind_of
from converter.runtime import ComputeUnit

#: Network -> compute unit, set by the user; "default" is for networks that are not named.
Settings = Mapping[str, ComputeUnit]
#: Attention implementations for the Neural Engine (see `converter.networks.attention`).
_SPLIT = ("split_einsum", "split_einsum_v2")
#: Units to try next if a program does not run on its usual one.
_NEXT: tuple[ComputeUnit, ...] = ("CPU_AND_GPU", "CPU_ONLY")


def requested_units(network: str, settings: Settings) -> ComputeUnit | None:
    """Return the network's unit in the settings; None if they do not name one."""
    return settings.get(kind_of(network).name, settings.get("default"))


def usual_units(manifest: Manifest, network: str) -> ComputeUnit:
    """Return the unit that suits the network: the Neural Engine if attention is split, except for autoencoders."""
    return "CPU_AND_GPU" if kind_of(network).prefers_gpu or manifest.attention not in _SPLIT else "CPU_AND_NE"


def unit_order(manifest: Manifest, network: str, settings: Settings) -> tuple[ComputeUnit, ...]:
    """Return the units that the network may run on, best first: only the setting's, or the usual one and then others."""
    if requested := requested_units(network, settings):
        return (requested,)
    usual = usual_units(manifest, network)
    return (usual, *(units for units in _NEXT if units != usual))


def preferred_units(manifest: Manifest, network: str, settings: Settings) -> ComputeUnit:
    """Return the first of `unit_order`."""
    return unit_order(manifest, network, settings)[0]
