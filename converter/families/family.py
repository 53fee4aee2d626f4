"""The protocol of a model family: the only form in which conversion and the manifest know a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from converter.manifest import Conditions, SchedulerSettings
from converter.networks.registry import ModelSizes, NetworkKind
from converter.sources.configs import Config
from converter.sources.ip_adapter import IPAdapterFile
from converter.sources.source import Source


class Family(Protocol):
    """A checkpoint of a known family: its networks and the sizes they agree on."""

    @property
    def name(self) -> str:
        """The model's name in anemone.json; one of its module's MODELS."""

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of a model folder, in the order they are written."""

    @property
    def sizes(self) -> ModelSizes:
        """The sizes that the networks' programs depend on besides their own configurations."""

    @property
    def takes_guidance(self) -> bool:
        """Return whether the guidance scale is an input of the denoiser, which then runs once a step."""

    @property
    def prediction_type(self) -> str:
        """The denoiser's output; one of `converter.sources.config_tables.PREDICTION_TYPES`."""

    @property
    def schedule(self) -> SchedulerSettings:
        """The noise schedule it was trained on."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @property
    def vae_scaling_factor(self) -> float:
        """The factor that the autoencoder's latents are multiplied by."""

    @property
    def tokens(self) -> int:
        """The number of tokens that the text encoders take at once."""

    @property
    def sample_size(self) -> tuple[int, int] | None:
        """(height, width) of the latents it was trained at; None if its configuration does not say."""

    def conditions(self, index: Mapping[str, Any]) -> Conditions:
        """Return the denoiser's inputs besides latents, timestep and prompt; ``index`` is model_index.json."""

    def check_control(self, config: Config) -> None:
        """Raise CheckpointError if a ControlNet with this config.json does not fit the denoiser."""

    def check_adapter(self, adapter: IPAdapterFile) -> None:
        """Raise CheckpointError if an IP-Adapter does not fit the denoiser."""


@dataclass(frozen=True)
class Model:
    """A published model of a family.

    denoiser: the network kind that runs in every step.
    text_encoders: the networks that read the prompt.
    context_width: width of the prompt's states.
    latent_channels: channels of the latents.
    """

    denoiser: NetworkKind
    text_encoders: tuple[str, ...]
    context_width: int
    latent_channels: int


class FamilyModule(Protocol):
    """The contents of a family's module."""

    @property
    def MODELS(self) -> Mapping[str, Model]:
        """Its models, by their names in anemone.json."""

    @property
    def PIPELINES(self) -> tuple[str, ...]:
        """Prefixes of the pipeline classes (model_index.json) whose images depend on the networks and the scheduler alone."""

    def recognizes(self, checkpoint: Source) -> bool:
        """Return whether the checkpoint is of this family, by its configurations."""

    def recognize(self, checkpoint: Source, vae: Config | None) -> Family:
        """Return the checkpoint's family; ``vae`` is the configuration of an autoencoder that replaces its own.

        Raises CheckpointError with what the checkpoint has and what is supported.
        """
