"""The files and sockets that the process may have open at once."""

from __future__ import annotations

import resource

#: macOS accepts no more than OPEN_MAX from a process whose hard limit is unlimited, and gives 256 unless one asks.
_WANTED = 10_240


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as the system allows, to 10,240 at most; return the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    while soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        except (OSError, ValueError):  # macOS: more than kern.maxfilesperproc
            wanted //= 2
    return _WANTED if soft == resource.RLIM_INFINITY else soft
