"""The model a server is started with: used as it is, or converted before the worker begins."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from converter.apple import is_apple
from converter.errors import AnemoneError
from converter.folder import FILE
from server.jobs.readiness import Readiness
from server.models.conversion import Conversion
from server.models.conversion_request import first_request
from server.models.conversions import Conversions
from server.models.installed import InstalledModels
from server.models.library import from_hub, is_current


class ReadinessListener(Protocol):
    """What waits for the model: the job queue."""

    def begin(self) -> None:
        """Start the worker."""

    def set_readiness(self, readiness: Readiness) -> None:
        """Show how the model is coming along."""


class FirstModel:
    """What ``--model`` names: a converted folder, one of Apple's converter, a checkpoint, an address on the hub."""

    def __init__(self, given: Path, data_dir: Path) -> None:
        self.request = first_request(given)
        own_folder = given.is_dir() and ((given / FILE).is_file() or is_apple(given))
        #: Where the model is, or will be.
        self.folder = given.absolute() if own_folder else data_dir.absolute() / "models" / self.request.name
        #: Its folder, where that is not in the data folder.
        self.outside = (self.folder,) if own_folder else ()
        #: All installed models, with this one as the default.
        self.models = InstalledModels(data_dir, self.outside, self.request.name)

    @property
    def is_ready(self) -> bool:
        """Whether there is nothing to convert."""
        source = Path(self.request.source)
        if not source.is_absolute():
            return from_hub(self.folder, self.request.source) is not None
        if self.folder == source:
            return (self.folder / FILE).is_file()
        try:
            return is_current(source, self.folder)
        except AnemoneError:
            return False  # the conversion says what is wrong with it

    def start(self, conversions: Conversions, queue: ReadinessListener) -> None:
        """Have the worker begin as soon as the model is there; until then show how far its conversion is.

        To be called before the conversions start.
        """
        if self.is_ready:
            queue.begin()
            return

        def on_change(conversion: Conversion) -> None:
            if conversion.id == self.request.id:
                self._show(conversion, queue)

        conversions.listen(on_change)
        conversions.submit(self.request, replacing=True)

    def _show(self, conversion: Conversion, queue: ReadinessListener) -> None:
        at = conversion.progress
        if conversion.status == "succeeded":
            queue.set_readiness(Readiness())
            queue.begin()
        elif conversion.status == "failed":
            queue.set_readiness(Readiness("failed", message=conversion.error[1] if conversion.error else None))
        elif conversion.status == "cancelled":
            queue.set_readiness(
                Readiness("failed", message="its conversion was cancelled; restart the server to go on with it")
            )
        elif at is not None:
            queue.set_readiness(Readiness(at.stage, at.item, at.done, at.total))
