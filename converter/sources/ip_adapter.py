"""IP-Adapter files: an image's projection to tokens and the keys and values of every cross attention, in one file.

The published files (https://huggingface.co/h94/IP-Adapter) have no configuration; the tensors' names tell the form and
their shapes the sizes, as in diffusers' ``_convert_ip_adapter_image_proj_to_diffusers``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from converter.errors import CheckpointError
from converter.progress import OnProgress, ignore
from converter.sources.checkpoint import content_hash
from converter.sources.component_kinds import IMAGE_ENCODER
from converter.sources.configs import Config
from converter.sources.entry import Part
from converter.sources.tensors import Tensors

#: diffusers' classes of the image's projection.
LINEAR, PLUS = "ImageProjection", "IPAdapterPlusImageProjection"
#: Tokens of a file with a linear projection; its shapes do not tell.
_TOKENS = 4
#: Channels of each head of the resampler's attention (diffusers' IPAdapterPlusImageProjection).
HEAD = 64
_ACCEPTED = (
    "accepted: an IP-Adapter or IP-Adapter Plus as .safetensors, a file or owner/name/file.safetensors of one on the "
    "Hugging Face hub"
)
#: A tensor that only this form of adapter has, and the form's name; the first that is found counts.
_UNSUPPORTED = (
    ("image_proj.proj.3.weight", "IP-Adapter Full Face"),
    ("image_proj.perceiver_resampler.proj_in.weight", "IP-Adapter FaceID Plus, which needs a face recognition network"),
    ("image_proj.proj.0.weight", "IP-Adapter FaceID, which needs a face recognition network"),
)
#: Published names of tensors that diffusers calls otherwise: those of the linear layer, and of the resampler's layers.
_LINEAR = re.compile(r"^image_proj\.proj\.(?=weight$|bias$)")
_LAYER = re.compile(r"image_proj\.layers\.(\d+)\.(0|1)\.(.+)")
_ATTENTION = {
    "norm1.weight": "ln0.weight",
    "norm1.bias": "ln0.bias",
    "norm2.weight": "ln1.weight",
    "norm2.bias": "ln1.bias",
    "to_q.weight": "attn.to_q.weight",
    "to_out.weight": "attn.to_out.0.weight",
}
_FEED_FORWARD = {
    "0.weight": "ff.0.weight",
    "0.bias": "ff.0.bias",
    "1.weight": "ff.1.net.0.proj.weight",
    "3.weight": "ff.1.net.2.weight",
}


def _parts(name: str) -> dict[str, Part]:
    """Return the tensors in diffusers' naming that a published one becomes; one that is unknown keeps its name."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return {_LINEAR.sub("image_proj.image_embeds.", name): Part(name)}
    layer, half, rest = match.groups()
    path = f"image_proj.layers.{layer}"
    if half == "0" and rest == "to_kv.weight":
        return {f"{path}.attn.to_{side}.weight": Part(name, index, 2) for index, side in enumerate("kv")}
    known = (_ATTENTION if half == "0" else _FEED_FORWARD).get(rest)
    return {name if known is None else f"{path}.{known}": Part(name)}


def _settings(where: str, tensors: Tensors) -> Config:
    """Return the class of the image's projection and its arguments, in diffusers' names. Raises CheckpointError."""
    if "image_proj.image_embeds.weight" in tensors:
        out, width = (tensors.size("image_proj.image_embeds.weight", axis) for axis in (0, 1))
        return {
            "_class_name": LINEAR,
            "image_embed_dim": width,
            "cross_attention_dim": out // _TOKENS,
            "num_image_text_embeds": _TOKENS,
        }
    if "image_proj.latents" not in tensors:
        what = next((name for tensor, name in _UNSUPPORTED if tensor in tensors), "not an IP-Adapter")
        raise CheckpointError(f"{where} is {what}; {_ACCEPTED}")
    layers = [int(match[1]) for name in tensors if (match := re.match(r"image_proj\.layers\.(\d+)\.", name))]
    return {
        "_class_name": PLUS,
        "embed_dims": tensors.size("image_proj.proj_in.weight", 1),
        "output_dims": tensors.size("image_proj.proj_out.weight", 0),
        "hidden_dims": tensors.size("image_proj.latents", 2),
        "depth": max(layers, default=-1) + 1,
        "heads": tensors.size("image_proj.layers.0.attn.to_q.weight", 0) // HEAD,
        "num_queries": tensors.size("image_proj.latents", 1),
    }


@dataclass(frozen=True)
class IPAdapterFile:
    """An adapter's file.

    encoder: the folder of the image encoder beside it, as `Component.open` takes it.
    config: the class of the image's projection and its arguments; once `fitted`, also ``states``, how many states the
        image encoder has, and ``unet_config``, the UNet's config.json.
    """

    file: Path
    name: str
    encoder: tuple[str, str]
    tensors: Tensors
    config: Config

    @staticmethod
    def open(source: str, progress: OnProgress = ignore) -> IPAdapterFile:
        """Return the adapter in a file, or in owner/name/file.safetensors on the Hugging Face hub if there is no such file.

        ``progress`` is called during a download. Raises CheckpointError that says what is accepted.
        """
        path = Path(source).expanduser()
        encoder = (str(path.parent), IMAGE_ENCODER.name)
        if not path.exists():
            # huggingface_hub takes a fifth of a second to import; files do not need it.
            from converter.sources.hub import HubAddress, fetch

            address = HubAddress.parse(source)
            if address is None or address.file is None:
                raise CheckpointError(f"{source} is not a file; {_ACCEPTED}")
            path = fetch(address, progress)
            folder = Path(address.file).parent
            encoder = (f"{address.repo}@{address.revision}", (folder / IMAGE_ENCODER.name).as_posix())
        if path.suffix.lower() != ".safetensors":
            raise CheckpointError(f"{source} is not a .safetensors file; {_ACCEPTED}")
        stored = Tensors([path])
        tensors = stored.renamed({new: part for name in stored for new, part in _parts(name).items()})
        return IPAdapterFile(path, path.stem, encoder, tensors, _settings(source, tensors))

    def fitted(self, encoder: Config, unet: Config) -> IPAdapterFile:
        """Return the adapter for this image encoder, whose configuration has its defaults, and the UNet's config.json.

        Raises CheckpointError if it is for another image encoder.
        """
        key = "hidden_size" if self.takes_states else "projection_dim"
        if encoder[key] != self.feature_width:
            raise CheckpointError(
                f"{self.name} is for an image encoder with {key} = {self.feature_width}, and this one has {encoder[key]}; "
                "give the one that it was trained with as image_encoder"
            )
        states = (encoder["image_size"] // encoder["patch_size"]) ** 2 + 1
        return replace(self, config={**self.config, "states": states, "unet_config": unet})

    @property
    def takes_states(self) -> bool:
        """Return whether it takes the image encoder's states rather than the embedding."""
        return bool(self.config["_class_name"] == PLUS)

    @property
    def tokens(self) -> int:
        """The number of tokens that it gives an image."""
        return int(self.config["num_queries" if self.takes_states else "num_image_text_embeds"])

    @property
    def feature_width(self) -> int:
        """The width of what it takes from the image encoder."""
        return int(self.config["embed_dims" if self.takes_states else "image_embed_dim"])

    @property
    def context_width(self) -> int:
        """The width of the tokens: the UNet's cross_attention_dim."""
        return int(self.config["output_dims" if self.takes_states else "cross_attention_dim"])

    @property
    def attentions(self) -> int:
        """The number of cross attentions that it has keys and values for."""
        return sum(name.endswith(".to_k_ip.weight") for name in self.tensors)

    @cached_property
    def sha256(self) -> str:
        """A hash of the file's content."""
        return content_hash(self.file)
