"""A launchd agent: the server runs while its user is logged in (launchd.plist(5), launchctl(1))."""

from __future__ import annotations

import plistlib
from pathlib import Path

from server.service.unit import Unit

LABEL = "anemone.server"
#: Seconds that the server may need to stop, in addition to the running job's time.
_EXTRA_SECONDS = 20


def agent(program: tuple[str, ...], home: Path, user: int, stop_seconds: float) -> Unit:
    """Return the agent of user id ``user`` that runs ``program``, whose jobs get ``stop_seconds`` to finish."""
    path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    log = home / "Library" / "Logs" / "Anemone" / "anemone.log"
    plist = {
        "Label": LABEL,
        "ProgramArguments": list(program),
        "RunAtLoad": True,
        # launchd restarts it after a crash, but not after `launchctl kill` or a wrong setting.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        # With "Standard", launchd would slow it down like a background task, but users wait for images.
        "ProcessType": "Interactive",
        "ExitTimeOut": int(stop_seconds) + _EXTRA_SECONDS,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        # Only the owner can read what the server writes; launchd expects the number in decimal.
        "Umask": 0o077,
    }
    domain = f"gui/{user}"
    return Unit(
        system="launchd",
        path=path,
        content=plistlib.dumps(plist),
        folders=(log.parent,),
        forget=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        load=(("launchctl", "enable", f"{domain}/{LABEL}"), ("launchctl", "bootstrap", domain, str(path))),
        unload=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        status=("launchctl", "print", f"{domain}/{LABEL}"),
        logs=str(log),
        note="It runs while you are logged in; if nobody logs in to this Mac, turn on automatic login.",
    )
