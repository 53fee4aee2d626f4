"""The registry of network kinds: found by name, and asked by everything that needs to know a network."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import converter
from converter.families.registry import MODELS
from converter.networks.registry import CONTROLNET, KINDS, UNET, NetworkError, component_name, kind_of, text_encoders

ROOT = Path(converter.__file__).parents[1]
#: Modules that may have a network's name as text, beside the registry.
NAMING = {
    "converter/networks/registry.py",
    "converter/sources/component_kinds.py",  # diffusers' names of folders, some of which are the networks' too
    "converter/options.py",  # options that are called as the network that they are about
    "converter/conversion/agreement.py",  # the same options, in what is refused
    "converter/manifest.py",  # the upgrade of manifests that do not have options yet
    "server/pipeline/prompts/tags.py",  # a parameter of tags that is called as its network
    "server/pipeline/abilities.py",  # names of abilities, one of which is called as its network
}


def test_a_network_is_known_by_its_name_and_one_of_several_by_the_name_of_its_kind():
    assert kind_of("unet") is UNET
    assert kind_of("controlnet/canny") is CONTROLNET
    with pytest.raises(NetworkError, match="'mmdit' is not a network; accepted: text_encoder, text_encoder_2, unet"):
        kind_of("mmdit")


def test_a_network_is_made_from_its_component_and_a_controlnet_from_the_one_that_was_given():
    assert component_name("vae_decoder") == component_name("vae_encoder") == "vae"
    assert component_name("unet_prompt") == "unet"
    assert component_name("controlnet/canny") == "controlnet/canny"


def test_text_encoders_are_the_networks_that_have_a_tokenizer():
    every = [kind.name for kind in KINDS]
    assert text_encoders(every) == {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    assert list(text_encoders(["text_encoder_2", "of_a_later_release", "text_encoder"])) == [
        "text_encoder",
        "text_encoder_2",
    ]
    assert all(set(text_encoders(model.text_encoders)) == set(model.text_encoders) for model in MODELS.values())


def test_no_module_but_the_registry_compares_networks_by_names_of_its_own():
    names = {kind.name for kind in KINDS}
    actual = {
        f"{path.relative_to(ROOT)}: {node.value}"
        for package in ("converter", "server")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert {line for line in actual if line.partition(":")[0] not in NAMING} == set()
