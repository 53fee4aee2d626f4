"""The model a server starts with: used as it is, or converted before the workers start."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from converter.apple import is_apple
from converter.errors import AnemoneError, ManifestError
from converter.folder import FILE, Manifest
from converter.progress import Progress
from server.models.conversion import Conversion
from server.models.conversion_request import first_request
from server.models.conversions import Conversions
from server.models.installed import InstalledModels, UnknownModel
from server.models.library import from_hub, is_current


class FirstModelListener(Protocol):
    """Waits for the first model."""

    def on_progress(self, progress: Progress) -> None:
        """Its conversion has come this far."""

    def on_failure(self, message: str) -> None:
        """It will not come."""

    def on_installed(self, model: str) -> None:
        """It is installed under this name."""


class FirstModel:
    """The model that ``--model`` names: a converted folder, one of Apple's converter, a checkpoint, a hub address."""

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
        """Return whether there is nothing to convert."""
        source = Path(self.request.source)
        if not source.is_absolute():
            return from_hub(self.folder, self.request.source) is not None
        if self.folder == source:
            return (self.folder / FILE).is_file()
        try:
            return is_current(source, self.folder)
        except AnemoneError:
            return False  # the conversion says what is wrong with it

    def start(self, conversions: Conversions, listener: FirstModelListener) -> None:
        """Tell the listener when the model is installed, and until then how far its conversion is.

        To be called before the conversions start.
        """
        if self.is_ready:
            self._installed(listener)
            return

        def on_change(conversion: Conversion) -> None:
            if conversion.id == self.request.id:
                self._changed(conversion, listener)

        conversions.listen(on_change)
        conversions.submit(self.request, replacing=True)

    def _installed(self, listener: FirstModelListener) -> None:
        try:
            name = self.models.find(self.models.default or "")
        except UnknownModel as gone:
            listener.on_failure(self._what_is_wrong() or str(gone))
        else:
            listener.on_installed(name)

    def _what_is_wrong(self) -> str | None:
        """Return why the model's folder is none, if it has a manifest."""
        try:
            Manifest.read(self.folder)
        except (OSError, ManifestError) as error:
            return str(error)
        return None

    def _changed(self, conversion: Conversion, listener: FirstModelListener) -> None:
        if conversion.status == "succeeded":
            self._installed(listener)
        elif conversion.status == "failed":
            listener.on_failure(conversion.error[1] if conversion.error else "its conversion failed")
        elif conversion.status == "cancelled":
            listener.on_failure("its conversion was cancelled; restart the server to go on with it")
        elif conversion.progress is not None:
            listener.on_progress(conversion.progress)
