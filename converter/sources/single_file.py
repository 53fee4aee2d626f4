"""A whole Stable Diffusion checkpoint in one .safetensors file, in the original (CompVis, Stability, Civitai) naming.

What it is shows from its tensors' names and shapes alone; nothing is copied: a component's tensors are views of the
mapped file under diffusers' names. Tokenizers are not in such files: CLIP's own is given with them.
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
from converter.sources.ldm import unet, vae
from converter.sources.ldm.clip import PLACES, TextEncoder, text_encoder_config, text_encoder_parts
from converter.sources.ldm.leftovers import left_out_of_file
from converter.sources.ldm.prediction import MARKS, Prediction, prediction, sample_size, scheduler_config
from converter.sources.ldm.unsupported import another_unet, describe_unsupported, part_of_a_checkpoint
from converter.sources.snapshot import file_name
from converter.sources.tensors import Part, Tensors

_SUPPORTED = (
    "this converter reads single files of Stable Diffusion 1.x, 2.x, SDXL and the SDXL refiner, and their inpainting "
    "models, with UNet, text encoders and VAE in one"
)
_INPUT = f"{unet.PREFIX}input_blocks.0.0.weight"
_SIZES_AND_POOLED_TEXT = f"{unet.PREFIX}label_emb.0.0.weight"
_DECODER = f"{vae.PREFIX}decoder.conv_in.weight"
#: What the published models' latents are multiplied by (scale_factor in the original yaml, vae/config.json).
SCALING_FACTORS = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025, "sdxl_refiner": 0.13025}
#: What fills a prompt up: OpenCLIP's tokenizer leaves zeros behind the end (id 0 is "!"), OpenAI's repeats the end.
_OPENCLIP_PAD = "!"


@dataclass(frozen=True)
class Architecture:
    """Which model a single file is.

    family: sd1, sd2, sdxl or sdxl_refiner.
    inpainting: whether the UNet also takes a mask and the masked image (9 channels).
    text_encoders: where they lie in the file.
    sample_size: latents a side of the images it was made for.
    """

    family: str
    inpainting: bool
    text_encoders: tuple[TextEncoder, ...]
    prediction: Prediction
    sample_size: int


def recognize_file(tensors: Tensors, prediction_type: str | None = None) -> Architecture:
    """Return which model these tensors are; raises CheckpointError whose message says what they are and what is supported.

    ``prediction_type`` overrules what the file says, or fails to say, of itself.
    """
    unsupported = describe_unsupported(tensors)
    if unsupported is not None:
        raise CheckpointError(f"it is {unsupported}; {_SUPPORTED}")
    # The conditions beside the text tell SDXL's refiner from Stable Diffusion 2 in the same layout (SD Turbo).
    xl = _SIZES_AND_POOLED_TEXT in tensors
    whole = _INPUT in tensors and _DECODER in tensors
    found = [
        (family, encoders)
        for family, places in PLACES.items()
        for encoders in places
        if whole and family.startswith("sdxl") == xl and all(encoder.embedding in tensors for encoder in encoders)
    ]
    if not found:
        raise CheckpointError(f"it is {part_of_a_checkpoint(tensors)}; {_SUPPORTED}")
    (family, encoders), *_ = found
    channels, latents = tensors.size(_INPUT, 1), tensors.size(_DECODER, 1)
    if channels not in (latents, 2 * latents + 1):
        raise CheckpointError(f"it is {another_unet(channels)}; {_SUPPORTED}")
    inpainting = channels != latents
    predicts = prediction(tensors, family, inpainting=inpainting, asked=prediction_type)
    return Architecture(family, inpainting, encoders, predicts, sample_size(tensors.metadata, family, predicts.type))


def _expect_vocabulary(tensors: Tensors, encoder: TextEncoder) -> None:
    # More rows are embeddings that were trained and merged in: the ids before them stay.
    rows = tensors.size(encoder.embedding, 0)
    if rows < clip_vocabulary.SIZE:
        raise CheckpointError(
            f"{encoder.embedding} has {rows} rows; CLIP's vocabulary, with which single files are read, has "
            f"{clip_vocabulary.SIZE}"
        )


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint in one file: its architecture, and configurations and tensors as a diffusers folder has them.

    asked: the prediction type it was opened with.
    hub_name: owner/name and the file without its suffix, where it is a copy from the Hugging Face hub.
    """

    path: Path
    source: Tensors
    architecture: Architecture
    asked: str | None = None
    hub_name: str | None = None

    @staticmethod
    def open(path: Path, prediction_type: str | None = None, hub_name: str | None = None) -> SingleFile:
        """Return the checkpoint in the file ``path``; raises CheckpointError that says what else the file is.

        ``prediction_type`` is one of PREDICTION_TYPES, or None to go by the file. All components are laid out before
        this returns, so a file that cannot be read whole is refused here.
        """
        if prediction_type not in (None, *PREDICTION_TYPES):
            raise CheckpointError(f"prediction_type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
        source = Tensors([path])
        try:
            found = SingleFile(path, source, recognize_file(source, prediction_type), prediction_type, hub_name)
            for component in found.components:
                found.config(component)
                found.tensors(component)
            _ = found.leftovers
            for encoder in found.architecture.text_encoders:
                _expect_vocabulary(source, encoder)
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be converted: {error}") from error
        return found

    @property
    def name(self) -> str:
        """What the model is called: the file without its suffix, after its repository where it is from the hub."""
        return self.hub_name or file_name(self.path)

    @property
    def kind(self) -> str:
        """``hub`` or ``single_file``, for a file that was given."""
        return "hub" if self.hub_name else "single_file"

    @property
    def components(self) -> tuple[str, ...]:
        """The networks in the file: text_encoder, text_encoder_2 (whichever there are), unet and vae."""
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
        """Return a network's weights under diffusers' names, mapped."""
        return self.source.renamed(self._parts(component))

    @cached_property
    def leftovers(self) -> tuple[str, ...]:
        """What the file has that is of none of its networks, in sentences. Raises CheckpointError; see `left_out_of_file`."""
        taken = {part.source for component in self.components for part in self._parts(component).values()}
        rest = [name for name in self.source if name not in taken and name not in MARKS]
        return left_out_of_file((name, self.source.stored_shape(name)) for name in rest)

    @cached_property
    def index(self) -> dict[str, Any]:
        """What the model_index.json of the family's published checkpoints says of the pipeline."""
        kind = "StableDiffusionXL" if self.architecture.family.startswith("sdxl") else "StableDiffusion"
        if self.architecture.inpainting:
            return {"_class_name": f"{kind}InpaintPipeline"}
        if self.architecture.family == "sdxl_refiner":
            return {"_class_name": f"{kind}Img2ImgPipeline", "force_zeros_for_empty_prompt": False}
        found: dict[str, Any] = {"_class_name": f"{kind}Pipeline"}
        return found | {"force_zeros_for_empty_prompt": True} if self.architecture.family == "sdxl" else found

    @property
    def part_classes(self) -> dict[str, Any]:
        """The classes of a pipeline's parts: such files do not say."""
        return {}

    @property
    def defaults(self) -> dict[str, Any]:
        """What its makers recommend: such files do not say."""
        return {}

    def tokenizer_files(self) -> dict[str, dict[str, bytes]]:
        """CLIP's tokenizer for each text encoder (tokenizer, tokenizer_2): file name -> content."""
        return {
            encoder.component.tokenizer: clip_vocabulary.tokenizer_files(
                _OPENCLIP_PAD if encoder.openclip else clip_vocabulary.END
            )
            for encoder in self.architecture.text_encoders
            if encoder.component.tokenizer is not None
        }

    def _with_what_was_asked(self, digest: str) -> str:
        if self.asked is None:
            return digest
        return hashlib.sha256(f"{digest} prediction_type {self.asked}".encode()).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """The file's SHA-256, by which it is known elsewhere too; another one where a prediction type was asked for."""
        return self._with_what_was_asked(content_hash(self.path))

    @cached_property
    def stamp(self) -> str:
        """A hash over the file's name, size and modification time, and the prediction type asked for."""
        about = f"{self.path.name} {size_and_time(self.path)}"
        return self._with_what_was_asked(hashlib.sha256(about.encode()).hexdigest())
