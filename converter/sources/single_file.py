"""A whole Stable Diffusion checkpoint in one .safetensors file, in the original (CompVis, Stability, Civitai) naming.

The model is recognized by its tensors' names and shapes. Nothing is copied: a component's tensors are views of the mapped
file under diffusers' names. Such files have no tokenizers; CLIP's is used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError
from converter.sources import clip_vocabulary
from converter.sources.checkpoint import content_hash, size_and_time
from converter.sources.component_kinds import UNET, VAE
from converter.sources.config_tables import PREDICTION_TYPES
from converter.sources.entry import Part
from converter.sources.ldm import unet, vae
from converter.sources.ldm.clip import PLACES, TextEncoder, text_encoder_config, text_encoder_parts
from converter.sources.ldm.leftovers import left_out_of_file
from converter.sources.ldm.prediction import MARKS, Prediction, prediction, sample_size, scheduler_config
from converter.sources.ldm.unsupported import another_unet, describe_unsupported, part_of_a_checkpoint
from converter.sources.snapshot import file_name
from converter.sources.tensors import Tensors

_SUPPORTED = (
    "this converter reads single files of Stable Diffusion 1.x, 2.x, SDXL and the SDXL refiner, and their inpainting "
    "models, with UNet, text encoders and VAE in one"
)
_INPUT = f"{unet.PREFIX}input_blocks.0.0.weight"
_SIZES_AND_POOLED_TEXT = f"{unet.PREFIX}label_emb.0.0.weight"
_DECODER = f"{vae.PREFIX}decoder.conv_in.weight"
#: Factors of the published models' latents (scale_factor in the original yaml, scaling_factor in vae/config.json).
SCALING_FACTORS = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025, "sdxl_refiner": 0.13025}
#: Padding of prompts: OpenCLIP's tokenizer pads with zeros (id 0 is "!"), OpenAI's repeats the end.
_OPENCLIP_PAD = "!"


@dataclass(frozen=True)
class Architecture:
    """The model that a single file has.

    family: sd1, sd2, sdxl or sdxl_refiner.
    inpainting: whether the UNet also takes a mask and the masked image (9 channels).
    text_encoders: the text encoders in the file.
    sample_size: side, in latents, of the images it was made for.
    """

    family: str
    inpainting: bool
    text_encoders: tuple[TextEncoder, ...]
    prediction: Prediction
    sample_size: int


def recognize_file(tensors: Tensors, prediction_type: str | None = None) -> Architecture:
    """Return the architecture of a file's tensors. Raises CheckpointError that says what the file is and what is supported.

    ``prediction_type`` replaces the one in the file or the guess.
    """
    unsupported = describe_unsupported(tensors)
    if unsupported is not None:
        raise CheckpointError(f"it is {unsupported}; {_SUPPORTED}")
    # The further conditions distinguish SDXL's refiner from Stable Diffusion 2 in the same layout (SD Turbo).
    xl = _SIZES_AND_POOLED_TEXT in tensors
    complete = _INPUT in tensors and _DECODER in tensors
    candidates = [
        (family, encoders)
        for family, places in PLACES.items()
        for encoders in places
        if complete and family.startswith("sdxl") == xl and all(encoder.embedding in tensors for encoder in encoders)
    ]
    if not candidates:
        raise CheckpointError(f"it is {part_of_a_checkpoint(tensors)}; {_SUPPORTED}")
    (family, encoders), *_ = candidates
    channels, latents = tensors.size(_INPUT, 1), tensors.size(_DECODER, 1)
    if channels not in (latents, 2 * latents + 1):
        raise CheckpointError(f"it is {another_unet(channels)}; {_SUPPORTED}")
    inpainting = channels != latents
    predicts = prediction(tensors, family, inpainting=inpainting, requested=prediction_type)
    return Architecture(family, inpainting, encoders, predicts, sample_size(tensors.metadata, family, predicts.type))


def _expect_vocabulary(tensors: Tensors, encoder: TextEncoder) -> None:
    # Additional rows are embeddings that were trained and merged in; they do not change the ids before them.
    rows = tensors.size(encoder.embedding, 0)
    if rows < clip_vocabulary.SIZE:
        raise CheckpointError(
            f"{encoder.embedding} has {rows} rows; at least {clip_vocabulary.SIZE} are accepted, the size of CLIP's vocabulary"
        )


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint in one file: its architecture, and its configurations and tensors in diffusers' form.

    requested_type: the prediction type it was opened with.
    hub_name: owner/name and the file without its suffix, if it is a copy from the Hugging Face hub.
    """

    path: Path
    source: Tensors
    architecture: Architecture
    requested_type: str | None = None
    hub_name: str | None = None

    @staticmethod
    def open(path: Path, prediction_type: str | None = None, hub_name: str | None = None) -> SingleFile:
        """Return the checkpoint in the file ``path``. Raises CheckpointError that says what the file is instead.

        ``prediction_type`` is one of PREDICTION_TYPES; None takes the file's. All components are looked up before this
        returns, so a file with an unreadable part is refused here.
        """
        if prediction_type not in (None, *PREDICTION_TYPES):
            raise CheckpointError(f"prediction_type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
        source = Tensors([path])
        try:
            checkpoint = SingleFile(path, source, recognize_file(source, prediction_type), prediction_type, hub_name)
            for component in checkpoint.components:
                checkpoint.config(component)
                checkpoint.tensors(component)
            _ = checkpoint.leftovers
            for encoder in checkpoint.architecture.text_encoders:
                _expect_vocabulary(source, encoder)
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be converted: {error}") from error
        return checkpoint

    @property
    def name(self) -> str:
        """The model's name: the file's without its suffix; a file from the hub has its repository in front."""
        return self.hub_name or file_name(self.path)

    @property
    def kind(self) -> str:
        """``hub``, or ``single_file`` for a local file."""
        return "hub" if self.hub_name else "single_file"

    @property
    def components(self) -> tuple[str, ...]:
        """The networks in the file: text_encoder and text_encoder_2 (one or both), unet and vae."""
        return (*(encoder.component.name for encoder in self.architecture.text_encoders), UNET.name, VAE.name)

    @cached_property
    def _layout(self) -> unet.UNetLayout:
        return unet.unet_layout(self.source)

    def _text_encoder(self, component: str) -> TextEncoder:
        for encoder in self.architecture.text_encoders:
            if encoder.component.name == component:
                return encoder
        raise CheckpointError(f"{self.path} has no {component}, only {', '.join(self.components)}")

    def has(self, component: str) -> bool:
        """Return whether the file has this network."""
        return component in self.components

    def config(self, component: str) -> dict[str, Any]:
        """Return a network's config.json, or for ``scheduler`` its scheduler_config.json."""
        family, size = self.architecture.family, self.architecture.sample_size
        if component == "scheduler":
            return scheduler_config(family, self.architecture.prediction)
        if component == UNET.name:
            config = unet.unet_config(self.source, self._layout, eight_heads=family == "sd1", sample_size=size)
            if (family, self.architecture.prediction.type) == ("sd2", "v_prediction"):
                config["upcast_attention"] = True  # Stable Diffusion 2.1's attention scores overflow fp16
            return config
        if component == VAE.name:
            return vae.vae_config(self.source, scaling_factor=SCALING_FACTORS[family], latents=size)
        return text_encoder_config(self.source, self._text_encoder(component))

    def _parts(self, component: str) -> dict[str, Part]:
        if component == UNET.name:
            return unet.unet_parts(self.source, self._layout)
        if component == VAE.name:
            return vae.vae_parts(self.source)
        return text_encoder_parts(self.source, self._text_encoder(component))

    def tensors(self, component: str) -> Tensors:
        """Return a network's weights under diffusers' names, as memory-mapped arrays."""
        return self.source.renamed(self._parts(component))

    @cached_property
    def leftovers(self) -> tuple[str, ...]:
        """Sentences about the file's tensors outside its networks. Raises CheckpointError; see `left_out_of_file`."""
        taken = {part.source for component in self.components for part in self._parts(component).values()}
        rest = [name for name in self.source if name not in taken and name not in MARKS]
        return left_out_of_file((name, self.source.stored_shape(name)) for name in rest)

    @cached_property
    def index(self) -> dict[str, Any]:
        """The pipeline settings in model_index.json of the family's published checkpoints."""
        kind = "StableDiffusionXL" if self.architecture.family.startswith("sdxl") else "StableDiffusion"
        if self.architecture.inpainting:
            return {"_class_name": f"{kind}InpaintPipeline"}
        if self.architecture.family == "sdxl_refiner":
            return {"_class_name": f"{kind}Img2ImgPipeline", "force_zeros_for_empty_prompt": False}
        index: dict[str, Any] = {"_class_name": f"{kind}Pipeline"}
        return index | {"force_zeros_for_empty_prompt": True} if self.architecture.family == "sdxl" else index

    @property
    def part_classes(self) -> dict[str, Any]:
        """Empty: single files do not name the classes of a pipeline's parts."""
        return {}

    @property
    def defaults(self) -> dict[str, Any]:
        """Empty: single files have no recommended settings."""
        return {}

    @property
    def controlnets(self) -> dict[str, Path]:
        """No file with a checkpoint has a ControlNet."""
        return {}

    def tokenizer_files(self) -> dict[str, dict[str, bytes]]:
        """Return CLIP's tokenizer for each text encoder (tokenizer, tokenizer_2): file name -> content."""
        return {
            encoder.component.tokenizer: clip_vocabulary.tokenizer_files(
                _OPENCLIP_PAD if encoder.openclip else clip_vocabulary.END
            )
            for encoder in self.architecture.text_encoders
            if encoder.component.tokenizer is not None
        }

    def _with_requested_type(self, digest: str) -> str:
        if self.requested_type is None:
            return digest
        return hashlib.sha256(f"{digest} prediction_type {self.requested_type}".encode()).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """The file's SHA-256, as other tools compute it; with a requested prediction type, a hash of both."""
        return self._with_requested_type(content_hash(self.path))

    @cached_property
    def stamp(self) -> str:
        """A hash of the file's name, size and modification time, and of the requested prediction type."""
        about = f"{self.path.name} {size_and_time(self.path)}"
        return self._with_requested_type(hashlib.sha256(about.encode()).hexdigest())
