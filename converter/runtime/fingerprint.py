"""What tells one package from another that took its place."""

from __future__ import annotations

import hashlib
from pathlib import Path

#: A package's program, small enough to be read; a weights file, gigabytes, is told by its size and time.
_PROGRAMS = ("model.mlmodel", "model.mil")


def fingerprint(*packages: Path) -> str:
    """A digest that changes whenever the program or the weights of one of the packages or compiled models are replaced."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(p for p in package.rglob("*") if p.is_file()):
            digest.update(f"{package.name}/{file.relative_to(package).as_posix()}\n".encode())
            if file.name in _PROGRAMS:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
            else:
                about = file.stat()
                digest.update(f"{about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()
