"""A process that reads files for an upload: tasks come in as lines of JSON, answers go out as lines of JSON.

Started by :mod:`datasets.reading_pool`. It ends when its input does, which is also when the process behind it dies.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from datasets.formats.base import ReadOptions
from datasets.identity import Identity
from datasets.reading import FileTask, Spool, Unpacker, read_file


class FolderIndex(Mapping[str, Path]):
    """The files of one folder of an upload by name, loaded from the upload's list when the folder changes."""

    def __init__(self) -> None:
        self._place: list[Any] | None = None
        self._paths: dict[str, str] = {}
        self._base = Path()

    def turn_to(self, place: list[Any]) -> None:
        """Show another folder: ``[list, base, offset, length]`` (:class:`datasets.file_index.FileIndex`)."""
        if place != self._place:
            path, base, offset, length = place
            with Path(path).open("rb") as stream:
                stream.seek(offset)
                self._paths = json.loads(stream.read(length))
            self._place, self._base = place, Path(base)

    def __getitem__(self, name: str) -> Path:
        return self._base / self._paths[name]

    def get(self, name: str, default: Any = None) -> Any:
        path = self._paths.get(name)
        return default if path is None else self._base / path

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def options_of(value: Mapping[str, Any]) -> ReadOptions:
    order = value.get("lead_order")
    return ReadOptions(value.get("fs_hz"), value.get("unit"), tuple(order) if order else None)


def identity_of(value: Mapping[str, Any] | None) -> Identity | None:
    return None if value is None else Identity(bytes.fromhex(value["key"]), value["keeps"])


def _listen(stream: BinaryIO, tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in stream:
        tasks.put(json.loads(line))
    # Nobody waits for the answers any more; a long read need not be finished.
    os._exit(0)


def main() -> None:
    """Answer tasks until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # What a library prints must not get among the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    setup = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = setup["memory_bytes"]
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    options, index, unpacker = options_of(setup["options"]), FolderIndex(), Unpacker()
    identity = identity_of(setup["identity"])
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()

    def say(value: dict[str, Any]) -> None:
        data = memoryview(json.dumps(value).encode() + b"\n")
        while len(data):
            data = data[answers.write(data) :]

    while True:
        task = tasks.get()
        spool = Spool(Path(task["spool"]))
        for entry in task["files"]:
            index.turn_to(entry["place"])
            for answer in read_file(
                FileTask.from_json(entry),
                index,
                options,
                spool,
                lambda name, trace: say({"kind": "trouble", "name": name, "trace": trace}),
                identity,
                unpacker,
            ):
                say(answer)
            say({"kind": "file_end"})
        spool.close()
        say({"kind": "end"})


if __name__ == "__main__":
    main()
