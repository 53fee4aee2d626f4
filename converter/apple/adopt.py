"""Turn a folder of Apple's packages into a model folder: write anemone.json and tokenizers next to the packages."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from converter import __version__
from converter.apple.model import AppleModel, recognize_apple
from converter.apple.settings import AppleSettings, Settled, settle
from converter.checksums import checksum
from converter.errors import CheckpointError, ManifestError
from converter.folder import ModelFolder
from converter.manifest import APPLE, FILE, Conditions, Manifest, Package, Source, Versions
from converter.networks.registry import UNET, kind_of
from converter.runtime.chunks import chunk_paths
from converter.sources.checkpoint import size_and_time
from converter.sources.snapshot import folder_name


def _files(model: AppleModel) -> dict[str, Path]:
    """Return all files of the model's packages by their paths in its folder."""
    networks = [*model.networks.values(), *(() if model.controlled is None else (model.controlled,))]
    packages = (package for network in networks for package in chunk_paths(network))
    files = [file for package in packages for file in sorted(package.rglob("*")) if file.is_file()]
    return {file.relative_to(model.folder).as_posix(): file for file in files}


def _digest(files: Mapping[str, str]) -> str:
    """Return a hash of files' paths and of what is said of each."""
    return hashlib.sha256("".join(f"{name} {about}\n" for name, about in files.items()).encode()).hexdigest()


def _package(model: AppleModel, network: str, path: Path, *, control: bool = False) -> Package:
    kind = kind_of(network)
    width, height = (model.width, model.height) if kind.per_size else (None, None)
    batch, tokens = (model.batch, model.tokens) if kind.per_prompt else (1, None)
    return Package(path.relative_to(model.folder).as_posix(), width, height, batch, tokens, control)


def _packages(model: AppleModel) -> dict[str, tuple[Package, ...]]:
    networks: dict[str, tuple[Package, ...]] = {
        network: (_package(model, network, path),) for network, path in model.networks.items()
    }
    if model.controlled is not None:
        networks[UNET.name] += (_package(model, UNET.name, model.controlled, control=True),)
    return networks


def _manifest(model: AppleModel, settled: Settled) -> Manifest:
    sums = {name: checksum(file) for name, file in _files(model).items()}
    return Manifest(
        name=settled.name,
        family=model.family,
        prediction_type=settled.prediction_type,
        attention=model.attention,
        precision=model.precision,
        sizes=((model.width, model.height),),
        latent_channels=model.latent_channels,
        vae_scale_factor=model.vae_scale_factor,
        vae_scaling_factor=settled.vae_scaling_factor,
        tokens=model.tokens,
        conditions=Conditions(
            inpainting=model.inpainting,
            guidance_width=model.guidance_width,
            time_ids=model.time_ids,
            zeros_for_no_prompt=settled.zeros_for_no_prompt,
            text_width=model.text_width,
        ),
        scheduler=settled.schedule,
        defaults=settled.defaults,
        networks=_packages(model),
        source=Source(
            APPLE,
            model.version or folder_name(model.folder),
            _digest({name: each.sha256 for name, each in sums.items()}),
            _digest({name: size_and_time(file) for name, file in _files(model).items()}),
        ),
        converter=Versions(__version__, model.coremltools),
        plan="",
        left_out=model.left_out,
        files=sums,
    )


def _tokenizers(model: AppleModel, settled: Settled) -> Iterator[tuple[Path, bytes]]:
    for network, tokenizer in model.tokenizers.items():
        for file, content in settled.vocabulary.files(network).items():
            yield Path(tokenizer) / file, content


def _write(model: AppleModel, settled: Settled, *, replace: bool) -> None:
    """Write tokenizers, then the manifest, each file atomically; ``replace`` replaces existing tokenizer files."""
    manifest = _manifest(model, settled)
    with tempfile.TemporaryDirectory(prefix=".adopting-", dir=model.folder) as name:
        temporary = Path(name)
        for relative, content in _tokenizers(model, settled):
            target = model.folder / relative
            if replace or not target.is_file():
                (temporary / relative).parent.mkdir(exist_ok=True)
                target.parent.mkdir(exist_ok=True)
                (temporary / relative).write_bytes(content)
                os.replace(temporary / relative, target)
        manifest.write(temporary)
        os.replace(temporary / FILE, model.folder / FILE)


def _refuse_ours(folder: Path) -> None:
    """Raise CheckpointError if the folder is a model that was converted here: its manifest says more than adopting finds out."""
    if not (folder / FILE).is_file():
        return
    try:
        source = Manifest.read(folder).source
    except ManifestError:
        return
    if source.kind != APPLE:
        raise CheckpointError(
            f"{folder} is a model already: its {FILE} says that it was converted from {source.path_or_id}. Use it as it "
            "is; only folders of Apple's converter are adopted"
        )


def adopt(folder: Path, settings: AppleSettings) -> ModelFolder:
    """Return the model in a folder of Apple's packages, which stay unchanged.

    Writes anemone.json and the tokenizers next to them, so that `ModelFolder.open` needs no settings afterwards; adopting
    again with other settings replaces them. Reads every package completely, for its hash. Raises CheckpointError
    (AppleSettingsError if settings are missing or wrong) and PackageError before anything is written.
    """
    _refuse_ours(folder)
    model = recognize_apple(folder)
    settled = settle(model, settings)
    try:
        _write(model, settled, replace=settings.tokenizer is not None)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror or error}), and a model's {FILE} lies beside its packages. Make "
            "a folder of your own with links to the packages (ln -s), or a copy of them, and give that"
        ) from error
    return ModelFolder.open(folder)
