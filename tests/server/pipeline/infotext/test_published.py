"""Infotexts that A1111, Forge, SD.Next and others wrote, as they were published, with most of their prompts cut.

What each must give was read from the text by eye, with A1111's own rules for what it leaves out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.pipeline.infotext import read_infotext, read_request_fields

TEXTS = [json.loads(line) for line in (Path("tests") / "data" / "infotexts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("published", TEXTS, ids=lambda published: published["source"])
def test_a_published_text_gives_its_request(published: dict[str, Any]):
    parameters = read_infotext(published["text"])
    found = read_request_fields(parameters)
    fields = dict(found.fields)
    assert fields.pop("prompt") == parameters.prompt != ""
    assert fields.pop("negative_prompt", "") == parameters.negative_prompt
    assert fields == pytest.approx(published["fields"]) if "controls" not in fields else fields == published["fields"]
    assert (found.task, list(found.attachments)) == (published["task"], published["attachments"])
    assert sorted(each.name for each in found.unused) == sorted(published["unused"])
    assert [found.model, found.model_hash] == published["model"]


def test_a_prompt_s_own_lines_and_loras_stay_in_it():
    by_source = {each["source"]: read_infotext(each["text"]).prompt for each in TEXTS}
    assert by_source["A1111 1.8.0-RC with a Lightning model"].count("\nBREAK ") == 2
    assert by_source["A1111 1.6.1, img2img with a unit"] == "cat, <lora:JapaneseDollLikeness_v15:1>"
    assert by_source["Civitai's generator, its line breaks lost"].endswith("Blade Runner movie")


def test_hashes_of_loras_and_embeddings_are_read():
    found = {each["source"]: read_request_fields(read_infotext(each["text"])) for each in TEXTS}
    assert found["A1111 1.4.0 with hashes as JSON"].lora_hashes == {"gaint build-V1": "fe6d7d9c9881"}
    second_pass = found["A1111 1.5.1 with a second pass and a unit"]
    assert second_pass.embedding_hashes == {"Neg1": "339cc9210f70", "Negative": "66a7279a88dd"}
