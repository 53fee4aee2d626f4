"""A systemd user unit: the server runs with its user's session, or from boot where lingering is on (systemd.service(5))."""

from __future__ import annotations

from pathlib import Path

from server.service.unit import Unit

NAME = "anemone.service"
#: Seconds between the request to stop and the end, beyond what the server gives the job it is at.
_EXTRA_SECONDS = 20
#: What means something else between the quotes of ExecStart=.
_ESCAPED = {'"': '\\"', "\\": "\\\\", "%": "%%", "$": "$$", "\n": "\\n", "\t": "\\t"}


def quoted(argument: str) -> str:
    """An argument as ExecStart= takes it: quotes, escapes, and neither specifiers (%) nor variables ($)."""
    return '"' + "".join(_ESCAPED.get(c, c) for c in argument) + '"'


def user_unit(program: tuple[str, ...], config_home: Path, stop_seconds: float) -> Unit:
    """The unit in ``config_home`` (~/.config) that runs ``program``, which takes ``stop_seconds`` to stop."""
    path = config_home / "systemd" / "user" / NAME
    text = f"""[Unit]
Description=Anemone: pictures from words, on this machine
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=exec
ExecStart={" ".join(quoted(word) for word in program)}
Restart=on-failure
RestartSec=10
TimeoutStopSec={int(stop_seconds) + _EXTRA_SECONDS}
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""
    control = ("systemctl", "--user")
    return Unit(
        system="systemd",
        path=path,
        content=text.encode(),
        folders=(),
        forget=(),
        load=((*control, "daemon-reload"), (*control, "enable", NAME), (*control, "restart", NAME)),
        unload=((*control, "disable", "--now", NAME),),
        status=(*control, "is-active", NAME),
        logs=f"journalctl --user -u {NAME}",
        note="It runs while you are logged in; `loginctl enable-linger` has it run from boot on.",
    )
