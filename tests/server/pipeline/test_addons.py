"""LoRAs and embeddings of requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from converter.errors import AnemoneError
from converter.manifest import Merged, MergedEmbedding
from server.pipeline.request import GenerationRequest, KnownAddons, RequestError, bind, fits
from tests.support.addons import FakeEmbedding, FakeFewStep, FakeLora
from tests.support.fake_pipeline import MANIFEST

KNOWN = KnownAddons(
    {
        "film": FakeLora("film", "f" * 64),
        "Grain": FakeLora("Grain"),
        "large": FakeLora("large", families=("sdxl",)),
        "fast": FakeLora("fast", few_step=FakeFewStep(4, 1.0, "lcm")),
    },
    {
        "easynegative": FakeEmbedding("easynegative", ("easynegative",), 8),
        "toy": FakeEmbedding("toy", ("toy", "<cat-toy>"), 2),
        "xl": FakeEmbedding("xl", ("xl",), families=("sdxl",)),
    },
)


def bound(prompt: str = "a cat", **fields: Any) -> GenerationRequest:
    return bind(MANIFEST, addons=KNOWN, **{"prompt": prompt, "seed": 7} | fields)


def test_loras_of_the_list_and_of_tags_are_bound_with_their_hashes() -> None:
    request = bound("a <lora:GRAIN:0.5:0.25> cat", loras=[{"name": "film", "weight": 0.8}])
    assert request.prompts.prompt == "a  cat"
    assert [(lora.name, lora.weight, lora.of_text, lora.sha256[0]) for lora in request.loras] == [
        ("film", 0.8, 0.8, "f"),
        ("Grain", 0.25, 0.5, "a"),
    ]
    assert request.values()["loras"] == [
        {"name": "film", "weight": 0.8},
        {"name": "Grain", "weight": 0.25, "text_weight": 0.5},
    ]
    assert bound(**request.values()).loras == request.loras


def test_a_loras_name_is_found_however_its_accents_are_written() -> None:
    known = KnownAddons({"Cafe\u0301": FakeLora("Cafe\u0301")})  # as in files that were packed on a Mac
    request = bind(MANIFEST, addons=known, prompt="a <lora:caf\u00e9:1>")
    assert [lora.name for lora in request.loras] == ["Cafe\u0301"]


@pytest.mark.parametrize(
    ("loras", "field", "accepted"),
    [
        ([{"name": "nothing"}], "loras.0.name", "film, Grain, fast"),
        ([{"name": "film"}, {"name": "large"}], "loras.1.name", "LoRAs for sd1, as fake is; this one is for sdxl"),
        ([{"name": "film", "weight": 5}], "loras.0.weight", "-4 to 4"),
        ([{"name": "film", "sha256": "0"}], "loras.0.sha256", ""),
        ([{"name": "film"}] * 9, "loras", "up to 8 loras"),
    ],
)
def test_a_lora_that_cannot_be_used_is_refused(loras: list[dict[str, Any]], field: str, accepted: str) -> None:
    with pytest.raises(RequestError) as refused:
        bound(loras=loras)
    assert refused.value.field == field
    assert accepted in refused.value.accepted


def test_files_for_models_with_text_states_of_another_width_do_not_fit() -> None:
    narrow = KnownAddons(
        {"narrow": FakeLora("narrow", text_width=128)}, {"toy": FakeEmbedding("toy", ("toy",), text_width=128)}
    )
    for width in (128, None):  # None: a folder of an earlier version
        manifest = replace(MANIFEST, conditions=replace(MANIFEST.conditions, text_width=width))
        request = bind(manifest, addons=narrow, prompt="toy", loras=[{"name": "narrow"}])
        assert (len(request.loras), len(request.embeddings)) == (1, 1)
    wide = replace(MANIFEST, conditions=replace(MANIFEST.conditions, text_width=768))
    with pytest.raises(RequestError) as refused:
        bind(wide, addons=narrow, prompt="a", loras=[{"name": "narrow"}])
    assert refused.value.accepted == (
        "LoRAs for sd1 with text states of 768 numbers, as fake is; this one is for sd1 with text states of 128 numbers"
    )
    request = bind(wide, addons=narrow, prompt="toy")
    assert request.embeddings == ()
    assert request.notes == (
        "the embedding toy is for sd1 with text states of 128 numbers, not for sd1 with text states of 768 numbers: "
        "its name in a prompt is text",
    )


def test_a_merged_model_takes_no_more_and_keeps_the_words_of_its_own_embeddings() -> None:
    own = MergedEmbedding("toy", "a" * 64, 2, {"text_encoder": 1000})
    manifest = replace(MANIFEST, merged=Merged("plan", (), (own,)))
    request = bind(manifest, addons=KNOWN, prompt="a toy, easynegative <lora:nothing:1>")
    assert (request.loras, request.embeddings) == ((), ())
    assert [note for note in request.notes if "embedding" in note] == [
        "fake is a merged model without the embedding easynegative: its name is text"
    ]
    for fields in ({"loras": [{"name": "film"}]}, {"prompt": "<lora:film:1>"}):
        with pytest.raises(RequestError, match="accepted: none: fake is a merged model; take the one"):
            bind(manifest, addons=KNOWN, **{"prompt": "a cat"} | fields)


def test_a_folder_in_apples_layout_takes_none_and_says_so() -> None:
    manifest = replace(MANIFEST, source=replace(MANIFEST.source, kind="apple"))
    request = bind(manifest, addons=KNOWN, prompt="a toy")
    assert request.embeddings == ()
    why = "fake is a folder in Apple's layout; take one that `anemone convert` makes of its checkpoint"
    assert request.notes == (f"{why}: the name of the embedding toy is text",)
    for fields in ({"loras": [{"name": "film"}]}, {"prompt": "<lora:film:1>"}):
        with pytest.raises(RequestError, match=f"accepted: none: {why}"):
            bind(manifest, addons=KNOWN, **{"prompt": "a cat"} | fields)
    assert not any(fits(each, manifest) for each in KNOWN.loras.values())


def test_a_damaged_lora_is_refused_with_the_reason() -> None:
    class Damaged(dict[str, FakeLora]):
        def __getitem__(self, name: str) -> FakeLora:
            raise AnemoneError("film.safetensors is cut off")

    known = KnownAddons(Damaged(film=FakeLora("film")))
    for name, accepted in (
        ("film", "another one: film.safetensors is cut off"),
        ("other", "none: there are no LoRAs for fake yet"),
    ):
        with pytest.raises(RequestError, match=f"loras.0.name is '{name}'; accepted: {accepted}"):
            bind(MANIFEST, prompt="", loras=[{"name": name}], addons=known)


def test_an_unknown_tag_is_noted_and_one_for_other_models_is_refused() -> None:
    request = bound("a cat <lora:nothing:1><hypernet:old>", negative_prompt="fog <lora:film:1>")
    assert (request.loras, request.prompts.prompt, request.prompts.negative_prompt) == ((), "a cat", "fog")
    assert request.notes == (
        "the hypernet 'old' is not known here, and its tag was taken out of the prompt",
        "the lora 'nothing' is not known here, and its tag was taken out of the prompt",
        "the lora film has no effect in a negative prompt, and its tag was taken out",
    )
    with pytest.raises(RequestError, match="prompt is '<lora:large:1>'; accepted: LoRAs for sd1"):
        bound("a cat <lora:large:1>")
    with pytest.raises(RequestError, match="up to 8 loras, with those of tags in the prompt"):
        bound("<lora:film:1>" * 9)


def test_tags_are_text_in_a_plain_prompt() -> None:
    request = bound("a <lora:film:1>", prompt_syntax="plain")
    assert (request.prompts.prompt, request.loras) == ("a <lora:film:1>", ())


def test_of_many_notes_on_tags_the_first_are_told_and_the_others_counted() -> None:
    notes = bound("".join(f"<lora:{number}>" for number in range(900))).notes
    assert len(notes) == 11
    assert notes[-1] == "and 890 more notes on tags like these"


def test_a_lora_without_weight_has_no_effect_and_is_noted() -> None:
    assert bound("<lora:film:0>").notes == ("the lora film has no effect: its weight is 0",)


def test_a_lora_for_few_steps_sets_what_the_request_does_not() -> None:
    request = bound("a cat <lora:fast:1>", guidance_scale=2)
    assert (request.sampling.steps, request.sampling.guidance_scale, request.sampling.scheduler) == (4, 2.0, "lcm")
    assert request.notes == (
        "the lora fast is for few steps, and set what the request does not: steps 4, scheduler lcm",
    )
    assert bound("a cat <lora:fast:0>").sampling.steps == MANIFEST.defaults.steps


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a cat", []),
        ("EasyNegative, fog", ["easynegative"]),
        ("(easynegative:1.2)", ["easynegative"]),
        ("easynegative2, not_easynegative", []),
        ("a toy on a xxx<Cat-Toy>", ["toy"]),
        ("easynegative", ["easynegative"]),
    ],
)
def test_an_embedding_is_bound_where_a_word_of_it_is_in_a_prompt(prompt: str, names: list[str]) -> None:
    assert [each.name for each in bound(prompt).embeddings] == names
    assert [each.name for each in bound(negative_prompt=prompt).embeddings] == names


def test_an_embedding_for_other_models_is_noted() -> None:
    assert bound("a xl cat").embeddings == ()
    assert bound("a xl cat").notes == ("the embedding xl is for sdxl, not for sd1: its name in a prompt is text",)
