"""A conversion's state, and the file that keeps it across restarts."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from converter.progress import Progress
from server.events import OPEN, Status
from server.faults import naming
from server.models.conversion_request import ConversionRequest

log = logging.getLogger("anemone.conversions")

#: Finished conversions that are kept; the oldest are removed first, their models are not.
_MOST_KEPT = 200


@dataclass(frozen=True)
class Conversion:
    """A conversion request and its state. Times are seconds since 1970.

    attempts: how many times it was started; attempts that a stop of the server interrupted are not counted.
    error: code and message, if it failed.
    progress: that of a running conversion; not stored on disk.
    """

    request: ConversionRequest
    status: Status
    created: float
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    error: tuple[str, str] | None = None
    progress: Progress | None = None

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def open(self) -> bool:
        """Whether it is queued or running."""
        return self.status in OPEN


_CONVERSION = TypeAdapter(Conversion)


def _upgrade(stored: dict[str, Any]) -> None:
    """Convert the form of release 0.1.0, which has options, source and name together in `order`, to the present one."""
    if "order" in stored:
        order = stored.pop("order")
        stored["request"] = {"source": order.pop("source"), "name": order.pop("name"), "options": order}


class ConversionFiles:
    """One JSON file for each conversion, in ``data_dir``/conversions."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "conversions"

    def read(self) -> dict[str, Conversion]:
        """Return all conversions by id, the oldest first."""
        conversions = [c for path in self._folder.glob("*.json") if (c := self._parsed(path)) is not None]
        return {c.id: c for c in sorted(conversions, key=lambda c: c.created)}

    @staticmethod
    def _parsed(path: Path) -> Conversion | None:
        try:
            stored = from_json(path.read_bytes())
            _upgrade(stored)
            conversion = _CONVERSION.validate_json(json.dumps(stored), strict=True)
            if conversion.id != path.stem:
                raise ValueError("its name is not the id of its request; a later version may have written it")
            return conversion
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # The file is damaged, or from a later version. The same request then makes a new conversion.
            log.warning("%s is not read: %s", path, error)
            return None

    def write(self, conversion: Conversion) -> None:
        """Write the conversion to disk; the file is complete when this returns."""
        self._folder.mkdir(exist_ok=True)  # not the data folder: if that was removed, its models are gone too
        path = self._folder / f"{conversion.id}.json"
        new = path.with_suffix(".new")
        with naming(path), new.open("wb") as file:
            file.write(_CONVERSION.dump_json(replace(conversion, progress=None)))
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)

    def forget(self, conversions: dict[str, Conversion]) -> list[str]:
        """Delete the files of the oldest ended conversions, if there are too many; return their ids."""
        ended = sorted((c for c in conversions.values() if not c.open), key=lambda c: c.created)
        forgotten = [c.id for c in ended[: max(0, len(ended) - _MOST_KEPT)]]
        for conversion_id in forgotten:
            path = self._folder / f"{conversion_id}.json"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the next start reads it again, and it is deleted later
                log.warning("%s cannot be deleted: %s", path, error.strerror)
        return forgotten
