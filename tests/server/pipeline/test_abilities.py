"""What a model can do follows from its networks, and what it cannot is refused in the words that its abilities have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from converter.manifest import Package
from server.pipeline.abilities import ADAPTER, CONTROLS, FURTHER, IMAGES, OF_TASKS, control_nets, ip_adapters
from server.pipeline.request import RequestError, bind
from tests.support.fake_pipeline import MANIFEST

UNET = Package("unet.mlpackage", 64, 64, 2, 77)
BARE = replace(MANIFEST, networks={"unet": (UNET,)})


def with_networks(*names: str, unet: Package = UNET):
    return replace(MANIFEST, networks={"unet": (unet,)} | dict.fromkeys(names, (UNET,)))


@pytest.mark.parametrize(
    ("ability", "able"),
    [
        (IMAGES, with_networks("vae_encoder")),
        (CONTROLS, with_networks("controlnet/canny", unet=replace(UNET, control=True))),
        (ADAPTER, with_networks("ip_adapter/sd15")),
        (FURTHER["safety_checker"], with_networks("safety_checker")),
        (FURTHER["clip_skip"], replace(BARE, clip_skip=2)),
        (FURTHER["single_rows"], with_networks(unet=replace(UNET, batch=1))),
    ],
)
def test_a_model_that_lacks_a_network_says_which_conversion_brings_it(ability, able):
    assert ability.needs(able) is None
    needs = ability.needs(BARE)
    assert needs is not None
    assert needs.startswith("this model has no ")
    assert "`anemone convert SOURCE" in needs


def test_networks_that_a_model_has_several_of_are_named():
    controlled = with_networks("controlnet/canny", "controlnet/depth", unet=replace(UNET, control=True))
    assert control_nets(controlled) == ("canny", "depth")
    assert control_nets(with_networks("controlnet/canny")) == (), "no package of the UNet takes its residuals"
    assert ip_adapters(with_networks("ip_adapter/plus")) == ("plus",)


@pytest.mark.parametrize(
    ("fields", "field", "ability"),
    [
        ({"image": "image"}, "image", OF_TASKS["img2img"]),
        ({"image": "image", "mask": "mask"}, "image", OF_TASKS["inpaint"]),
        ({"adapter_image": "adapter_image"}, "adapter_image", ADAPTER),
        ({"palette_image": "palette_image"}, "palette_image", IMAGES),
        ({"controls": [{"image": "control_0_image"}]}, "controls.0.net", CONTROLS),
    ],
)
def test_what_a_model_cannot_do_is_refused_in_the_same_words(fields, field, ability):
    with pytest.raises(RequestError) as caught:
        bind(BARE, prompt="a", **fields)
    assert caught.value.field == field
    assert ability.needs(BARE) in caught.value.accepted
