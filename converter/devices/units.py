"""Compute units of a model's networks: as the settings say, otherwise by the kind of network and of attention."""

from __future__ import annotations

from collections.abc import Mapping

from converter.folder import Manifest
from converter.networks.registry import kind_of
from converter.runtime import ComputeUnit

#: Network -> compute unit, as a person sets them; "default" is for those that are not named.
Settings = Mapping[str, ComputeUnit]
#: Forms of attention that were made for the Neural Engine (see `converter.networks.attention`).
_SPLIT = ("split_einsum", "split_einsum_v2")
#: What comes next where a program does not run on its unit.
_NEXT: tuple[ComputeUnit, ...] = ("CPU_AND_GPU", "CPU_ONLY")


def asked_units(network: str, settings: Settings) -> ComputeUnit | None:
    """Return the unit a person wants the network on; None where nothing is said."""
    return settings.get(kind_of(network).name, settings.get("default"))


def usual_units(manifest: Manifest, network: str) -> ComputeUnit:
    """Return the unit that suits the network: the Neural Engine for split attention alone, and for no autoencoder."""
    return "CPU_AND_GPU" if kind_of(network).prefers_gpu or manifest.attention not in _SPLIT else "CPU_AND_NE"


def unit_order(manifest: Manifest, network: str, settings: Settings) -> tuple[ComputeUnit, ...]:
    """Return the units the network may run on, the best first: what a person wants and nothing else, or the usual and others."""
    if asked := asked_units(network, settings):
        return (asked,)
    usual = usual_units(manifest, network)
    return (usual, *(units for units in _NEXT if units != usual))


def preferred_units(manifest: Manifest, network: str, settings: Settings) -> ComputeUnit:
    """Return the first of `unit_order`."""
    return unit_order(manifest, network, settings)[0]
