"""Converts models again whose folders are damaged or gone."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from server.models.conversion_request import ConversionRequest
from server.models.conversions import Conversions
from server.models.first import FirstModel
from server.models.installed import UnknownModel

log = logging.getLogger("anemone.models")

#: A disk that damages what is written to it would otherwise be written to for ever.
_MOST_REPAIRS = 3


class Repairs:
    """Finds out how a model in the data folder is made again: its source must be known, and still be there.

    That of the first model is its setting's; those of others are in the conversions that made them.
    """

    def __init__(self, first: FirstModel, conversions: Conversions) -> None:
        self._first, self._conversions = first, conversions
        self._repairs: Counter[str] = Counter()

    def find(self, model: str) -> Callable[[], None] | None:
        """Return a function that has the model converted again; None if it cannot be.

        Raises FileNotFoundError if the whole data folder is gone: its disk may come back, with the model.
        """
        data_dir = self._first.models.root.parent
        if not data_dir.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(data_dir))
        request = self._request(model)
        if request is None or self._repairs[model] >= _MOST_REPAIRS:
            return None
        source = Path(request.source)
        if source.is_absolute() and not source.exists():
            return None

        def repair() -> None:
            is_new = self._conversions.making(model) is None
            self._conversions.submit(request, replacing=True)
            if is_new:  # counted once it is stored: a full disk is no repair that failed
                self._repairs[model] += 1
                log.warning("the model %s is damaged or gone; it is converted again from %s", model, request.source)

        return repair

    def _request(self, model: str) -> ConversionRequest | None:
        if model == self._first.models.default:
            return None if self._first.outside else self._first.request
        try:
            folder = self._first.models.folder(model)
        except UnknownModel:
            return None  # somebody has deleted it
        if folder.is_symlink() or folder.parent != self._first.models.root:
            return None
        made = (c for c in self._conversions.all() if c.request.name == folder.name)
        return next((c.request for c in made if c.open or c.status == "succeeded"), None)
