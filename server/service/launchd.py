"""A launchd agent: the server runs while its user is logged in (launchd.plist(5), launchctl(1))."""

from __future__ import annotations

import plistlib
from pathlib import Path

from server.service.unit import Unit

LABEL = "anemone.server"
#: Seconds between the request to stop and the end, beyond what the server gives the job it is at.
_EXTRA_SECONDS = 20


def agent(program: tuple[str, ...], home: Path, user: int, stop_seconds: float) -> Unit:
    """The agent of the user with this id that runs ``program``, which takes ``stop_seconds`` to stop."""
    path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = home / "Library" / "Logs" / "Anemone" / "anemone.log"
    described = {
        "Label": LABEL,
        "ProgramArguments": list(program),
        "RunAtLoad": True,
        # It is started again after a crash, and stays down after `launchctl kill` or a setting it refuses.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        # As "Standard", launchd would slow it like a task in the background; somebody waits for its pictures.
        "ProcessType": "Interactive",
        "ExitTimeOut": int(stop_seconds) + _EXTRA_SECONDS,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        # What it writes is its owner's alone: 0o077 as launchd has it, in decimal.
        "Umask": 0o077,
    }
    domain = f"gui/{user}"
    return Unit(
        system="launchd",
        path=path,
        content=plistlib.dumps(described),
        folders=(log.parent,),
        forget=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        load=(("launchctl", "enable", f"{domain}/{LABEL}"), ("launchctl", "bootstrap", domain, str(path))),
        unload=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        status=("launchctl", "print", f"{domain}/{LABEL}"),
        logs=str(log),
        note="It runs while you are logged in; for a Mac nobody logs in to, turn on automatic login.",
    )
