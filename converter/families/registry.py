"""The registry of model families, by which a checkpoint is recognised before anything is written.

To add a family, write a module with what `converter.families.family.FamilyModule` names and add it here.
"""

from __future__ import annotations

import re

from converter.errors import CheckpointError, quoted
from converter.families import stable_diffusion, stable_diffusion_xl
from converter.families.family import Family, FamilyModule, Model
from converter.sources.component_kinds import COMPONENTS
from converter.sources.config_tables import SCHEDULER
from converter.sources.configs import Config, not_followed
from converter.sources.source import Source

FAMILIES: tuple[FamilyModule, ...] = (stable_diffusion, stable_diffusion_xl)
#: By the names that anemone.json has for them.
MODELS: dict[str, Model] = {name: model for family in FAMILIES for name, model in family.MODELS.items()}
_SCHEDULER = "scheduler/scheduler_config.json"
#: Forms of a family's pipelines; the sampler's own ways are each request's.
_FORMS = re.compile(r"(KDiffusion|ControlNet|LongPromptWeighting)?(Img2Img|Inpaint)?Pipeline(Legacy|Safe)?")
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


def _is_known(pipeline: str) -> bool:
    names = (name for family in FAMILIES for name in family.PIPELINES if pipeline.startswith(name))
    return any(_FORMS.fullmatch(pipeline.removeprefix(name)) for name in names)


def _expect_pipeline(checkpoint: Source) -> None:
    """Raise CheckpointError where model_index.json names a pipeline or a component of a class that no family has."""
    pipeline = checkpoint.index.get("_class_name")
    if pipeline is not None and not (isinstance(pipeline, str) and _is_known(pipeline)):
        known = ", ".join(f"{name}Pipeline" for family in FAMILIES for name in family.PIPELINES)
        raise CheckpointError(
            f"model_index.json is of {quoted(pipeline)}, whose images are made in another way than those of {known} and "
            "their Img2Img, Inpaint and ControlNet forms, which this converter knows"
        )
    classes = {component.name: component.classes for component in COMPONENTS}
    classes |= {component.tokenizer: _TOKENIZERS for component in COMPONENTS if component.tokenizer is not None}
    for part, kind in checkpoint.part_classes.items():
        if part in classes and kind not in classes[part]:
            raise CheckpointError(
                f"model_index.json has {quoted(kind)} for {part}; this converter knows {' and '.join(classes[part])}"
            )


def recognise(checkpoint: Source, vae: Config | None = None) -> Family:
    """Return the checkpoint's family; raises CheckpointError saying what was found and what is supported.

    ``vae`` is the configuration of an autoencoder that replaces the checkpoint's; None takes its own.
    """
    _expect_pipeline(checkpoint)
    for family in FAMILIES:
        if family.recognises(checkpoint):
            return family.recognise(checkpoint, vae)
    denoisers = [component.name for component in COMPONENTS if component.role == "denoiser"]
    raise CheckpointError(
        f"{checkpoint.name} has no {' or '.join(denoisers)} with a config.json, which makes the images"
    )


def settings_not_followed(checkpoint: Source) -> list[str]:
    """Return what the checkpoint's configurations say that is not followed though their library might, in sentences."""
    found = not_followed(_SCHEDULER, checkpoint.config("scheduler"), SCHEDULER)
    for component in COMPONENTS:
        if checkpoint.has(component.name):
            found += not_followed(f"{component.name}/config.json", checkpoint.config(component.name), component.keys)
    return found
