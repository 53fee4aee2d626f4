"""docs/runtime.md says which operators there are."""

from __future__ import annotations

import re
from pathlib import Path

from converter.runtime.compressed import decodes
from converter.runtime.ops import OPERATORS
from converter.runtime.state import STATE_OPERATORS

PAGE = (Path(__file__).parents[3] / "docs" / "runtime.md").read_text()


def test_the_documented_operators_are_those_of_the_runtime():
    section = PAGE.partition("## The operators")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z0-9_]+)`", section)
    constants = {name for name in named if name.startswith("constexpr_")}
    assert len(named) == len(set(named))
    assert set(named) - constants == {*OPERATORS, *STATE_OPERATORS}
    assert constants
    assert all(decodes(name) for name in constants)
    assert f"the {len(named)} below" in PAGE
