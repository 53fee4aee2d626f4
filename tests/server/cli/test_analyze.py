"""``anemone analyze``: its recipes, that they can be used, and that it continues after an interruption."""

from __future__ import annotations

import errno
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.errors import AnemoneError
from converter.options import ConvertOptions
from converter.runtime.compressed import dense
from converter.runtime.program import read_program
from converter.sources.checkpoint import Checkpoint
from converter.verification.sensitivity import Sensitivity
from converter.weights.recipe import Recipe
from server.cli.calibration import calibrate
from server.cli.finished import Finished, parts_beside
from server.cli.main import main
from server.pipeline.stable_diffusion import StableDiffusion
from server.terminal import Bar
from tests.support.checkpoints import tiny_unet, write_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipes(checkpoint, tmp_path_factory):
    """Recipes of the tiny checkpoint; the analysis was interrupted in its third layer, its third input and its third recipe."""
    out = tmp_path_factory.mktemp("analyzed") / "recipes.json"
    words = ["analyze", str(checkpoint), "-o", str(out), "--average", "4.5", "--average", "3", "--prompt", "blue red"]
    measured: list[list[str]] = []

    def counted(method, most):
        measure = getattr(Sensitivity, method)

        def measured_at_most(self, *args, **settings):
            if len(measured[-1]) == most:
                raise KeyboardInterrupt
            measured[-1].append(f"{method} {args[0] if len(args) == 1 else args[2]} {settings}")
            return measure(self, *args, **settings)

        return measured_at_most

    for method, most in (("errors", 2), ("gains", 2), ("nearness", 2), ("nearness", 1000)):
        measured.append([])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sensitivity, method, counted(method, most))
            if most == 2:
                with pytest.raises(KeyboardInterrupt) as interrupted:
                    main(words)
                assert interrupted.value.__notes__ == ["the same command goes on with what is finished"]
                assert not out.exists()
            else:
                assert main(words) == 0
    assert all(measured)
    assert len(set(itertools.chain(*measured))) == sum(map(len, measured))
    return out


def test_recipes_have_apples_form_and_their_quality(recipes):
    content = json.loads(recipes.read_text())
    assert set(content["recipes"]) == {"recipe_4.50_bit_mixedpalette", "recipe_3.00_bit_mixedpalette"}
    baselines = content["baselines"]
    assert baselines["palette_8bit"] > baselines["palette_6bit"] > baselines["palette_4bit"]
    assert baselines["recipe_4.50_bit_mixedpalette"] > max(
        baselines["palette_4bit"], baselines["recipe_3.00_bit_mixedpalette"]
    )
    assert set(content["unguided_baselines"]) == set(baselines)
    assert set(content["single_layer"]["4"]) == set(content["recipes"]["recipe_3.00_bit_mixedpalette"])
    assert 3 not in content["recipes"]["recipe_3.00_bit_mixedpalette"].values(), "needs macOS 15"
    assert not list(recipes.parent.glob(".*"))


def test_a_recipe_is_converted_with_and_verified_by_its_average(checkpoint, recipes, tmp_path):
    chosen, agreed = f"{recipes}#recipe_4.50_bit_mixedpalette", {}
    options = ConvertOptions(recipe=chosen, target="macOS15")
    made = convert(checkpoint, tmp_path / "out", options, verified=agreed.__setitem__)
    assert "mixed palettes" in made.manifest.precision
    assert 15 < agreed["unet"] < 60 < agreed["text_encoder"]
    bits = Recipe.read(chosen).bits
    assert len(set(bits.values())) > 1
    stored = [
        dense(op.constants["weight"][0]).astype(np.float64).reshape(-1)
        for op in read_program(made.package("unet", 64, 64)).operations
        if op.kind == "conv" and "weight" in op.constants
    ]
    tensors = Checkpoint.open(checkpoint).tensors("unet")
    few = [path for path in bits if bits[path] <= 4]
    assert few
    for path in few:
        weight = tensors.array(f"{path}.weight").astype(np.float64).reshape(-1)
        same = [each for each in stored if each.size == weight.size and each @ weight > 0.9 * weight @ weight]
        # What a palette of means stores is less by its squared error.
        assert any(each @ weight == pytest.approx(weight @ weight, rel=1e-3) for each in same), path


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "has several recipes; give one as"),
        (["--quantization", "linear", "--bits", "8"], "a recipe is of palettes, and quantization is linear"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(checkpoint, recipes, tmp_path, capsys, words, why):
    named = str(recipes) if not words else f"{recipes}#recipe_4.50_bit_mixedpalette"
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "out"), "--recipe", named, *words]) == 1
    assert why in capsys.readouterr().err


def test_a_recipe_of_another_model_is_refused(checkpoint, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"recipes": {"a": {"down_blocks.3.resnets.0.conv1": 4}}}))
    with pytest.raises(AnemoneError, match="for another model"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(recipe=str(other)))


def test_inputs_in_8_bits_are_measured_and_used(checkpoint, tmp_path, capsys):
    out = tmp_path / "activations.json"
    assert main(["analyze", str(checkpoint), "-o", str(out), "--activations", "--prompt", "blue"]) == 0
    assert "layers keep 40 dB with inputs of 8 bits" in capsys.readouterr().out
    layers = json.loads(out.read_text())["activations"]
    assert all(each["largest"] > 0 and each["psnr_db"] > 20 for each in layers.values())
    options = ConvertOptions(bits=8, quantization="linear", target="macOS14", activations=str(out))
    assert "8-bit activations" in convert(checkpoint, tmp_path / "out", options).manifest.precision


def test_recipes_and_activations_are_not_asked_for_at_once(checkpoint, tmp_path, capsys):
    assert main(["analyze", str(checkpoint), "-o", str(tmp_path / "x"), "--activations", "--average", "4"]) == 1
    assert "--average is for recipes" in capsys.readouterr().err


@pytest.mark.parametrize("average", ["0.99", "16.01", "nan", "4.501", "4,5"])
def test_averages_that_no_recipe_is_named_by_are_refused(tmp_path, capsys, average):
    with pytest.raises(SystemExit):
        main(["analyze", "nowhere", "-o", str(tmp_path / "x"), "--average", "4.5", "--average", average])
    assert f"{average!r} is not accepted; accepted: 1 to 16 bits, with two decimals" in capsys.readouterr().err


@pytest.fixture
def recommended(tmp_path):
    """A checkpoint whose makers recommend a prompt for it."""
    source = write_checkpoint(tmp_path / "recommended")
    (source / "anemone-defaults.json").write_text(json.dumps({"prompts": ["red"]}))
    return source


@pytest.mark.parametrize(("given", "used"), [([], ["red"]), (["--prompt", "blue", "--prompt", "b"], ["blue", "b"])])
def test_prompts_that_a_checkpoint_has_are_used_unless_others_are_given(
    recommended, tmp_path, monkeypatch, given, used
):
    shown: list[str] = []

    def calibrate(model, prompts, bar):
        shown.extend(prompts.values())
        raise AnemoneError("enough")

    monkeypatch.setattr("server.cli.analyzing.calibrate", calibrate)
    assert main(["analyze", str(recommended), "-o", str(tmp_path / "x"), *given]) == 1
    assert shown == used


def test_prompts_are_checked_before_the_first_image_and_what_is_left_out_of_them_is_told(
    recommended, tmp_path, monkeypatch
):
    model = convert(recommended, tmp_path / "model", ConvertOptions(verify=False))
    assert calibrate(model, {"a": "red", "b": "blue <hypernet:x:1>"}, Bar()).notes == [
        "'blue <hypernet:x:1>': the hypernet 'x' is not known here, and its tag was taken out of the prompt"
    ]
    monkeypatch.setattr(StableDiffusion, "generate", lambda *args: pytest.fail("an image was begun"))
    with pytest.raises(AnemoneError, match=r"^prompt 2 cannot .*: prompt is 'a\\x00b'; accepted: text without control"):
        calibrate(model, {"prompt 1": "red", "prompt 2": "a\0b"}, Bar())


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (["--prompt", "a cat", "--prompt", "a dog <LyCO:film>"], "prompt 2 of --prompt"),
        ([], "prompt 1 of the checkpoint's anemone-defaults.json"),
    ],
)
def test_loras_in_prompts_are_refused_because_the_checkpoint_alone_is_measured(
    recommended, tmp_path, capsys, given, where
):
    (recommended / "anemone-defaults.json").write_text(json.dumps({"prompts": ["a dog <LyCO:film>"]}))
    assert main(["analyze", str(recommended), "-o", str(tmp_path / "x"), *given]) == 1
    assert f"{where} has <LyCO:film>, but the checkpoint alone is measured" in capsys.readouterr().err
    assert not list(tmp_path.glob(".x*"))


def test_more_prompts_than_an_analysis_may_have_are_refused(recommended, tmp_path, capsys):
    many = [word for n in range(65) for word in ("--prompt", f"blue {n}")]
    assert main(["analyze", str(recommended), "-o", str(tmp_path / "x"), *many]) == 1
    assert "65 prompts are given; accepted: up to 64" in capsys.readouterr().err


def test_a_folder_in_place_of_the_file_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert main(["analyze", "nowhere", "-o", str(tmp_path)]) == 1
    assert "is a folder; give the JSON file to write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("/dev/null", "/dev/null is not a file, and would be replaced"),
        ("{0}/file/recipes.json", "file/recipes.json cannot be written: Not a directory"),
        (f"{{0}}/{'x' * 249}.json", "xx.json cannot be written: File name too long"),
    ],
)
def test_a_place_where_no_file_can_be_written_is_refused_by_its_name(tmp_path, capsys, out, why):
    (tmp_path / "file").touch()
    assert main(["analyze", "nowhere", "-o", out.format(tmp_path)]) == 1
    assert why in capsys.readouterr().err


def test_nothing_is_left_of_an_analysis_that_could_not_begin(tmp_path, capsys):
    assert main(["analyze", str(tmp_path / "nowhere"), "-o", str(tmp_path / "recipes.json")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_unet_that_has_nothing_to_compress_is_refused(tmp_path, capsys):
    source = write_checkpoint(tmp_path / "small", unet=tiny_unet(block_out_channels=(4, 8), norm_num_groups=2))
    assert main(["analyze", str(source), "-o", str(tmp_path / "recipes.json")]) == 1
    assert "small's UNet has a weight that is large enough to be compressed" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["small"]


def test_what_does_not_fit_on_the_disk_is_named(tmp_path, monkeypatch):
    def full(*args, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(AnemoneError, match=r"parts\.json cannot be written: No space left on device; the same command"):
        Finished(tmp_path / "parts.json", ["1"], dict[int, float]).measured(
            "layers", ["conv_in"], lambda name: {4: 0.5}, Bar()
        )


def test_two_analyses_do_not_write_one_file(tmp_path):
    out = tmp_path / "recipes.json"
    with (
        parts_beside(out),
        pytest.raises(AnemoneError, match=r"another analysis is writing .*recipes\.json"),
        parts_beside(out),
    ):
        pass
    with parts_beside(out) as parts:
        assert parts.is_dir()


@pytest.mark.parametrize("content", ["", '{"identity": ', "[]", "{}", '{"identity": ["1"], "done": {"conv_in": 3}}'])
def test_what_was_measured_is_measured_again_if_its_file_is_damaged(tmp_path, content):
    file, measured = tmp_path / "errors.json", []

    def measure(name):
        measured.append(name)
        return {4: 0.5}

    def errors():
        return Finished(file, ["1"], dict[int, float]).measured("palettes", ["conv_in"], measure, Bar())

    assert errors() == errors() == {"conv_in": {4: 0.5}}
    assert measured == ["conv_in"]
    file.write_text(content)
    assert errors() == {"conv_in": {4: 0.5}}
    assert measured == ["conv_in", "conv_in"]
