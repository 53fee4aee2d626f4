"""Tiles are blended without seams, for images of any size, within a row's memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from converter.conversion.upscaler import write_upscaler
from converter.options import ConvertOptions
from converter.sources.upscaler import UpscalerFile
from server.pipeline.networks import Call
from server.pipeline.upscaling.enlarge import enlarged, passes, tiles_needed
from server.pipeline.upscaling.network import UpscalingNetwork
from server.pipeline.upscaling.tiles import MARGIN, enlarged_rows, tile_count
from tests.support.upscalers import SMALL_COMPACT, network, save


def noise(width, height, seed=0):
    """Return smooth colors with edges: what a network enlarges, and a seam shows in."""
    small = np.random.default_rng(seed).integers(0, 256, (max(1, height // 5), max(1, width // 5), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@dataclass
class Convolutions:
    """As many convolutions with zeros at the edges as the bundled upscaler has, in PyTorch, on tiles of any size."""

    tile: int
    scale: int = 2

    def enlarge(self, tile):
        assert tile.shape == (self.tile, self.tile, 3)
        return self.run(tile)

    def run(self, pixels):
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[:, None].float() / 255
        generator = torch.Generator().manual_seed(3)
        for _ in range(10):
            x = x + 0.2 * torch.tanh(F.conv2d(x, torch.randn((1, 1, 3, 3), generator=generator), padding=1))
        x = F.interpolate(x, scale_factor=self.scale, mode="nearest").clamp(0, 1)
        return np.rint(x[:, 0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def image_of(events):
    return np.concatenate([event for event in events if not isinstance(event, Call)])


@pytest.mark.parametrize(("width", "height"), [(150, 97), (333, 64), (41, 200), (64, 64), (65, 63)])
def test_tiles_make_what_the_whole_image_makes(width, height):
    pixels = noise(width, height)
    padded = np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), "symmetric")
    whole = Convolutions(0).run(padded)[2 * MARGIN : -2 * MARGIN, 2 * MARGIN : -2 * MARGIN]
    tiled = image_of(enlarged_rows(pixels, Convolutions(64)))
    assert tiled.shape == (2 * height, 2 * width, 3)
    assert np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 50), (63, 7)])
def test_images_smaller_than_a_tile_are_enlarged(width, height):
    pixels = noise(width, height)
    assert image_of(enlarged_rows(pixels, Convolutions(64))).shape == (2 * height, 2 * width, 3)


def test_a_flat_image_stays_flat():
    pixels = np.full((200, 130, 3), (12, 200, 99), np.uint8)

    class Repeat(Convolutions):
        def run(self, pixels):
            return pixels.repeat(2, 0).repeat(2, 1)

    assert (image_of(enlarged_rows(pixels, Repeat(64))) == (12, 200, 99)).all()


def test_tiles_are_counted_before_they_are_made():
    network = Convolutions(64)
    for width, height in ((150, 97), (64, 64), (10, 500)):
        events = list(enlarged_rows(noise(width, height), network))
        assert sum(isinstance(event, Call) for event in events) == tile_count(width, height, 64)


@pytest.mark.parametrize(("to", "count"), [((300, 194), 1), ((225, 146), 1), ((450, 291), 2), ((1200, 776), 3)])
def test_a_network_runs_as_often_as_the_size_needs(to, count):
    pixels, network = noise(150, 97), Convolutions(64)
    *tiles, image = enlarged(pixels, *to, network)
    assert passes(150, 97, *to, 2) == count
    assert image.shape == (to[1], to[0], 3)
    assert len(tiles) == tiles_needed(150, 97, *to, tile=64, scale=2)


def test_an_image_that_does_not_grow_goes_through_the_network_once():
    *tiles, image = enlarged(noise(100, 100), 100, 100, Convolutions(64))
    assert len(tiles) == tile_count(100, 100, 64)
    assert image.shape == (100, 100, 3)


@pytest.mark.parametrize("name", ["lanczos", "nearest"])
def test_resampling_is_pillows(name):
    pixels = noise(50, 40)
    *_, image = enlarged(pixels, 125, 100, name)
    expected = Image.fromarray(pixels).resize((125, 100), Image.Resampling[name.upper()])
    assert (image == np.asarray(expected)).all()


def test_an_image_of_another_ratio_is_cropped_in_the_middle():
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    *_, image = enlarged(pixels, 80, 80, "nearest")
    assert image.shape == (80, 80, 3)
    assert (image == 255).all()


def test_a_tall_image_takes_a_row_of_tiles_of_memory():
    class Repeat(Convolutions):
        def run(self, pixels):
            return pixels.repeat(4, 0).repeat(4, 1)

    pixels = np.zeros((6000, 300, 3), np.uint8)
    network = Repeat(64, 4)
    tracemalloc.start()
    for _ in enlarged_rows(pixels, network):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * pixels.nbytes / 3  # the whole result is 16 times the image


def test_a_converted_network_enlarges_as_pytorch_does(tmp_path):
    module = network(SMALL_COMPACT)
    source = UpscalerFile.open(save(module, tmp_path / "net.safetensors"))
    folder = write_upscaler(source, tmp_path / "out", ConvertOptions(tile=64, verify=False))
    loaded = UpscalingNetwork.open(folder, {}, "fp32")
    tile = noise(64, 64)
    x = torch.from_numpy((tile.astype(np.float32) / 255).astype(np.float16)).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = module(x)[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert np.abs(loaded.enlarge(tile) - expected).max() <= 1


def test_an_image_larger_than_its_result_is_reduced_before_the_network_sees_it():
    assert tiles_needed(8000, 4000, 64, 32, tile=64, scale=2) == tiles_needed(64, 32, 64, 32, tile=64, scale=2)
