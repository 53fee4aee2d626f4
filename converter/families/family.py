"""The protocol of a model family, which conversion and the manifest use whatever the denoiser is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from converter.folder import Conditions, SchedulerSettings
from converter.networks.registry import ModelSizes, NetworkKind
from converter.sources.configs import Config
from converter.sources.source import Source


class Family(Protocol):
    """A checkpoint of a known family: the networks it has and the sizes they agree on."""

    @property
    def name(self) -> str:
        """The family as anemone.json has it; one of its module's MODELS."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of a model folder, in the order they are written."""

    @property
    def sizes(self) -> ModelSizes:
        """What the networks' programs depend on beside their own configurations."""

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the denoiser, which then runs once a step."""

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts."""

    @property
    def schedule(self) -> SchedulerSettings:
        """The noise it was trained on."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @property
    def vae_scaling_factor(self) -> float:
        """What the autoencoder's latents are multiplied by."""

    @property
    def tokens(self) -> int:
        """How many tokens the text encoders take at once."""

    @property
    def sample_size(self) -> tuple[int, int] | None:
        """(height, width) of the latents it was trained at; None where its configuration does not say."""

    def conditions(self, index: Mapping[str, Any]) -> Conditions:
        """Return what the denoiser takes beside latents, timestep and prompt; ``index`` is model_index.json."""

    def check_control(self, config: Config) -> None:
        """Raise CheckpointError where a ControlNet of this config.json does not fit the denoiser."""


@dataclass(frozen=True)
class Model:
    """A model of a family by the name that anemone.json has for it, as it was published.

    denoiser: the kind of network that is run in every step.
    text_encoders: the networks that read the prompt.
    context_width: how wide the prompt's states are.
    latent_channels: channels of the latents.
    """

    denoiser: NetworkKind
    text_encoders: tuple[str, ...]
    context_width: int
    latent_channels: int


class FamilyModule(Protocol):
    """What a module of a family has."""

    @property
    def MODELS(self) -> Mapping[str, Model]:
        """Its models by the names that anemone.json has for them."""

    @property
    def PIPELINES(self) -> tuple[str, ...]:
        """The beginnings of model_index.json's pipelines whose images follow from the networks and the scheduler alone."""

    def recognises(self, checkpoint: Source) -> bool:
        """Return whether the checkpoint's configurations are this family's."""

    def recognise(self, checkpoint: Source, vae: Config | None) -> Family:
        """Return the checkpoint's family; ``vae`` is the configuration of an autoencoder that replaces its own.

        Raises CheckpointError saying what was found and what is supported.
        """
