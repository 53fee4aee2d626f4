"""What a conversion writes into anemone.json."""

from __future__ import annotations

from importlib.metadata import version

from converter import __version__
from converter.conversion.plan import ConversionPlan
from converter.folder import (
    GUIDED,
    UNGUIDED,
    USUAL,
    Conditions,
    Defaults,
    Manifest,
    Package,
    Source,
    Versions,
)

#: SDXL's pipelines take an empty negative prompt for zeros unless model_index.json says otherwise.
_ZEROS = "force_zeros_for_empty_prompt"


def _defaults(plan: ConversionPlan) -> Defaults:
    usual = GUIDED if plan.family.unet.guidance_width else UNGUIDED if plan.batches == (1,) else USUAL
    said = plan.checkpoint.defaults
    return Defaults(
        steps=int(said.get("steps", usual.steps)),
        guidance_scale=float(said.get("guidance_scale", usual.guidance_scale)),
        scheduler=str(said.get("scheduler", usual.scheduler)),
    )


def make_manifest(plan: ConversionPlan, networks: dict[str, tuple[Package, ...]], left_out: list[str]) -> Manifest:
    """The manifest of a finished conversion; ``left_out`` has what of the checkpoint is not in it, in sentences."""
    family, addition = plan.family, plan.family.unet.addition
    return Manifest(
        name=plan.name,
        family=family.name,
        prediction_type=family.prediction_type,
        attention=plan.attention,
        precision="float16",
        sizes=plan.sizes,
        latent_channels=family.latent_channels,
        vae_scale_factor=family.vae_scale_factor,
        vae_scaling_factor=family.vae_scaling_factor,
        tokens=family.tokens,
        conditions=Conditions(
            inpainting=family.inpainting,
            guidance_width=family.unet.guidance_width,
            time_ids=None if addition is None else addition.ids,
            zeros_for_no_prompt=addition is not None and bool(plan.checkpoint.index.get(_ZEROS, True)),
        ),
        scheduler=family.schedule,
        defaults=_defaults(plan),
        networks={name: networks[name] for name in plan.networks},
        source=Source(plan.checkpoint.kind, plan.checkpoint.name, plan.checkpoint.sha256, plan.checkpoint.stamp),
        converter=Versions(__version__, version("coremltools")),
        plan=plan.fingerprint,
        left_out=tuple(left_out),
    )
