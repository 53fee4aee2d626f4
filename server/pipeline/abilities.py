"""What a model can do by the networks in its folder, and which conversion would bring what it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from converter.manifest import Manifest
from converter.networks.registry import CONTROLNET, IP_ADAPTER, SAFETY_CHECKER, UNET, VAE_ENCODER


@dataclass(frozen=True)
class Ability:
    """Something that not every model can do.

    has: whether a model can.
    lacks: what one that cannot lacks. conversion: which conversion brings it.
    """

    has: Callable[[Manifest], bool]
    lacks: str
    conversion: str

    def needs(self, manifest: Manifest) -> str | None:
        """Return what the model lacks and which conversion brings it, in one clause; None if it can."""
        return None if self.has(manifest) else f"this model has no {self.lacks}; {self.conversion}"


def _named(manifest: Manifest, kind: str) -> tuple[str, ...]:
    """Return the names of a model's networks of a kind of which it may have several."""
    prefix = f"{kind}/"
    return tuple(name.removeprefix(prefix) for name in manifest.networks if name.startswith(prefix))


def control_nets(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the ControlNets that a request may use: none if the UNet does not take their residuals."""
    takes = any(package.control for package in manifest.networks.get(UNET.name, ()))
    return _named(manifest, CONTROLNET.name) if takes else ()


def ip_adapters(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the IP-Adapters that a request may use."""
    return _named(manifest, IP_ADAPTER.name)


IMAGES = Ability(
    lambda manifest: VAE_ENCODER.name in manifest.networks,
    "image encoder (vae_encoder)",
    "`anemone convert SOURCE` writes one, and Apple's converter does with --convert-vae-encoder",
)
CONTROLS = Ability(
    lambda manifest: bool(control_nets(manifest)),
    "ControlNet",
    "one comes with a conversion, `anemone convert SOURCE --controlnet CONTROLNET`, where CONTROLNET is a folder or owner/name "
    "on the Hugging Face hub",
)
ADAPTER = Ability(
    lambda manifest: bool(ip_adapters(manifest)),
    "IP-Adapter",
    "one comes with a conversion, `anemone convert SOURCE --ip-adapter ADAPTER`, where ADAPTER is a .safetensors file or "
    "owner/name/file.safetensors on the Hugging Face hub",
)
#: Further abilities by the names that clients see them under.
FURTHER: dict[str, Ability] = {
    "controls": CONTROLS,
    "adapter": ADAPTER,
    "safety_checker": Ability(
        lambda manifest: SAFETY_CHECKER.name in manifest.networks,
        "safety checker",
        "one comes with a conversion, `anemone convert SOURCE --safety-checker CHECKER`",
    ),
    "clip_skip": Ability(
        lambda manifest: manifest.clip_skip > 1,
        "outputs before its text encoders' last layers",
        "they come with a conversion, `anemone convert SOURCE --clip-skip N`",
    ),
    "single_rows": Ability(
        lambda manifest: any(package.batch == 1 for package in manifest.networks.get(UNET.name, ())),
        "UNet package of one row, which makes steps without guidance cheaper",
        "one comes with a conversion, `anemone convert SOURCE --batch 2 --batch 1`",
    ),
}
#: What each task needs; those that need nothing are left out.
OF_TASKS: dict[str, Ability] = dict.fromkeys(("img2img", "inpaint", "outpaint", "variations"), IMAGES)
