"""Single files' tensor names as they are published, held to what tests and benchmarks write and what the reader takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.checkpoints import SIZES, file_shapes
from converter.sources.ldm.leftovers import left_out_of_file
from converter.sources.ldm.prediction import MARKS
from converter.sources.single_file import SingleFile
from tests.support.single_files import write_headers

DATA = Path(__file__).parents[3] / "data"
FAMILIES = {"sd1-ldm": ("sd15", "sd1"), "sdxl-sgm": ("sdxl", "sdxl")}
#: Of models that are sampled in another way (CosXL); those files are refused by these names.
OTHERS = ("edm_vpred.",)


def published(name):
    """Tensor name -> shape, and those that many files lack."""
    actual, optional = {}, set()
    for line in (DATA / f"{name}.tsv").read_text().splitlines()[1:]:
        tensor, _, shape, *note = line.split("\t")
        if not tensor.startswith(OTHERS):
            actual[tensor] = tuple(int(n) for n in shape.split("x")) if shape else ()
            optional |= {tensor} if note == ["optional"] else set()
    return actual, optional


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_here_is_named_as_what_is_published(name):
    names, optional = published(name)
    ours = file_shapes(SIZES[FAMILIES[name][0]])
    assert set(names) - optional <= set(ours)
    assert {tensor: ours[tensor] for tensor in names if tensor in ours and tensor != "betas"} == {
        tensor: shape for tensor, shape in names.items() if tensor in ours and tensor != "betas"
    } | {tensor: ours[tensor] for tensor in names if tensor.endswith("logit_scale")}
    assert set(ours) <= set(names)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_published_name_is_taken_by_a_network_or_known(name, tmp_path):
    names, _ = published(name)
    file = write_headers(tmp_path / "m.safetensors", {n: torch.empty(s, device="meta") for n, s in names.items()})
    source = SingleFile.open(file)
    assert source.architecture.family == FAMILIES[name][1]
    taken = {part.source for component in source.components for part in source._parts(component).values()}
    rest = [(tensor, shape) for tensor, shape in names.items() if tensor not in taken and tensor not in MARKS]
    assert all("of no network" not in line for line in left_out_of_file(rest))
