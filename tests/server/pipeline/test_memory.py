"""Networks within a memory budget: loaded when they are needed, unloaded to make room for others."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from converter.errors import MemoryShortage
from converter.runtime import load, weight_bytes
from server.pipeline.denoising.denoiser import GeneratedImage, Step
from server.pipeline.networks import Call, LoadedNetworks, Networks
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion


class Loads:
    """A loader that remembers what it loaded and which of it is still loaded."""

    def __init__(self):
        self.names, self._alive = [], []

    def __call__(self, path, function, units):
        network = load(path, function=function)
        self.names.append(path.stem)
        self._alive.append((path, weakref.ref(network)))
        return network

    @property
    def alive(self):
        return [path.stem for path, network in self._alive if network() is not None]

    @property
    def bytes(self):
        return sum(weight_bytes(path) for path, network in self._alive if network() is not None)


def size(model_folder, network):
    return weight_bytes(model_folder.package(network, *(() if network == "text_encoder" else (64, 64))))


def run(model_folder, budget, loads, **fields):
    model = StableDiffusion(model_folder, {}, loads, budget)
    events = model.generate(bind(model.manifest, prompt="red", steps=2, seed=7, **fields), {})
    return [event for event in events if not isinstance(event, Call)]


def images(events):
    return [e.pixels for e in events if isinstance(e, GeneratedImage)]


def test_with_room_for_one_network_each_is_loaded_once_a_request_and_the_images_are_the_same(model_folder):
    budget = max(size(model_folder, name) for name in ("text_encoder", "unet", "vae_decoder"))
    ample, tight = Loads(), Loads()
    expected = run(model_folder, None, ample, n=2)
    actual = run(model_folder, budget, tight, n=2)
    assert [type(e) for e in expected] == [Step, Step, GeneratedImage] * 2
    assert [type(e) for e in actual] == [Step] * 4 + [GeneratedImage] * 2
    assert [(e.image, e.index) for e in actual[:4]] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    np.testing.assert_array_equal(images(expected), images(actual))
    assert tight.names == ample.names
    assert len(tight.names) == 3


def test_no_more_is_loaded_than_the_budget_at_any_step(model_folder):
    budget = max(size(model_folder, name) for name in ("text_encoder", "unet", "vae_decoder"))
    loads = Loads()
    model = StableDiffusion(model_folder, {}, loads, budget)
    for _ in model.generate(bind(model.manifest, prompt="red", steps=2, seed=7, n=2), {}):
        assert 0 < loads.bytes <= budget


def test_what_was_used_longest_ago_is_unloaded_first(model_folder):
    loads = Loads()
    room = size(model_folder, "text_encoder") + size(model_folder, "unet")
    networks = Networks(model_folder, {}, loads, LoadedNetworks(room))
    networks.get("text_encoder")
    networks.get("vae_decoder", 64, 64)
    networks.get("text_encoder")
    networks.get("unet", 64, 64)
    assert loads.alive == [loads.names[0], loads.names[2]]
    networks.get("text_encoder")
    assert len(loads.names) == 3


def test_loading_ahead_tries_every_network_even_without_room_for_all(model_folder):
    loads, reports = Loads(), []
    budget = size(model_folder, "unet")
    StableDiffusion(model_folder, {}, loads, budget).load(lambda p: reports.append((p.item, p.done, p.total)))
    assert len(loads.names) == 3
    assert reports[-1] == ("vae_decoder", 3, 3)
    assert loads.bytes <= budget


def test_a_network_above_the_budget_is_refused_with_both_sizes(model_folder):
    with pytest.raises(MemoryShortage, match=r"unet of tiny takes .* GB of memory, .* memory_budget_gb"):
        run(model_folder, size(model_folder, "unet") - 1, Loads())


def test_networks_share_the_memory_where_there_is_room(model_folder):
    need = size(model_folder, "unet") + size(model_folder, "vae_decoder")
    for budget, fits in ((need, True), (need - 1, False), (None, True)):
        networks = Networks(model_folder, {}, Loads(), LoadedNetworks(budget))
        assert networks.fit_together("unet", "vae_decoder", width=64, height=64) == fits
