"""Tags of LoRAs in prompts, as AUTOMATIC1111 reads them (extra_networks.py, extra_networks_lora.py)."""

from __future__ import annotations

import pytest

from server.pipeline.prompts.tags import LoraTag, without_tags


@pytest.mark.parametrize(
    ("tag", "name", "text_weight", "weight"),
    [
        ("<lora:film>", "film", 1, 1),
        ("<lora:film:0.8>", "film", 0.8, 0.8),
        ("<LoRA: film grain : -.5 >", "film grain", -0.5, -0.5),
        ("<lyco:film:0.8:0.25>", "film", 0.8, 0.25),
        ("<lora:film:0.8:unet=0.25>", "film", 0.8, 0.25),
        ("<lora:film:te=0.8:unet=0>", "film", 0.8, 0),
        ("<lora:film:te=0.5>", "film", 0.5, 0.5),
        ("<lora:film:0.7:0.6:dyn=8>", "film", 0.7, 0.6),
    ],
)
def test_a_tag_has_a_name_and_one_or_two_weights(tag: str, name: str, text_weight: float, weight: float) -> None:
    assert without_tags(f"a cat {tag}, red").loras == (LoraTag(name, weight, text_weight),)


def test_tags_are_taken_out_of_the_prompt_in_their_order() -> None:
    read = without_tags("<lora:a:1> a <b> cat <lora:c:0.5> ")
    assert (read.prompt, [lora.name for lora in read.loras], read.notes) == ("a <b> cat", ["a", "c"], ())
    assert without_tags(" a cat ").prompt == " a cat "


def test_a_weight_that_is_no_number_or_too_large_is_noted() -> None:
    wrong = without_tags("a <lora:film:much> cat")
    assert (wrong.prompt, wrong.loras) == ("a  cat", ())
    assert wrong.notes == ("the weight 'much' of the lora 'film' is no number, and the lora is not used",)
    large = without_tags("<lora:film:-100>")
    assert large.loras == (LoraTag("film", -4, -4),)
    assert large.notes == ("a weight of the lora 'film' is beyond 4 and counts as 4",)
    assert without_tags("<lora:film:nan>").loras == ()


def test_parts_of_a_tag_that_have_no_effect_are_noted() -> None:
    for part in ("0.5:0.5:8", "0.5:lbw=ALL", "unet=0.5:te=0.5:dyn=8"):
        read = without_tags(f"<lora:film:{part}>")
        assert read.loras == (LoraTag("film", 0.5, 0.5),)
        assert read.notes == (f"{part.split(':')[-1]!r} of the lora 'film' is not supported and has no effect",)


def test_a_tag_is_kept_as_the_prompt_has_it() -> None:
    assert [each.written for each in without_tags("<LyCO:film> a <lora: b :.5>").loras] == [
        "<LyCO:film>",
        "<lora: b :.5>",
    ]


@pytest.mark.parametrize("tag", [LoraTag("film"), LoraTag("a b", 1 / 3, 1 / 3), LoraTag("x", 0.25, -1.5)])
def test_a_tag_is_written_as_it_is_read(tag: LoraTag) -> None:
    assert without_tags(str(tag)).loras == (tag,)
