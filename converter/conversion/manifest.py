"""The manifest that a conversion writes."""

from __future__ import annotations

from importlib.metadata import version

from converter import __version__
from converter.checksums import FileSum
from converter.conversion.plan import REVISION, ConversionPlan
from converter.manifest import Manifest, Package, Source, Versions


def make_manifest(
    plan: ConversionPlan, networks: dict[str, tuple[Package, ...]], left_out: list[str], files: dict[str, FileSum]
) -> Manifest:
    """Return the manifest of a finished conversion.

    ``left_out`` says in sentences which parts of the checkpoint are not in it; ``files`` has its files' checksums.
    """
    family = plan.family
    return Manifest(
        name=plan.name,
        family=family.name,
        prediction_type=family.prediction_type,
        attention=plan.options.attention,
        precision=plan.precision,
        sizes=plan.sizes,
        latent_channels=family.latent_channels,
        vae_scale_factor=family.sizes.latent_factor,
        vae_scaling_factor=family.vae_scaling_factor,
        tokens=family.tokens,
        conditions=family.conditions(plan.checkpoint.index),
        scheduler=family.schedule,
        defaults=plan.defaults,
        networks={name: networks[name] for name in plan.networks},
        source=Source(plan.checkpoint.kind, plan.checkpoint.name, plan.checkpoint.sha256, plan.checkpoint.stamp),
        converter=Versions(__version__, version("coremltools"), REVISION),
        plan=plan.fingerprint,
        options=plan.options,
        left_out=tuple(left_out),
        clip_skip=plan.clip_skip,
        files=files,
    )
