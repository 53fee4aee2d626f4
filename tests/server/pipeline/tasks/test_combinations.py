"""Tasks together: what a mask keeps stays as it is, and what is added to it has its effect there too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from server.pipeline.canvas.attachments import kept
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.images import Pixels, read_image
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import tiny_unet, write_checkpoint, write_xl_checkpoint
from tests.support.controlnets import write_controlnet
from tests.support.image_files import encoded
from tests.support.ip_adapters import write_ip_adapter

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(6)
IMAGE, REFERENCE = (RNG.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2))
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 8:40] = 255
ADAPTER = {"adapter_image": REFERENCE}
PALETTE = {"palette_image": REFERENCE}
CONTROL = {"controls": [{"image": "map"}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StableDiffusion]:
    """Tiny models with IP-Adapters: with a ControlNet, trained for inpainting, SDXL; and SDXL's refiner."""
    folder = tmp_path_factory.mktemp("combinations")
    sources = {
        "sd": write_checkpoint(folder / "sd"),
        "inpainting": write_checkpoint(folder / "inpainting", unet=tiny_unet(in_channels=9)),
        "xl": write_xl_checkpoint(folder / "xl"),
        "refiner": write_xl_checkpoint(folder / "refiner", refiner=True),
    }
    made = {}
    for name, source in sources.items():
        unet = UNet2DConditionModel.from_pretrained(source / "unet")
        adapters = () if name == "refiner" else (str(write_ip_adapter(folder / f"{name}-adapter", unet)),)
        nets = (str(write_controlnet(source, folder / "canny")),) if name == "sd" else ()
        options = ConvertOptions(ip_adapters=adapters, controlnets=nets)
        beside = made.get("xl") if name == "refiner" else None
        made[name] = StableDiffusion(convert(source, folder / f"{name}-out", options), {}, beside=beside)
    return made


def images(models: dict[str, StableDiffusion], name: str, **fields: Any) -> list[Pixels]:
    arrays = {key: value for key, value in fields.items() if isinstance(value, np.ndarray)}
    files = {key: encoded(Image.fromarray(array)) for key, array in (arrays | {"map": REFERENCE}).items()}
    usual = {"prompt": "red", "steps": 3, "seed": 4, "scheduler": "euler"}
    model, size = models[name], (64, 64) if "image" in arrays else None
    request = bind(model.manifest, image_size=size, **(usual | fields | {key: key for key in arrays}))
    parts = {key: kept(request, key, read_image(data), data, size).data for key, data in files.items()}
    events = model.generate(request, parts, models["refiner"] if request.refiner else None)
    return [event.pixels for event in events if isinstance(event, GeneratedImage)]


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("sd", ADAPTER),
        ("sd", PALETTE),
        ("sd", CONTROL),
        ("sd", ADAPTER | PALETTE | CONTROL),
        ("inpainting", ADAPTER),
        ("inpainting", PALETTE),
        ("xl", ADAPTER),
        ("xl", {"refiner": "refiner", "refiner_switch": 0.4}),
        ("xl", ADAPTER | {"refiner": "refiner", "refiner_switch": 0.4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_a_mask_keeps_what_it_leaves_out_whatever_is_added(
    models: dict[str, StableDiffusion], name: str, added: dict[str, Any]
) -> None:
    painting = {"image": IMAGE, "mask": MASK, "mask_blur": 0, "n": 2}
    with_it, again = (images(models, name, **painting, **added) for _ in range(2))
    without = images(models, name, **painting)
    for image, same, other in zip(with_it, again, without, strict=True):
        np.testing.assert_array_equal(image[MASK == 0], IMAGE[MASK == 0])
        np.testing.assert_array_equal(image, same)
        assert np.abs(image[MASK > 0].astype(int) - other[MASK > 0]).mean() > 1
    assert np.abs(with_it[0].astype(int) - with_it[1]).max() > 0


@pytest.mark.parametrize(
    ("name", "added"), [("sd", CONTROL), ("sd", ADAPTER), ("inpainting", ADAPTER), ("xl", ADAPTER)]
)
def test_an_extended_image_keeps_its_pixels_whatever_is_added(
    models: dict[str, StableDiffusion], name: str, added: dict[str, Any]
) -> None:
    extending = {"image": IMAGE, "extend_right": 32, "feather": 0}
    (image,), (without,) = images(models, name, **extending, **added), images(models, name, **extending)
    assert image.shape == (64, 96, 3)
    np.testing.assert_array_equal(image[:, :64], IMAGE)
    assert np.abs(image[:, 64:].astype(int) - without[:, 64:]).mean() > 1


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_a_second_pass_has_the_adapters_image_too(models: dict[str, StableDiffusion], name: str) -> None:
    hires = {"hires_scale": 1.5, "hires_strength": 0.5}
    (image,), (without,) = images(models, name, **hires, **ADAPTER), images(models, name, **hires)
    assert image.shape == (96, 96, 3)
    assert np.abs(image.astype(int) - without).mean() > 1
