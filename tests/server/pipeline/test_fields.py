"""How a request's parts and lists of parts become the fields that clients send."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from server.pipeline.fields import Attachment, Part, asked_fields, fields_of, place_of, values_of, without_attachments
from server.pipeline.limits import STORED, Items, Real, Within, path_of, value_and_reason


class Lamp(Part):
    """A light."""

    image: Annotated[str, Attachment()] = Field(description="What it throws")
    name: str = Field(description="Which lamp")
    weight: Annotated[Real, Within(0, 2)] = Field(1.0, description="How bright")


class Paper(Part):
    """The size."""

    image: Annotated[str, Attachment()] = Field(description="What it starts from")
    width: int = Field(3, description="Pixels")


class Photograph(Part):
    """A request with a part and a list of parts."""

    paper: Paper
    lamps: Annotated[tuple[Lamp, ...], Items(2, "lamp")] = Field((), description="The lights")


class Sent(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid")


FIELDS = tuple(fields_of(Photograph))
ASKED = create_model("ASKED", __base__=Sent, **asked_fields(FIELDS, Sent, lambda field: field.name == "prompt", bytes))


def refusal(lamps):
    with pytest.raises(ValidationError) as caught:
        ASKED.model_validate({"lamps": lamps})
    finding = caught.value.errors()[0]
    return path_of(finding), *value_and_reason(finding)


@pytest.mark.timeout(20)
def test_a_name_that_comes_twice_is_found_among_many():
    """A walk for each name would take a minute."""
    many = ",".join(f'"n{number}": 1' for number in range(100_000))
    assert len(Items.parsed(f"[{{{many}}}]")[0]) == 100_000
    with pytest.raises(ValueError, match='"n99999" is in an object more than once'):
        Items.parsed(f'[{{{many}, "n99999": 2}}]')


def test_a_list_of_parts_is_one_field():
    assert [(field.name, field.part) for field in FIELDS] == [("image", "paper"), ("width", "paper"), ("lamps", None)]
    assert [field.name for field in FIELDS[2].item_fields] == ["image", "name", "weight"]


def test_what_is_left_out_of_an_item_takes_its_default():
    asked = ASKED.model_validate({"lamps": [{"image": b"1", "name": "left", "weight": None}]}).model_dump(
        exclude_none=True
    )
    assert asked == {"lamps": ({"image": b"1", "name": "left"},)}
    assert Photograph(paper=Paper(image="image"), lamps=(Lamp(image="a", name="left"),)).lamps[0].weight == 1


def test_a_form_has_the_list_as_json():
    asked = ASKED.model_validate({"lamps": '[{"image": "1", "name": "left"}]'})
    assert asked.model_dump()["lamps"][0]["name"] == "left"


@pytest.mark.parametrize(
    ("lamps", "path", "accepted"),
    [
        ([{"image": b"", "name": "a", "weight": 3}], "lamps.0.weight", "0 to 2"),
        ([{"image": b"", "name": "a"}, {"image": b"", "name": "b", "weight": True}], "lamps.1.weight", "a number"),
        ([{"image": b"", "name": "a", "colour": "red"}], "lamps.0.colour", "not permitted"),
        ([{"image": b""}], "lamps.0.name", "a value"),
        ([{"name": "a"}], "lamps.0.image", "a value"),
        ([{"image": b"", "name": "a"}] * 3, "lamps", "up to 2 lamps"),
        (["left"], "lamps.0", "an object"),
        ({"image": b""}, "lamps", "a list"),
        (7, "lamps", "a list"),
        ("left", "lamps", "a list of objects as JSON"),
        ("[" * 100_000, "lamps", "a list of objects as JSON"),
    ],
)
def test_what_is_wrong_in_a_list_is_named_with_its_place(lamps, path, accepted):
    found, _value, reason = refusal(lamps)
    assert found == path
    assert accepted in reason


def test_where_a_list_stops_being_json_is_told_and_nothing_of_what_is_none():
    assert refusal('[{"name": left}]')[2] == "a list of objects as JSON (Expecting value: line 1 column 11 (char 10))"
    assert refusal("left")[2] == "a list of objects as JSON"


def test_attachments_are_named_by_their_place():
    lamps = [{"image": b"1", "name": "left"}, {"image": b"2", "name": "right"}]
    values, attachments = without_attachments(FIELDS, {"image": b"0", "lamps": lamps, "width": None})
    assert attachments == {"image": b"0", "lamp_0_image": b"1", "lamp_1_image": b"2"}
    assert values["image"] == "image"
    assert values["lamps"] == [{"image": "lamp_0_image", "name": "left"}, {"image": "lamp_1_image", "name": "right"}]
    assert [place_of(FIELDS, name) for name in attachments] == ["image", "lamps.0.image", "lamps.1.image"]
    assert without_attachments(FIELDS, {"image": None})[1] == {}


def test_the_values_shown_are_without_attachments():
    photograph = Photograph(paper=Paper(image="image"), lamps=(Lamp(image="lamp_0_image", name="left"),))
    assert values_of(photograph, FIELDS) == {"width": 3, "lamps": [{"name": "left", "weight": 1.0}]}


def test_a_stored_list_is_read_whatever_its_length():
    lamps = [{"image": "x", "name": "a", "weight": 9}] * 3
    stored = {"paper": {"image": "image"}, "lamps": lamps}
    assert len(Photograph.model_validate(stored, context=STORED).lamps) == 3
    with pytest.raises(ValidationError):
        Photograph.model_validate(stored)


def test_the_schema_tells_the_items():
    schema = ASKED.model_json_schema()
    lamps = schema["properties"]["lamps"]["anyOf"][0]
    assert (lamps["maxItems"], lamps["items"]["$ref"]) == (2, "#/$defs/Lamp")
    assert schema["$defs"]["Lamp"]["required"] == ["image", "name"]
    assert schema["$defs"]["Lamp"]["properties"]["weight"]["anyOf"][0]["maximum"] == 2
