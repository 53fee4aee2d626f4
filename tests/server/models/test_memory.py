from __future__ import annotations

import pytest

from converter.errors import MemoryShortage
from converter.folder import ModelFolder
from converter.runtime import weight_bytes
from server.models.memory import MemoryNeed, memory_budget, memory_need

NEED = MemoryNeed({"text_encoder": 250, "unet": 1700, "vae_decoder": 100})


@pytest.mark.parametrize(("budget", "fit"), [(2050, "together"), (2049, "in_turn"), (1700, "in_turn")])
def test_networks_stay_together_where_there_is_room(budget: int, fit: str) -> None:
    assert NEED.fit(budget) == fit


def test_what_fits_in_no_way_is_refused_by_the_name_of_its_largest_network() -> None:
    with pytest.raises(MemoryShortage, match="unet") as caught:
        NEED.fit(1699)
    assert "memory_budget_gb" in str(caught.value)


def test_packages_of_several_sizes_are_not_counted_several_times(model_folder: ModelFolder) -> None:
    need = memory_need(model_folder)
    assert set(need.networks) == set(model_folder.manifest.networks)
    assert need.networks["unet"] == weight_bytes(model_folder.package("unet", 64, 64))
    assert need.in_turn == max(need.networks.values()) < need.together


def test_a_budget_is_as_given_or_a_share_of_the_machine() -> None:
    assert memory_budget(1.5) == 1_500_000_000
    assert 0 < memory_budget(None) == memory_budget()
