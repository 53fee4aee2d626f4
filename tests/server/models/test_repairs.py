"""How a damaged model is made again: by its own source, if that is known and there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from server.events import EventLog
from server.models.conversion_request import ConversionRequest
from server.models.conversions import Conversions
from server.models.first import FirstModel
from server.models.repairs import Repairs
from tests.support import fake_converter
from tests.support.fake_pipeline import MANIFEST
from tests.support.live_server import until


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    replace(MANIFEST, name=folder.name).write(folder)
    return folder


@contextmanager
def repairs(given: Path, data_dir: Path) -> Iterator[tuple[Repairs, Conversions]]:
    first = FirstModel(given, data_dir)
    conversions = Conversions(data_dir, first.models, EventLog(), fake_converter.launcher(data_dir))
    conversions.start()
    try:
        yield Repairs(first, conversions), conversions
    finally:
        conversions.stop()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sources" / "first"
    path.mkdir(parents=True)
    return path


def test_the_first_model_is_made_again_from_its_setting_whether_damaged_or_gone(source: Path, tmp_path: Path) -> None:
    with repairs(source, tmp_path) as (found, conversions):
        repair = found.find("first")
        assert repair is not None
        repair()
        until(lambda: not any(c.open for c in conversions.all()))
    assert fake_converter.begun(tmp_path) == [str(source)]
    assert (tmp_path / "models" / "first").is_dir()


def test_a_model_is_not_made_again_for_ever(source: Path, tmp_path: Path) -> None:
    with repairs(source, tmp_path) as (found, conversions):
        for _ in range(3):
            repair = found.find("first")
            assert repair is not None
            repair()
            until(lambda: not any(c.open for c in conversions.all()))
        assert found.find("first") is None


def test_a_model_whose_source_is_gone_is_not_made_again(source: Path, tmp_path: Path) -> None:
    with repairs(source, tmp_path) as (found, _):
        shutil.rmtree(source)
        assert found.find("first") is None


def test_a_folder_that_was_given_is_not_ours_to_replace(tmp_path: Path) -> None:
    with repairs(put(tmp_path / "elsewhere" / "given"), tmp_path) as (found, _):
        assert found.find("given") is None


def test_another_model_is_made_again_by_the_conversion_that_made_it_while_its_folder_is_there(
    source: Path, tmp_path: Path
) -> None:
    with repairs(source, tmp_path) as (found, conversions):
        put(tmp_path / "models" / "copied")
        assert found.find("copied") is None
        conversions.submit(ConversionRequest("somebody/other@main", "other"))
        until(lambda: not any(c.open for c in conversions.all()))
        repair = found.find("other")
        assert repair is not None
        repair()
        until(lambda: not any(c.open for c in conversions.all()))
        assert fake_converter.begun(tmp_path) == ["somebody/other@main"] * 2
        shutil.rmtree(tmp_path / "models" / "other")
        assert found.find("other") is None


def test_with_the_whole_data_folder_away_nothing_is_made_in_its_place(source: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with repairs(source, data) as (found, conversions):
        data.rename(tmp_path / "away")
        with pytest.raises(FileNotFoundError) as missing:
            found.find("first")
        assert missing.value.filename == str(data)
        assert conversions.all() == []
    assert not data.exists()
