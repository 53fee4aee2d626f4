"""Configurations with anything in place of a value: refused in a sentence, before anything is written."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.planning import make_plan
from converter.errors import AnemoneError, CheckpointError
from converter.networks.safety_checker import safety_checker
from converter.networks.taesd import taesd_decoder
from converter.options import ConvertOptions
from converter.sources.source import open_source
from tests.converter.networks.test_safety_checker import checker
from tests.converter.networks.test_taesd import tiny
from tests.support.checkpoints import write_xl_checkpoint
from tests.support.mil_packages import package_of

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 1000, 10**9, 2**63, 10**100, 0.5, 1e-320, float("inf"), float("nan")),
    *("", "32", "\ud800", [], [[]], [None], ["a"], [1, "a"], [{}], [[1, 2], [3]], [10**30] * 4, [float("nan")]),
    *({}, {"a": 1}, [[[[1]]]], [10**9] * 2, [1000] * 2, "[" * 50),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON value."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a JSON value with ``new`` at a path."""
    if not at:
        return new
    changed = copy.copy(value)
    changed[at[0]] = put(value[at[0]], at[1:], new)
    return changed


def plan(folder: Path) -> None:
    made = make_plan(open_source(folder), ConvertOptions(name="m", verify=False))
    made.left_out()
    made.weight_bytes()
    made.largest_tensor()


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints to spoil, with every file that a conversion reads."""
    root = tmp_path_factory.mktemp("hostile")
    made = [Path(shutil.copytree(checkpoint, root / "sd")), write_xl_checkpoint(root / "xl")]
    for folder in made:
        (folder / "anemone-defaults.json").write_text('{"steps": 4, "guidance_scale": 1.0, "scheduler": "euler"}')
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
        plan(folder)
    return made


@pytest.mark.parametrize(("seed", "tries"), [(1, 40), pytest.param(2, 300, marks=pytest.mark.slow)])
def test_a_hostile_value_is_refused_in_a_sentence_or_means_something(
    folders: list[Path], seed: int, tries: int
) -> None:
    rng = random.Random(seed)
    for _ in range(tries):
        file = rng.choice([f for folder in folders for f in sorted(folder.rglob("*.json")) if f.name != "vocab.json"])
        text = file.read_text()
        whole = json.loads(text)
        at, new = rng.choice(list(places(whole))), rng.choice(VALUES)
        file.write_text(json.dumps(put(whole, at, new)))
        try:
            plan(folders[0] if file.is_relative_to(folders[0]) else folders[1])
        except AnemoneError:
            continue
        except Exception as error:
            pytest.fail(f"{file.name} with {new!r} at {at}: {error!r}")
        finally:
            file.write_text(text)


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("unet/config.json", "time_cond_proj_dim", 10**100, "time_cond_proj_dim = 1000.*; accepted: a whole number"),
        ("unet/config.json", "block_out_channels", [2**63, 2**63], "block_out_channels = .*; accepted: a list of"),
        ("text_encoder/config.json", "max_position_embeddings", 10**100, "max_position_embeddings = .*; accepted: a"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**400, "num_train_timesteps = .*; accepted: a"),
        ("tokenizer/tokenizer_config.json", "pad_token", "\ud800", r"tokenizer_config\.json is not JSON: .*surrogates"),
    ],
)
def test_a_number_or_text_that_nothing_can_hold_is_named(
    folders: list[Path], file: str, key: str, value: object, words: str
) -> None:
    path = folders[0] / file
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {key: value}))
    try:
        with pytest.raises(CheckpointError, match=words):
            plan(folders[0])
    finally:
        path.write_text(text)


def test_networks_beside_a_checkpoint_refuse_hostile_values_too(tmp_path: Path) -> None:
    modules = {"checker": checker(), "tiny": tiny()}
    for name, module in modules.items():
        config = json.loads(json.dumps(module.config if name == "tiny" else module.config.to_dict()))
        kept = {"vision_config": config["vision_config"]} if name == "checker" else config
        for at in [at for at in places(kept) if at]:
            for new in random.Random(3).sample(VALUES, 4):
                spoiled = put(config, at, new)

                def write(layers: Any, name: str = name, spoiled: Any = spoiled) -> None:
                    if name == "tiny":
                        taesd_decoder(layers, spoiled, height=64, width=64)
                    else:
                        safety_checker(layers, spoiled, height=64, width=64)

                shutil.rmtree(tmp_path / "network.mlpackage", ignore_errors=True)
                try:
                    package_of(module, tmp_path, write)
                except AnemoneError:
                    continue
                except Exception as error:
                    pytest.fail(f"{name} with {new!r} at {at}: {error!r}")
