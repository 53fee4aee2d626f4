"""Flags of a request's fields."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from converter.errors import quoted
from server.cli.parser import path
from server.findings import accepted_by
from server.pipeline.fields import RequestField
from server.pipeline.limits import Accepts, Items, OneOf


def add_field(command: argparse.ArgumentParser, field: RequestField) -> None:
    """Add the flag of a field; the prompt is the first argument."""
    about = field.about.replace("%", "%%")
    if field.name == "prompt":
        command.add_argument(field.name, type=_parser(field), help=about)
        return
    flag = f"--{field.name.replace('_', '-')}" if len(field.name) > 1 else f"-{field.name}"
    one_of, items = field.find(OneOf), field.find(Items)
    if field.is_attachment:
        command.add_argument(flag, type=path, help=about)
    elif one_of is not None:
        command.add_argument(flag, choices=one_of.words, help=about)
    elif items is not None:
        names = ", ".join(inner.name for inner in field.item_fields)
        word = ":".join(field.item.word).upper() if field.item is not None else ""
        how = f"as {word}, or by its fields" if word else "by its fields"
        command.add_argument(
            f"--{items.each}",
            dest=field.name,
            type=_item_parser(field),
            nargs="+",
            action="append",
            metavar=word or "FIELD=VALUE",
            help=f"{about}, each {how}: {names}; may be given several times",
        )
    elif field.info.annotation is bool and field.info.default:
        negated = f"Do not {about[0].lower()}{about[1:]}"
        command.add_argument(f"--no-{flag[2:]}", dest=field.name, action="store_const", const=False, help=negated)
    elif field.info.annotation is bool:
        command.add_argument(flag, action="store_const", const=True, help=about)
    elif field.is_list:
        command.add_argument(flag, type=_number, nargs="+", metavar="N", help=about)
    else:
        command.add_argument(flag, type=_parser(field), help=about)


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(word)}; accepted: whole numbers") from error


def _parser(field: RequestField) -> Callable[[str], Any]:
    """Return the function that parses a field's value as the API does, and refuses what no model accepts."""
    adapter = TypeAdapter(field.type)

    def parse(word: str) -> Any:
        try:
            return adapter.validate_python(word)
        except ValidationError as error:
            first = error.errors()[0]
            limit = field.find(Accepts)
            accepted = accepted_by(first)
            accepted += f", {limit}" if first["type"] != "value_error" and limit is not None else ""
            raise argparse.ArgumentTypeError(f"{quoted(word)}; accepted: {accepted}") from error

    return parse


def _item_parser(field: RequestField) -> Callable[[str], dict[str, Any]]:
    """Return the function that parses fields of a list's item, such as weight=0.5, or film:0.8 for an item with a short form."""
    parsers = {inner.name: path if inner.is_attachment else _parser(inner) for inner in field.item_fields}
    short = () if field.item is None else field.item.word

    def parse(word: str) -> dict[str, Any]:
        name, equals, value = word.partition("=")
        if not equals and short:
            values = word.rsplit(":", len(short) - 1)
            return {each: parsers[each](text) for each, text in zip(short, values, strict=False)}
        if name not in parsers:
            raise argparse.ArgumentTypeError(f"{quoted(word)}; accepted: {', '.join(f'{n}=...' for n in parsers)}")
        return {name: parsers[name](value)}

    return parse
