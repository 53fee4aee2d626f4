"""Installs the double in every Python process that has this folder in PYTHONPATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "MAC_DOUBLE" in os.environ:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from tests.support.mac_double.process import become

    become(os.environ["MAC_DOUBLE"])
