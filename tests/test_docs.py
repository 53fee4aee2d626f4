"""The pages say everything that can be set, sent or called, and nothing in them is broken."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.cli.main import parser
from server.cli.openapi import document
from server.pipeline.request import FIELDS
from server.settings import Settings

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = {
    str(path.relative_to(_ROOT)): path.read_text(encoding="utf-8")
    for path in [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md"), *_ROOT.glob("demo/*.md")]
}
_DOCUMENT = json.loads(document())


def _code(page: str) -> str:
    """What stands in a page in backticks and in blocks of code."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", _PAGES[page], re.DOTALL))


def _in_code(word: str, pages: Iterable[str] = tuple(_PAGES)) -> bool:
    return any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", _code(page)) for page in pages)


def _routes() -> Iterator[tuple[str, str]]:
    for path, calls in _DOCUMENT["paths"].items():
        for method in calls:
            yield method.upper(), path


def _schema_names(schema: Any) -> Iterator[str]:
    """The names of the schemas that ``schema`` refers to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _schema_names(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _schema_names(value)


def _request_fields() -> set[str]:
    """The fields of every body, also of the bodies within them, and every query parameter."""
    calls = [call for calls in _DOCUMENT["paths"].values() for call in calls.values()]
    fields = {p["name"] for call in calls for p in call.get("parameters", []) if p["in"] == "query"}
    schemas, seen = _DOCUMENT["components"]["schemas"], set[str]()
    waiting = {name for call in calls for name in _schema_names(call.get("requestBody"))}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        fields |= set(schemas[name].get("properties", {}))
        waiting |= set(_schema_names(schemas[name])) - seen
    return fields


def _subcommands() -> dict[str, argparse.ArgumentParser]:
    return {
        name: command
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }


def _flags() -> set[tuple[str, str]]:
    """Every flag of every command, by its longest name; those of serve are settings."""
    return {
        (name, max(action.option_strings, key=len))
        for name, command in _subcommands().items()
        if name != "serve"
        for action in command._actions
        if action.option_strings
        and not isinstance(action, argparse._HelpAction)
        # The fields of a request are in docs/api.md by their names.
        and not (name == "generate" and action.dest in {field.name for field in FIELDS})
    }


def _anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


#: Our own calls, and those of other protocols.
_OF_API = ["docs/api.md", "docs/clients.md", "docs/automatic1111.md"]


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_a_page_has_every_setting(name: str) -> None:
    assert _in_code(name, ["docs/running.md"]), f"docs/running.md lacks the setting {name}"


@pytest.mark.parametrize("field", sorted(_request_fields()))
def test_a_page_of_the_api_has_every_request_field(field: str) -> None:
    assert _in_code(field, _OF_API), f"{' and '.join(_OF_API)} lack the request field {field}"


@pytest.mark.parametrize(("method", "path"), list(_routes()))
def test_a_page_of_the_api_has_every_route(method: str, path: str) -> None:
    row = rf"`[^`\n]*\b{method}\b[^`\n]*{re.escape(path)}`"
    assert any(re.search(row, _PAGES[page]) for page in _OF_API), f"{' and '.join(_OF_API)} lack {method} {path}"


@pytest.mark.parametrize("command", list(_subcommands()))
def test_a_page_has_every_command(command: str) -> None:
    assert _in_code(f"anemone {command}"), f"no page has the command anemone {command}"


@pytest.mark.parametrize(("command", "flag"), sorted(_flags()))
def test_a_page_has_every_flag(command: str, flag: str) -> None:
    assert _in_code(flag), f"no page has {flag} of anemone {command}"


@pytest.mark.parametrize("page", list(_PAGES))
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _PAGES[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (_ROOT / page).parent / path if path else _ROOT / page
        assert file.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{page} links to {target}: no such heading"


@pytest.mark.parametrize("page", list(_PAGES))
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|[`\s])make ([a-z-]+)", _code(page)))
    assert named <= targets, f"{page} names make {', '.join(sorted(named - targets))}"


@pytest.mark.parametrize("page", list(_PAGES))
def test_commands_and_flags_in_pages_exist(page: str) -> None:
    commands = _subcommands()
    flags = {name: {flag for a in command._actions for flag in a.option_strings} for name, command in commands.items()}
    for command, rest in re.findall(r"\banemone ([a-z]+)\b([^\n`#|]*)", _code(page)):
        assert command in commands, f"{page} has anemone {command}, which does not exist"
        used = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest))
        assert used <= flags[command], f"{page}: anemone {command} has no {', '.join(sorted(used - flags[command]))}"


def _commands(page: str) -> Iterator[list[str]]:
    """The words of each complete ``anemone`` command in a page's blocks of code."""
    lines = re.findall(r"^(?:\.venv/bin/)?anemone .+$", _code(page).replace("\\\n", " "), re.MULTILINE)
    yield from (shlex.split(line, comments=True)[1:] for line in lines)


@pytest.mark.parametrize("page", list(_PAGES))
def test_commands_in_pages_are_accepted_as_they_stand(page: str) -> None:
    for words in _commands(page):
        if "--version" not in words:
            parser().parse_args(words)


@pytest.mark.parametrize("command", list(_subcommands()))
def test_examples_that_help_shows_are_accepted_as_they_stand(command: str) -> None:
    for line in re.findall(r"^ +(anemone .+)$", _subcommands()[command].epilog or "", re.MULTILINE):
        parser().parse_args(shlex.split(line, comments=True)[1:])


def _made(page: str) -> set[str]:
    return set(re.findall(r"-o ([\w.-]+)", _code(page)))


@pytest.mark.parametrize(
    "page", [page for page in _PAGES if page.startswith("docs/tasks/")] + ["README.md", "docs/api.md"]
)
def test_images_that_examples_send_are_in_the_checkout_or_made_by_an_example(page: str) -> None:
    sent = re.findall(
        r"(?:=@|(?:image|--mask|anemone upscale|anemone palette)[ =])([\w./-]+\.(?:png|jpg))", _code(page)
    )
    # The index says that photograph.jpg is one's own.
    known = _made(page) | _made("README.md") | {"photograph.jpg"}
    missing = {file for file in sent if file not in known and not (_ROOT / file).is_file()}
    assert not missing, f"{page} sends {', '.join(sorted(missing))}, which nobody has"


def test_the_index_of_the_tasks_has_every_page() -> None:
    folder = _ROOT / "docs" / "tasks"
    linked = set(re.findall(r"\]\(([a-z-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} == linked


def test_the_readme_stays_short() -> None:
    assert len(_PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", list(_PAGES))
def test_paths_in_pages_exist(page: str) -> None:
    paths = re.findall(r"`((?:converter|server|tests|demo|benchmarks|docs)/[\w./-]+)`", _PAGES[page])
    missing = [path for path in paths if not (_ROOT / path).exists()]
    assert not missing, f"{page} names {', '.join(missing)}, which does not exist"
