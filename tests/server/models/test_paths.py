from __future__ import annotations

import logging
from pathlib import Path

import pytest

from server.models.paths import told, without_paths

DATA = Path("/Users/somebody/Library/Application Support/Anemone")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (f"{DATA}/models/sd15 is damaged", "sd15 is damaged"),
        (f"{DATA}/models/sd15/unet.mlpackage: no", "sd15/unet.mlpackage: no"),
        (f"No space left on device: {DATA}", "No space left on device: Anemone"),
        ("[Errno 2] No such file: '/srv/a b/x.bin' in /opt/models/y", "[Errno 2] No such file: 'x.bin' in y"),
        ("give /etc/passwd, or owner/name", "give passwd, or owner/name"),
        ("https://huggingface.co/owner/name/raw is not there", "https://huggingface.co/owner/name/raw is not there"),
        ("size 512x768 and/or n/a", "size 512x768 and/or n/a"),
    ],
)
def test_a_message_names_files_without_the_folders_above_them(text: str, short: str) -> None:
    assert without_paths(text, (DATA.parent, DATA / "models")) == short


def test_what_is_taken_out_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("anemone.test")
    assert told("/a/b/c is gone", (), log) == "c is gone"
    assert told("its unet is too large", (), log) == "its unet is too large"
    assert caplog.messages == ["/a/b/c is gone"]
