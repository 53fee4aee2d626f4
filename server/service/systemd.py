"""A systemd user unit: the server runs with its user's session, or from boot if lingering is on (systemd.service(5))."""

from __future__ import annotations

from pathlib import Path

from server.service.unit import Unit

NAME = "anemone.service"
#: Seconds that the server may need to stop, in addition to the running job's time.
_EXTRA_SECONDS = 20
#: Characters with a special meaning inside the quotes of ExecStart=.
_ESCAPED = {'"': '\\"', "\\": "\\\\", "%": "%%", "$": "$$", "\n": "\\n", "\t": "\\t"}


def quoted(argument: str) -> str:
    """Quote and escape an argument for ExecStart=, without specifiers (%) or variables ($)."""
    return '"' + "".join(_ESCAPED.get(c, c) for c in argument) + '"'


def user_unit(program: tuple[str, ...], config_home: Path, stop_seconds: float) -> Unit:
    """Return the unit in ``config_home`` (~/.config) that runs ``program``, whose jobs get ``stop_seconds`` to finish."""
    path = config_home / "systemd" / "user" / NAME
    # KillMode: SIGTERM goes to the server alone; its worker would end at once, and the running job with it.
    text = f"""[Unit]
Description=Anemone: images from text, on this machine
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=exec
ExecStart={" ".join(quoted(word) for word in program)}
Restart=on-failure
RestartSec=10
KillMode=mixed
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
        note="It runs while you are logged in; `loginctl enable-linger` lets it run from boot on.",
    )
