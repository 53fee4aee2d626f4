"""The model folder: packages, tokenizer, and a manifest that says everything a server needs to configure itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from converter.errors import ManifestError

FORMAT = 1
FILE = "anemone.json"
NETWORKS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@dataclass(frozen=True)
class SchedulerSettings:
    """The noise schedule the model was trained on (diffusers' scheduler_config.json)."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    timestep_spacing: str
    steps_offset: int
    set_alpha_to_one: bool


@dataclass(frozen=True)
class Defaults:
    """What a request gets when it does not say."""

    steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Source:
    """Where the weights came from, and the hash of all that was read."""

    kind: str
    path_or_id: str
    sha256: str


@dataclass(frozen=True)
class Versions:
    """What made the packages."""

    anemone: str
    coremltools: str


@dataclass(frozen=True)
class Manifest:
    """anemone.json. Sizes are pictures' (width, height) in pixels, the first the default."""

    name: str
    family: str
    prediction_type: str
    attention: str
    precision: str
    sizes: tuple[tuple[int, int], ...]
    latent_channels: int
    vae_scale_factor: int
    vae_scaling_factor: float
    batch: int
    tokens: int
    text_width: int
    scheduler: SchedulerSettings
    defaults: Defaults
    #: Network -> size ("256x256", or "any" where it does not matter) -> package folder name.
    networks: dict[str, dict[str, str]]
    source: Source
    converter: Versions
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write anemone.json into ``folder``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Manifest:
        """The manifest of a model folder; raises ManifestError naming the field that is missing or wrong."""
        path = folder / FILE
        if not path.is_file():
            raise ManifestError(f"{folder} is not a converted model: it has no {FILE}")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} is not JSON: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            what = found.get("format") if isinstance(found, dict) else found
            raise ManifestError(f"{path} has format {what!r}; this version reads {FORMAT}")
        parts = {"scheduler": SchedulerSettings, "defaults": Defaults, "source": Source, "converter": Versions}
        values: dict[str, Any] = {}
        for field in fields(Manifest):
            if field.name not in found:
                raise ManifestError(f"{path} lacks {field.name!r}")
            values[field.name] = found[field.name]
        for name, kind in parts.items():
            wanted = {f.name for f in fields(kind)}
            if not isinstance(values[name], dict) or set(values[name]) != wanted:
                raise ManifestError(f"{path}: {name!r} must have exactly {', '.join(sorted(wanted))}")
            values[name] = kind(**values[name])
        try:
            values["sizes"] = tuple((int(w), int(h)) for w, h in values["sizes"])
        except (TypeError, ValueError) as error:
            raise ManifestError(f"{path}: 'sizes' must be a list of [width, height]") from error
        return Manifest(**values)


@dataclass(frozen=True)
class ModelFolder:
    """A converted model on disk."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path) -> ModelFolder:
        """The model in ``path``; raises ManifestError where it is not one or a package is missing."""
        folder = ModelFolder(path, Manifest.read(path))
        for network in NETWORKS:
            for package in folder.manifest.networks.get(network, {}).values():
                if not (path / package).is_dir():
                    raise ManifestError(f"{path} lacks the package {package} that its {FILE} names")
        return folder

    @property
    def tokenizer(self) -> Path:
        """The folder of vocab.json and merges.txt."""
        return self.path / "tokenizer"

    def package(self, network: str, width: int | None = None, height: int | None = None) -> Path:
        """The package of a network; ``width`` and ``height`` (pixels) are for the networks that depend on the size."""
        found = self.manifest.networks.get(network, {})
        size = "any" if width is None else f"{width}x{height}"
        if size not in found:
            raise ManifestError(f"{self.path} has no {network} for {size}; it has {', '.join(found) or 'none'}")
        return self.path / found[size]
