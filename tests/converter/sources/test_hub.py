"""Checkpoints from the Hugging Face hub, against a hub on this machine: nothing here reaches the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from huggingface_hub import close_session, constants

from converter.errors import CheckpointError, SpaceError
from converter.sources.checkpoint import Checkpoint
from converter.sources.component import Component
from converter.sources.hub import HubAddress, fetch
from converter.sources.source import open_source
from tests.support.fake_hub import TOKEN, FakeHub, Repository
from tests.support.single_files import tiny, write

UNET = "unet/diffusion_pytorch_model.safetensors"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub without repositories, and a cache without files; chunks are small, so that small files have several."""
    running = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
    template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    yield running
    close_session()
    running.close()


@pytest.fixture
def files(checkpoint):
    """The tiny checkpoint's files by path."""
    actual = {p.relative_to(checkpoint).as_posix(): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}
    return actual | {"model_index.json": json.dumps(INDEX).encode()}


def downloaded(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def address(text):
    actual = HubAddress.parse(text)
    assert actual is not None
    return actual


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubAddress("owner/name")),
        ("owner/name@fp16", HubAddress("owner/name", revision="fp16")),
        ("owner/name@refs/pr/4", HubAddress("owner/name", revision="refs/pr/4")),
        ("owner/na-me.v2_x/a b.safetensors", None),
        ("owner/name/sub/a@b.safetensors@v1", HubAddress("owner/name", "sub/a@b.safetensors", "v1")),
        ("owner/name/model.onnx", None),
        ("owner", None),
        ("owner/name/unet", None),
        ("owner/name@../../x", None),
        ("https://huggingface.co/owner/name", None),
        ("./owner/name", None),
    ],
)
def test_addresses(text, expected):
    assert HubAddress.parse(text) == expected


def test_a_repository_opens_as_the_folder_it_is_a_copy_of(hub, files, checkpoint):
    hub.repositories["owner/tiny"] = Repository(files)
    actual, original = open_source("owner/tiny"), Checkpoint.open(checkpoint)
    assert (actual.name, actual.kind) == ("owner/tiny", "hub")
    assert actual.config("scheduler") == original.config("scheduler")
    assert actual.tokenizer_files() == original.tokenizer_files()
    for component in ("text_encoder", "unet", "vae"):
        ours, theirs = actual.tensors(component), original.tensors(component)
        assert all(np.array_equal(ours.array(name), theirs.array(name)) for name in theirs)
        assert set(ours) == set(theirs)


def test_only_what_a_conversion_reads_is_downloaded(hub, files):
    wanted = set(files) - {"text_encoder/generation_config.json"}
    for name in (
        "README.md",
        "v1-5-pruned.safetensors",
        "v1-5-pruned.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/model.onnx",
        "unet/diffusion_flax_model.msgpack",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "feature_extractor/preprocessor_config.json",
        "tokenizer/README.md",
    ):
        files[name] = b"{}"
    hub.repositories["owner/tiny"] = Repository(files)
    assert downloaded(fetch(address("owner/tiny"))) == wanted


def test_fp16_is_downloaded_in_place_of_full_precision(hub, files):
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = files[UNET]
    files[UNET] = b"not read"
    hub.repositories["owner/tiny"] = Repository(files)
    actual = downloaded(fetch(address("owner/tiny")))
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in actual
    assert UNET not in actual
    assert "vae/diffusion_pytorch_model.safetensors" in actual


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-0000{}-of-00002.safetensors"),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors",
        ),
        (
            "diffusion_pytorch_model.safetensors.fp16.index.json",
            "diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors",
        ),
    ],
)
def test_all_shards_are_downloaded(index, shard, hub, files):
    shards = [shard.format(1), shard.format(2)]
    files[f"unet/{shards[0]}"] = files.pop(UNET)
    files[f"unet/{shards[1]}"] = files["vae/diffusion_pytorch_model.safetensors"]
    files[f"unet/{index}"] = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    hub.repositories["owner/tiny"] = Repository(files)
    actual = downloaded(fetch(address("owner/tiny")))
    assert {f"unet/{index}", *(f"unet/{name}" for name in shards)} <= actual
    opened = open_source("owner/tiny").tensors("unet")
    assert "conv_in.weight" in opened
    assert "decoder.conv_in.weight" in opened


def test_progress_ends_at_the_total_and_never_goes_back(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    seen = []
    fetch(address("owner/tiny"), seen.append)
    weights = {name: len(content) for name, content in files.items() if name.endswith(".safetensors")}
    assert {p.total for p in seen} == {sum(weights.values())}
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == sum(weights.values())
    assert {p.item for p in seen} == set(weights)
    assert len({p.done for p in seen}) > 2 * len(weights)


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_download_goes_on_after_the_connection_is_lost(ending, hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    hub.faults[f"owner/tiny/{UNET}"] = [(20_000, ending), (10_000, ending)]
    folder = fetch(address("owner/tiny"))
    assert (folder / UNET).read_bytes() == files[UNET]
    assert len(hub.got(f"owner/tiny/{UNET}")) == 3
    if ending == "close":  # after a reset, what had arrived may be lost with the connection
        assert [r.headers.get("range") for r in hub.got(f"owner/tiny/{UNET}")] == [None, "bytes=20000-", "bytes=30000-"]


def test_a_download_that_was_stopped_goes_on_in_the_next_run(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)

    seen = []

    def stop(progress):
        seen.append(progress.item)
        if seen.count(UNET) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(address("owner/tiny"), stop)
    begun = len(hub.requests)
    folder = fetch(address("owner/tiny"))
    assert (folder / UNET).read_bytes() == files[UNET]
    again = [r.path for r in hub.requests[begun:]]
    assert "/cdn/owner/tiny/text_encoder/model.safetensors" not in again
    (rest,) = [r for r in hub.requests[begun:] if r.path == f"/cdn/owner/tiny/{UNET}"]
    assert rest.headers["range"] == "bytes=4000-"
    assert not list((folder.parents[1] / "blobs").glob("*.incomplete"))


def test_two_downloads_of_one_repository_share_the_work(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda text: fetch(address(text)), ["owner/tiny", "owner/tiny@main"])
    assert first == second
    assert (first / UNET).read_bytes() == files[UNET]
    assert len(hub.got(f"owner/tiny/{UNET}")) == 1


def test_what_arrived_damaged_is_refused_and_not_kept(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    hub.corrupt = True
    with pytest.raises(CheckpointError, match="arrived damaged"):
        fetch(address("owner/tiny"))
    hub.corrupt = False
    assert (fetch(address("owner/tiny")) / UNET).read_bytes() == files[UNET]


def test_what_is_in_the_cache_is_not_downloaded_again(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    first = fetch(address("owner/tiny"))
    begun = len(hub.requests)
    assert fetch(address("owner/tiny")) == first
    assert [r.path for r in hub.requests[begun:]] == ["/api/models/owner/tiny/revision/main"]


def test_a_new_commit_is_fetched_and_shares_what_did_not_change(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    old = fetch(address("owner/tiny"))
    changed = files | {"scheduler/scheduler_config.json": b'{"prediction_type": "v_prediction"}'}
    hub.repositories["owner/tiny"] = Repository(changed, commit="b" * 40)
    new = fetch(address("owner/tiny"))
    assert (old.name, new.name) == ("a" * 40, "b" * 40)
    assert len(hub.got(f"owner/tiny/{UNET}")) == 1
    assert open_source("owner/tiny").config("scheduler")["prediction_type"] == "v_prediction"


@pytest.mark.parametrize("cause", ["closed", "offline"])
@pytest.mark.parametrize("text", ["owner/tiny", f"owner/tiny@{'a' * 40}", f"owner/tiny/{UNET}"])
def test_without_a_network_the_cache_will_do(text, cause, hub, files, monkeypatch):
    hub.repositories["owner/tiny"] = Repository(files)
    there = fetch(address(text))
    if cause == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    begun = len(hub.requests)
    assert fetch(address(text)) == there
    assert len(hub.requests) == begun


def test_a_repository_that_was_deleted_is_still_read_from_the_cache(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    there = fetch(address("owner/tiny"))
    del hub.repositories["owner/tiny"]
    assert fetch(address("owner/tiny")) == there


def test_without_a_network_a_part_in_the_cache_is_not_taken_for_the_whole(hub, files, monkeypatch):
    hub.repositories["owner/tiny"] = Repository(files)
    there = fetch(address("owner/tiny"))
    (there / UNET).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"does not answer .* has no complete copy of owner/tiny"):
        fetch(address("owner/tiny"))


def test_without_a_network_and_a_cache_it_says_so(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"http://127.0.0.1:9 does not answer"):
        open_source("owner/tiny")


def test_an_unknown_repository_is_named(hub):
    with pytest.raises(CheckpointError, match="no folder owner/nothing here and no repository of that name"):
        open_source("owner/nothing")


def test_an_unknown_revision_is_named(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    with pytest.raises(CheckpointError, match="owner/tiny has no revision 'v9'"):
        open_source("owner/tiny@v9")


def test_a_gated_repository_says_what_to_do_and_opens_with_a_token(hub, files, monkeypatch):
    hub.repositories["owner/tiny"] = Repository(files, gated=True)
    with pytest.raises(CheckpointError, match=r"gated: accept its license at .*/owner/tiny, .* set HF_TOKEN"):
        open_source("owner/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_source("owner/tiny").has("unet")
    (large,) = hub.got(f"owner/tiny/{UNET}")
    assert "authorization" not in large.headers


def test_a_repository_with_pickles_alone_is_refused(hub, files):
    files["unet/diffusion_pytorch_model.bin"] = files.pop(UNET)
    hub.repositories["owner/tiny"] = Repository(files)
    with pytest.raises(CheckpointError, match=r"owner/tiny/unet .* diffusion_pytorch_model.bin: pickle files can run"):
        open_source("owner/tiny")
    hub.repositories["owner/old"] = Repository({"model.ckpt": b"", "README.md": b""})
    with pytest.raises(CheckpointError, match=r"no safetensors, only model.ckpt: pickle files can run"):
        open_source("owner/old")
    assert not [r for r in hub.requests if r.path.startswith("/cdn/")]


def test_another_architecture_is_refused_before_its_weights_are_downloaded(hub, files):
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": INDEX["vae"]}
    hub.repositories["owner/flux"] = Repository(files | {"model_index.json": json.dumps(index).encode()})
    del hub.repositories["owner/flux"].files["unet/config.json"]
    with pytest.raises(CheckpointError, match="owner/flux is a FluxPipeline with text_encoder and vae of the networks"):
        open_source("owner/flux")
    other = INDEX | {"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]}
    hub.repositories["owner/alt"] = Repository(files | {"model_index.json": json.dumps(other).encode()})
    with pytest.raises(CheckpointError, match="RobertaSeriesModelWithTransformation for its text_encoder"):
        open_source("owner/alt")
    assert not [r for r in hub.requests if r.path.startswith("/cdn/")]


def test_a_repository_that_lacks_a_file_is_refused(hub, files):
    del files["scheduler/scheduler_config.json"]
    hub.repositories["owner/tiny"] = Repository(files)
    with pytest.raises(CheckpointError, match=r"owner/tiny lacks scheduler/scheduler_config.json"):
        open_source("owner/tiny")


def test_a_file_of_a_repository_is_a_checkpoint(hub, tmp_path):
    content = write(tmp_path / "m.safetensors", tiny("sd1")[1]).read_bytes()
    hub.repositories["owner/mix"] = Repository(
        {"mix-v2.safetensors": content, "mix-v1.safetensors": b"", "x.ckpt": b""}
    )
    with pytest.raises(CheckpointError, match=r"has mix-v1.safetensors, mix-v2.safetensors; give a file as owner/mix/"):
        open_source("owner/mix")
    source = open_source("owner/mix/mix-v2.safetensors", prediction_type="v_prediction")
    assert (source.name, source.kind, source.has("unet")) == ("owner/mix/mix-v2", "hub", True)
    assert source.config("scheduler")["prediction_type"] == "v_prediction"
    assert not hub.got("owner/mix/mix-v1.safetensors")
    with pytest.raises(CheckpointError, match=r"has no other.safetensors; it has mix-v1"):
        open_source("owner/mix/other.safetensors")
    with pytest.raises(CheckpointError, match="pickle files can run"):
        open_source("owner/mix/x.ckpt")


def test_a_full_disk_is_noticed_before_weights_are_downloaded(hub, files, monkeypatch):
    hub.repositories["owner/tiny"] = Repository(files)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 2**24, 2**24))
    with pytest.raises(SpaceError, match=r"downloading owner/tiny needs 1\d MB .* 16 MB are free"):
        open_source("owner/tiny")
    assert not [r for r in hub.requests if r.path.startswith("/cdn/")]


@pytest.mark.slow
def test_the_environment_s_address_token_and_cache_are_used(hub, files, tmp_path):
    hub.repositories["owner/tiny"] = Repository(files, gated=True)
    code = (
        "from converter.sources.source import open_source; found = open_source('owner/tiny'); print(found.folder); "
        "import sys; assert 'torch' not in sys.modules"
    )
    home = tmp_path / "home"
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(home / "hub" / "models--owner--tiny" / "snapshots" / ("a" * 40))


def test_a_network_alone_is_downloaded_with_one_set_of_its_weights(hub, files, checkpoint):
    alone = {name.removeprefix("vae/"): content for name, content in files.items() if name.startswith("vae/")}
    weights = "diffusion_pytorch_model.fp16.safetensors"
    alone[weights] = alone["diffusion_pytorch_model.safetensors"]
    hub.repositories["owner/other-vae"] = Repository(
        alone | {"diffusion_pytorch_model.bin": b"pickle", "README.md": b"words"}
    )
    seen = []
    actual = Component.open("owner/other-vae", "vae", seen.append)
    assert actual.name == "other-vae"
    assert actual.config == Component.open(checkpoint, "vae").config
    assert downloaded(actual.folder) == {"config.json", weights}
    assert seen[-1].done == seen[-1].total == len(alone[weights])


def test_a_network_of_a_whole_checkpoint_is_downloaded_without_the_others(hub, files, monkeypatch):
    hub.repositories["owner/tiny"] = Repository(files)
    actual = Component.open("owner/tiny", "vae")
    assert downloaded(actual.folder.parent) == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Component.open("owner/tiny", "vae") == actual
    with pytest.raises(CheckpointError, match="has no complete copy of owner/tiny"):
        Component.open("owner/tiny", "unet")


def test_a_repository_without_the_network_is_refused(hub, files):
    hub.repositories["owner/tiny"] = Repository(files)
    with pytest.raises(CheckpointError, match=r"has no network: it has no config\.json or controlnet/config\.json"):
        Component.open("owner/tiny", "controlnet")
