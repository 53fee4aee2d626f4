"""Models on disk: which of them serve for a checkpoint, and which are converted again."""

from __future__ import annotations

from pathlib import Path

from converter.options import ConvertOptions
from converter.progress import Progress
from converter.sources.source import open_source
from server.models.library import installed_from


def test_a_model_of_more_sizes_serves_where_its_prediction_type_alone_is_asked_for(
    checkpoint: Path, tmp_path: Path
) -> None:
    source, out, progress = open_source(checkpoint, prediction_type="v_prediction"), tmp_path / "m", list[Progress]()
    more = ConvertOptions(sizes=((64, 64), (96, 64)), prediction_type="v_prediction", verify=False)
    model = installed_from(source, out, more, progress.append)
    assert progress
    progress.clear()
    assert installed_from(source, out, ConvertOptions(prediction_type="v_prediction"), progress.append) == model
    assert not progress
    installed_from(open_source(checkpoint), out, ConvertOptions(verify=False), progress.append)
    assert progress
