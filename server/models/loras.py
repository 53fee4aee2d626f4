"""The LoRAs and embeddings of the data folder, with what requests need to know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.loras import EmbeddingFile, FewStep, LoraFile
from converter.sources.tensors import Tensors
from server.models.addons import AddonFiles

#: The folder with those that come with Anemone, which are for the bundled model.
BUNDLED = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class InstalledLora:
    """A LoRA.

    tensors_sha256: of the tensors alone. bytes: its file's size. families: the names of the model families that it fits.
    text_width: the width of the prompt's states in the models that it fits; None if the file does not show it.
    kinds: of its layers, such as LoRA or LoHa. ranks: the least and the greatest; None where no layer has one.
    words: what it was trained with, to be used in prompts, as far as the file says.
    notes: what the file does not tell and was assumed, in sentences.
    """

    name: str
    sha256: str
    tensors_sha256: str
    bytes: int
    families: tuple[str, ...]
    few_step: FewStep | None
    text_width: int | None = None
    kinds: tuple[str, ...] = ()
    ranks: tuple[int, int] | None = None
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class InstalledEmbedding:
    """An embedding (textual inversion).

    words: what stands for it in a prompt. vectors: how many tokens it takes. width: the elements of one, of all text encoders
    together.
    """

    name: str
    sha256: str
    bytes: int
    families: tuple[str, ...]
    words: tuple[str, ...]
    vectors: int
    width: int

    @property
    def text_width(self) -> int:
        """The width of the prompt's states in the models that it fits: SDXL joins its text encoders'."""
        return self.width


def _read_lora(name: str, path: Path) -> InstalledLora:
    file = LoraFile.open(path)
    about = file.about
    return InstalledLora(
        name,
        file.sha256,
        file.tensors_sha256,
        path.stat().st_size,
        file.families,
        file.few_step,
        file.text_width,
        about.kinds,
        about.ranks,
        about.words,
        file.notes,
    )


def _read_embedding(name: str, path: Path) -> InstalledEmbedding:
    file = EmbeddingFile.open(path)
    # A1111's name of an embedding is its file's; diffusers' is the token in the file, such as <cat-toy>.
    words = (name, file.token) if file.token is not None and file.token.startswith("<") else (name,)
    width = sum(vectors.shape[-1] for vectors in file.vectors.values())
    return InstalledEmbedding(name, file.sha256, path.stat().st_size, file.families, words, file.count, width)


class Addons:
    """The LoRAs and embeddings that requests may name."""

    def __init__(
        self,
        data_dir: Path,
        loras_dir: Path | None = None,
        embeddings_dir: Path | None = None,
        bundled: Path = BUNDLED,
    ) -> None:
        """``loras_dir`` and ``embeddings_dir`` have the files; None: ``data_dir``/loras and ``data_dir``/embeddings.

        ``bundled`` has the folders anemone-loras and anemone-embeddings of those that come with Anemone.
        """
        loras, embeddings = loras_dir or data_dir / "loras", embeddings_dir or data_dir / "embeddings"
        self.loras = AddonFiles(loras, data_dir / "loras.json", InstalledLora, _read_lora, bundled / "anemone-loras")
        self.embeddings = AddonFiles(
            embeddings,
            data_dir / "embeddings.json",
            InstalledEmbedding,
            _read_embedding,
            bundled / "anemone-embeddings",
        )

    def lora_metadata(self, name: str) -> Mapping[str, str]:
        """Return what a LoRA's trainer wrote into its file; raises AnemoneError."""
        return Tensors([self.loras.path(name)]).metadata

    def read_all(self) -> None:
        """Read all files that were not read before, so that no request waits for it."""
        self.loras.all()
        self.embeddings.all()
