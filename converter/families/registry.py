"""The registry of model families; a checkpoint's family is recognized before anything is written.

To add a family, write a module that implements `converter.families.family.FamilyModule` and add it here.
"""

from __future__ import annotations

import re

from converter.errors import CheckpointError, quoted
from converter.families import stable_diffusion, stable_diffusion_xl
from converter.families.family import Family, FamilyModule, Model
from converter.sources.component_kinds import COMPONENTS
from converter.sources.config_tables import SCHEDULER
from converter.sources.configs import Config, ignored_settings
from converter.sources.source import Source

FAMILIES: tuple[FamilyModule, ...] = (stable_diffusion, stable_diffusion_xl)
#: Name in anemone.json -> model.
MODELS: dict[str, Model] = {name: model for family in FAMILIES for name, model in family.MODELS.items()}
_SCHEDULER = "scheduler/scheduler_config.json"
#: Suffixes of pipeline classes that are accepted, since a request chooses the scheduler and the task itself.
_FORMS = re.compile(r"(KDiffusion|ControlNet|LongPromptWeighting)?(Img2Img|Inpaint)?Pipeline(Legacy|Safe)?")
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


def _is_known(pipeline: str) -> bool:
    names = (name for family in FAMILIES for name in family.PIPELINES if pipeline.startswith(name))
    return any(_FORMS.fullmatch(pipeline.removeprefix(name)) for name in names)


def _expect_pipeline(checkpoint: Source) -> None:
    """Raise CheckpointError if model_index.json names a pipeline or a component class that no family has."""
    pipeline = checkpoint.index.get("_class_name")
    if pipeline is not None and not (isinstance(pipeline, str) and _is_known(pipeline)):
        accepted = ", ".join(f"{name}Pipeline" for family in FAMILIES for name in family.PIPELINES)
        raise CheckpointError(
            f"model_index.json names the pipeline {quoted(pipeline)}, which is not supported; accepted: {accepted} and their "
            "Img2Img, Inpaint and ControlNet forms"
        )
    classes = {component.name: component.classes for component in COMPONENTS}
    classes |= {component.tokenizer: _TOKENIZERS for component in COMPONENTS if component.tokenizer is not None}
    for part, kind in checkpoint.part_classes.items():
        if part in classes and kind not in classes[part]:
            raise CheckpointError(
                f"model_index.json has {quoted(kind)} for {part}; accepted: {' and '.join(classes[part])}"
            )


def recognize(checkpoint: Source, vae: Config | None = None) -> Family:
    """Return the checkpoint's family. Raises CheckpointError with what the checkpoint has and what is supported.

    ``vae`` is the configuration of an autoencoder that replaces the checkpoint's; None takes its own.
    """
    _expect_pipeline(checkpoint)
    for family in FAMILIES:
        if family.recognizes(checkpoint):
            return family.recognize(checkpoint, vae)
    denoisers = [component.name for component in COMPONENTS if component.role == "denoiser"]
    raise CheckpointError(
        f"{checkpoint.name} has no denoiser; a folder {' or '.join(denoisers)} with a config.json is expected"
    )


def ignored_checkpoint_settings(checkpoint: Source) -> list[str]:
    """Return a sentence for each setting of the checkpoint that the converter ignores though its library may use it."""
    sentences = ignored_settings(_SCHEDULER, checkpoint.config("scheduler"), SCHEDULER)
    for component in COMPONENTS:
        if checkpoint.has(component.name):
            sentences += ignored_settings(
                f"{component.name}/config.json", checkpoint.config(component.name), component.keys
            )
    return sentences
