"""The log files of the supervisor's children: kept small, their errors copied out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

MAX_BYTES = 20_000_000

_ENTRY = re.compile(r"^\[?\d{4}-\d\d-\d\d[ T]|^\d\d:\d\d:\d\d ")
_ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b")


def cap_size(path: Path, *, keep: bool = True, limit: int = MAX_BYTES) -> None:
    """Move what a log holds to ``<name>.1`` when it has grown past the limit.

    With ``keep`` the file itself stays (copied, then emptied), as a process has it open for
    appending; without, it is renamed.
    """
    if not path.is_file() or path.stat().st_size <= limit:
        return
    old = path.with_name(f"{path.name}.1")
    if keep:
        shutil.copyfile(path, old)
        with path.open("r+b") as stream:
            stream.truncate(0)
    else:
        path.replace(old)


class ErrorTail:
    """Follows log files and gives out new entries of level ERROR and above, tracebacks included."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._offsets: dict[str, int] = {}
        self._inside: dict[str, bool] = {}
        self._rest: dict[str, bytes] = {}
        self._paths: dict[str, Path] = {}

    def follow(self, name: str, path: Path) -> None:
        """Follow the file from its present end."""
        if name not in self._paths:
            self._offsets[name] = path.stat().st_size if path.is_file() else 0
        self._paths[name] = path

    def new_errors(self) -> list[str]:
        """Return the new lines that belong to errors, each with the name of its process."""
        found = []
        for name, path in self._paths.items():
            for line in self._new_lines(name, path):
                if _ENTRY.match(line):
                    self._inside[name] = bool(_ERROR.search(line))
                elif line.startswith("Traceback "):
                    self._inside[name] = True
                if self._inside.get(name):
                    found.append(f"{name}: {line}")
        return found

    def _new_lines(self, name: str, path: Path) -> list[str]:
        try:
            size = path.stat().st_size
            if size == self._offsets[name]:
                return []
            if size < self._offsets[name]:
                self._offsets[name] = 0
            with path.open("rb") as stream:
                stream.seek(self._offsets[name])
                # Bounded, so that a flood of messages cannot stop the supervisor.
                data = stream.read(1_000_000)
        except OSError:
            return []
        self._offsets[name] += len(data)
        lines = (self._rest.get(name, b"") + data).split(b"\n")
        self._rest[name] = lines.pop()
        return [line.decode("utf-8", errors="replace") for line in lines]
