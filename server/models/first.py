"""The model a server starts with: used as it is, or converted before the workers start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from converter.apple import is_apple
from converter.conversion.planning import make_plan
from converter.errors import AnemoneError, CheckpointError, ManifestError
from converter.folder import ModelFolder
from converter.manifest import FILE, Manifest
from converter.options import ConvertOptions
from converter.progress import Progress
from converter.sources.source import open_source
from server.models.conversion import Conversion
from server.models.conversion_request import first_request
from server.models.conversions import Conversions
from server.models.installed import InstalledModels, UnknownModel
from server.models.library import from_hub, is_current
from server.models.paths import told

log = logging.getLogger("anemone.models")


class FirstModelListener(Protocol):
    """Receives the progress and the end of the first model's conversion."""

    def on_progress(self, progress: Progress) -> None:
        """Receive the progress of the conversion."""

    def on_failure(self, message: str) -> None:
        """Receive the reason why there will be no first model."""

    def on_installed(self, model: str) -> None:
        """Receive the name under which the model is installed."""


class FirstModel:
    """The model of ``--model``: a model folder, a folder of Apple's converter, a checkpoint, or an address on the hub."""

    def __init__(self, model: Path, data_dir: Path) -> None:
        self.given, self.request = model, first_request(model)
        own_folder = model.is_dir() and ((model / FILE).is_file() or is_apple(model))
        #: The model's folder, which a conversion may still have to make.
        self.folder = model.absolute() if own_folder else data_dir.absolute() / "models" / self.request.name
        #: Its folder, if that is not in the data folder.
        self.outside = (self.folder,) if own_folder else ()
        #: All installed models, with this one as the default.
        self.models = InstalledModels(data_dir, self.outside, self.request.name)

    @property
    def is_ready(self) -> bool:
        """Whether nothing has to be converted."""
        source = Path(self.request.source)
        if not source.is_absolute():
            return from_hub(self.folder, self.request.source) is not None
        if self.folder == source:
            return (self.folder / FILE).is_file()
        try:
            return is_current(source, self.folder)
        except AnemoneError:
            return False  # the conversion reports what is wrong with it

    def require_usable(self) -> None:
        """Raise AnemoneError if the given path is no model and no checkpoint that can be converted.

        Reads configurations and names of tensors. What only a conversion finds out (weights, packages of Apple's
        converter, addresses on the hub) is left to it.
        """
        source = Path(self.request.source)
        if not source.is_absolute() or (self.outside and not (self.folder / FILE).exists()):
            return
        if self.outside:
            ModelFolder.open(self.folder)
        elif not source.exists():
            raise CheckpointError(
                f"the model {self.given} does not exist; accepted: a folder or .safetensors file with a checkpoint, a "
                "converted model's folder, or owner/name on the Hugging Face hub"
            )
        elif not self.is_ready:
            make_plan(open_source(source), ConvertOptions(name=self.request.name))

    def start(self, conversions: Conversions, listener: FirstModelListener) -> None:
        """Report the progress of the model's conversion to the listener, and its end; also of a later one, of a damaged model.

        To be called before the conversions start.
        """

        def on_change(conversion: Conversion) -> None:
            if conversion.id == self.request.id:
                self._changed(conversion, listener)

        conversions.listen(on_change)
        if self.is_ready:
            self._installed(listener)
        else:
            conversions.submit(self.request, replacing=True)

    def _installed(self, listener: FirstModelListener) -> None:
        try:
            name = self.models.find(self.models.default or "")
        except UnknownModel as error:
            reason = self._manifest_error() or str(error)
            listener.on_failure(told(reason, (self.models.root, self.folder.parent), log))
        else:
            listener.on_installed(name)

    def _manifest_error(self) -> str | None:
        """Return what is wrong with the manifest of the model's folder; None if nothing is."""
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
            listener.on_failure("its conversion was cancelled; restart the server to resume it")
        elif conversion.progress is not None:
            listener.on_progress(conversion.progress)
