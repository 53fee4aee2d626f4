"""Models with LoRAs and embeddings merged in: real ones, of the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from converter.folder import ModelFolder
from converter.progress import Progress
from server.jobs.messages import ModelRef
from server.jobs.variants import Variants
from server.jobs.worker import AddonChanged, AddonMisfit
from server.models.installed import content_hash
from server.models.loras import Addons
from server.models.merged import MergedModels
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.loading import open_pipeline
from server.pipeline.request import GenerationRequest, KnownAddons, bind
from tests.support.addons import write_lora
from tests.support.checkpoints import TEXT_WIDTH

LAYER = "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
LAYER_SHAPE = (32, 32)


@pytest.fixture
def addons(tmp_path: Path, model_folder: ModelFolder) -> Addons:
    """A LoRA called film that changes images visibly, and an embedding called toy of two vectors."""
    found = Addons(tmp_path, bundled=tmp_path)
    write_lora(found.loras.root / "film.safetensors", LAYER, *LAYER_SHAPE, size=10)
    vectors = np.random.default_rng(0).standard_normal((2, TEXT_WIDTH)).astype(np.float32)
    found.embeddings.root.mkdir()
    save_file({"<cat-toy>": vectors}, found.embeddings.root / "toy.safetensors")
    return found


@pytest.fixture
def variants(tmp_path: Path, addons: Addons) -> Variants:
    return Variants(addons, MergedModels(tmp_path / "merged"))


def asked(folder: ModelFolder, addons: Addons, prompt: str) -> GenerationRequest:
    known = KnownAddons(addons.loras.snapshot(), addons.embeddings.all()[0])
    return bind(folder.manifest, addons=known, prompt=prompt, seed=7, steps=1)


def ref(folder: ModelFolder, request: GenerationRequest) -> ModelRef:
    return ModelRef("tiny", content_hash(folder.manifest)).merged_for(request)


Make = Callable[[str], NDArray[np.uint8]]


@pytest.fixture
def image(model_folder: ModelFolder, addons: Addons, variants: Variants) -> Make:
    """Makes the image of a prompt."""

    def make(prompt: str) -> NDArray[np.uint8]:
        request = asked(model_folder, addons, prompt)
        model = ref(model_folder, request)
        with variants.open(model, model_folder, lambda progress: None) as folder:
            pipeline = open_pipeline(folder, {}, words=model.words, precision="fp32")
            (made,) = (e for e in pipeline.generate(request, {}) if isinstance(e, GeneratedImage))
            return made.pixels

    return make


def test_loras_and_embeddings_change_the_image_and_their_weights_count(image: Make) -> None:
    plain, film = image("a cat"), image("a cat <lora:film:1>")
    assert not np.array_equal(film, plain)
    # The LoRA changes the UNet alone.
    assert np.array_equal(image("a cat <lora:film:3:1>"), film)
    assert np.array_equal(image("a cat <lora:film:1:0>"), plain)
    toy = image("a toy")
    assert not np.array_equal(toy, plain)
    assert np.array_equal(image("a <Cat-Toy>"), toy)


def test_a_model_is_merged_once_with_progress_also_after_its_files_are_gone(
    model_folder: ModelFolder, addons: Addons, variants: Variants
) -> None:
    request = asked(model_folder, addons, "a toy <lora:film:1>")
    model, told = ref(model_folder, request), list[Progress]()
    with variants.open(model, model_folder, told.append) as first:
        assert {progress.stage for progress in told} >= {"merging"}
    addons.loras.delete("film")
    told.clear()
    with variants.open(model, model_folder, told.append) as second:
        assert second.path == first.path
        assert "merging" not in {progress.stage for progress in told}


def test_a_merge_of_an_earlier_revision_is_made_again(
    model_folder: ModelFolder, addons: Addons, variants: Variants, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ref(model_folder, asked(model_folder, addons, "<lora:film:1>"))
    with variants.open(model, model_folder, lambda progress: None) as first:
        monkeypatch.setattr("server.jobs.variants.MERGE_REVISION", 1000)
        with variants.open(model, model_folder, lambda progress: None) as second:
            assert second.path != first.path


def test_a_file_that_was_replaced_or_deleted_meanwhile_is_not_used(
    model_folder: ModelFolder, addons: Addons, variants: Variants
) -> None:
    model = ref(model_folder, asked(model_folder, addons, "<lora:film:1>"))
    write_lora(addons.loras.root / "film.safetensors", LAYER, *LAYER_SHAPE, size=1)
    with pytest.raises(AddonChanged, match="film was replaced"), variants.open(model, model_folder, print):
        pass
    (addons.loras.root / "film.safetensors").write_bytes(b"cut")
    with pytest.raises(AddonChanged, match="film was replaced"), variants.open(model, model_folder, print):
        pass
    addons.loras.delete("film")
    with pytest.raises(AddonChanged, match="film was deleted"), variants.open(model, model_folder, print):
        pass


def test_a_file_that_is_overwritten_while_it_is_merged_leaves_nothing(
    model_folder: ModelFolder, addons: Addons, variants: Variants
) -> None:
    path = addons.loras.root / "film.safetensors"
    content = path.read_bytes()

    def overwrite(progress: Progress) -> None:
        if progress.stage == "merging" and progress.done:
            with path.open("r+b") as file:
                file.write(content)

    model = ref(model_folder, asked(model_folder, addons, "<lora:film:1>"))
    with pytest.raises(AddonChanged, match="while it was merged"), variants.open(model, model_folder, overwrite):
        pass
    told = list[Progress]()
    with variants.open(model, model_folder, told.append):
        assert "merging" in {progress.stage for progress in told}


def test_a_lora_that_does_not_fit_the_model_is_named(
    model_folder: ModelFolder, addons: Addons, variants: Variants
) -> None:
    write_lora(addons.loras.root / "odd.safetensors", LAYER, 48, 48, size=1)
    model = ref(model_folder, asked(model_folder, addons, "<lora:film:1> <lora:odd:1>"))
    with (
        pytest.raises(AddonMisfit, match=f"^odd: {LAYER} of the LoRA is 48x48"),
        variants.open(model, model_folder, lambda progress: None),
    ):
        pass


def test_a_merge_that_is_given_up_leaves_nothing(
    tmp_path: Path, model_folder: ModelFolder, addons: Addons, variants: Variants
) -> None:
    class GivenUp(Exception):
        pass

    def give_up(progress: Progress) -> None:
        if progress.stage == "merging" and progress.done:
            raise GivenUp

    model = ref(model_folder, asked(model_folder, addons, "<lora:film:1>"))
    with pytest.raises(GivenUp), variants.open(model, model_folder, give_up):
        pass
    left = [path for path in (tmp_path / "merged").rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []


def test_a_lora_without_weight_needs_no_merged_model(model_folder: ModelFolder, addons: Addons) -> None:
    assert not ref(model_folder, asked(model_folder, addons, "a cat <lora:film:0>")).is_merged
    assert ref(model_folder, asked(model_folder, addons, "a cat <lora:film:0:1>")).is_merged
