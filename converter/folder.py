"""The model folder: packages, tokenizers, and a manifest with everything a server needs to use them."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from converter.checksums import FileSum, error_words, wrong_content, wrong_size
from converter.errors import DamagedModel, ManifestError
from converter.manifest import APPLE, Manifest, Package
from converter.progress import OnProgress, Progress, ignore
from converter.runtime.chunks import chunk_paths, chunk_pattern


def package_folders(folder: Path, packages: Iterable[Package]) -> tuple[str, ...]:
    """Return the folders of packages, those of all chunks included, by their paths in ``folder``.

    Raises PackageError naming a chunk that is missing.
    """
    chunks = (chunk for package in packages for chunk in chunk_paths(folder / package.path))
    return tuple(dict.fromkeys(chunk.relative_to(folder).as_posix() for chunk in chunks))


def package_files(files: Mapping[str, FileSum], packages: Iterable[Package]) -> dict[str, FileSum]:
    """Return those of a folder's files that are in packages, those of all chunks included."""
    patterns = [chunk_pattern(package.path) for package in packages]
    return {name: each for name, each in files.items() if any(pattern.match(name) for pattern in patterns)}


@dataclass(frozen=True)
class ModelFolder:
    """A converted model on disk."""

    path: Path
    manifest: Manifest

    @staticmethod
    def read(path: Path) -> ModelFolder:
        """Return the model in ``path``, whose packages may be damaged; raises ManifestError if it is not one."""
        return ModelFolder(path, Manifest.read(path))

    @staticmethod
    def open(path: Path) -> ModelFolder:
        """Open the model in ``path``; raises ManifestError if it is not one.

        Raises DamagedModel if a package or a file is missing, unreadable or of another size.
        """
        folder = ModelFolder.read(path)
        packages = [package for each in folder.manifest.networks.values() for package in each]
        if (wrong := folder.wrong_package(packages) or wrong_size(path, folder.manifest.files)) is not None:
            raise folder.damaged(wrong)
        return folder

    def files(self, *parts: str) -> dict[str, FileSum]:
        """Return the checksums of all files in these packages or tokenizers."""
        inside = tuple(f"{part}/" for part in parts)
        return {name: each for name, each in self.manifest.files.items() if name.startswith(inside)}

    def wrong_package(self, packages: Iterable[Package]) -> str | None:
        """Say of the first of these packages that is no folder what is wrong; None if all are folders."""
        for name in dict.fromkeys(package.path for package in packages):
            try:
                is_folder = stat.S_ISDIR((self.path / name).stat().st_mode)
            except OSError as error:
                return f"{name} {error_words(error)}"
            if not is_folder:
                return f"{name} is a file; a package is a folder"
        return None

    def compare(self, progress: OnProgress = ignore, *, again: bool = False) -> None:
        """Compare all files with their checksums; unless ``again``, those that changed since they were compared last.

        ``progress`` is called with bytes. Raises DamagedModel. Takes half a second per GB.
        """

        def on_read(done: int, total: int) -> None:
            progress(Progress("loading", "checksums", done, total))

        if (wrong := wrong_content(self.path, self.manifest.files, on_read, again=again)) is not None:
            raise self.damaged(wrong)

    def damaged(self, wrong: str) -> DamagedModel:
        """Return the error for damage, in words that begin with the file, with its cure."""
        source = self.manifest.source
        if self.manifest.merged is not None:
            cure = "remove it, and merge it again"
        elif source.kind == APPLE:
            cure = f"put the original file back, or after a change of your own `anemone adopt {quote(str(self.path))}` again"
        else:
            cure = f"convert {source.path_or_id} again: `anemone convert SOURCE -o {quote(str(self.path))}`"
        return DamagedModel(f"{self.path} is damaged: {wrong}; {cure}", wrong)

    def tokenizer(self, name: str) -> Path:
        """Return the folder of a tokenizer (vocab.json and merges.txt); without one of this name, that of the common one."""
        own = self.path / name
        return own if own.is_dir() else self.path / "tokenizer"

    def packages(self, network: str, width: int | None = None, height: int | None = None) -> tuple[Package, ...]:
        """Return a network's packages for images of a size (pixels; None if it does not matter), smallest first.

        Raises ManifestError if it has none.
        """
        packages = self.manifest.networks.get(network, ())
        of_size = [p for p in packages if (p.width, p.height) == (width, height)]
        if not of_size:
            sizes = dict.fromkeys("any size" if p.width is None else f"{p.width}x{p.height}" for p in packages)
            have = ", ".join(sizes) or "none"
            wanted = "any size" if width is None else f"{width}x{height}"
            raise ManifestError(f"{self.path} has no {network} for {wanted}; it has {have}")
        return tuple(sorted(of_size, key=lambda p: (p.control, p.image_tokens or 0, p.tokens or 0, p.batch)))

    def best(
        self,
        network: str,
        width: int | None = None,
        height: int | None = None,
        *,
        batch: int = 1,
        tokens: int = 0,
        control: bool = False,
        image_tokens: int | None = None,
    ) -> Package:
        """Return the smallest package that takes ``batch`` rows at once, or the one that takes most if none does.

        ``tokens``, ``control`` and ``image_tokens`` must fit. Raises ManifestError if no package fits.
        """
        form = (control, image_tokens)
        packages = [p for p in self.packages(network, width, height) if (p.control, p.image_tokens) == form]
        long = [p for p in packages if p.tokens is None or p.tokens >= tokens]
        if not long:
            have = sorted({p.tokens or 0 for p in packages})
            raise ManifestError(
                f"{self.path} has no {network} {'with' if control else 'without'} ControlNet for {tokens} tokens"
                f"{'' if image_tokens is None else f' and {image_tokens} tokens of an image'}; "
                f"it has {have or 'none'}"
            )
        shortest = [p for p in long if p.tokens == long[0].tokens]
        return next((p for p in shortest if p.batch >= batch), shortest[-1])

    def default(self, network: str) -> Package:
        """Return the package of a network that a request with the model's defaults runs. Raises ManifestError."""
        defaults, conditions = self.manifest.defaults, self.manifest.conditions
        guided = defaults.guidance_scale > 1 and conditions.guidance_width is None
        packages = self.manifest.networks.get(network, ())
        size = self.manifest.sizes[0] if any(package.width is not None for package in packages) else ()
        takes_prompts = any(package.tokens is not None for package in packages)
        return self.best(network, *size, batch=2 if guided and takes_prompts else 1)

    def package(self, network: str, width: int | None = None, height: int | None = None) -> Path:
        """Return the folder of a network's package for a size: the one with the largest batch."""
        return self.path / max(self.packages(network, width, height), key=lambda p: p.batch).path
