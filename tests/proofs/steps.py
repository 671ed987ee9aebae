"""The steps of a proof, one after the other: what became of each, and how long it took."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Step = Callable[[], str]
"""Returns what it found, in a few words; raises when that is not as it must be."""


class Unmet(RuntimeError):
    """Something is not as it must be; the sentence says what."""


class Hopeless(Unmet):
    """Without what failed the other steps have no sense."""


class TimeIsUp(BaseException):
    """The whole took longer than it may, or was told to end."""


def must(condition: object, sentence: str) -> None:
    if not condition:
        raise Unmet(sentence)


@dataclass(frozen=True)
class Row:
    """What became of a step; note: what it found, or why it is not ok."""

    name: str
    seconds: float
    is_ok: bool
    note: str

    def __str__(self) -> str:
        return f"{self.name:42}{self.seconds:7.1f} s  {'ok' if self.is_ok else 'NOT OK':7} {self.note}"


def run(steps: dict[str, Step], limit_s: float) -> list[Row]:
    """Do the steps, printing each one's row when it has ended; those for which there was no time or sense are rows, too."""
    rows: list[Row] = []
    goes_on = True
    try:
        with _limited(limit_s):
            for name, step in steps.items():
                if goes_on:
                    row, goes_on = _done(name, step)
                    rows.append(row)
                    print(row, flush=True)
    except TimeIsUp:
        print("The time was up between two steps.", flush=True)
    rows += [Row(name, 0.0, False, "left out") for name in list(steps)[len(rows) :]]
    return rows


def table(rows: list[Row]) -> str:
    """Return the rows, the failed ones counted, as plain text."""
    failed = sum(not row.is_ok for row in rows)
    total = (
        f"{len(rows)} steps in {sum(row.seconds for row in rows):.0f} s, {f'{failed} not ok' if failed else 'all ok'}"
    )
    return "\n".join([*map(str, rows), total])


def _done(name: str, step: Step) -> tuple[Row, bool]:
    """Return the row of a step, whatever it raises, and whether others may follow."""
    begun = time.monotonic()
    is_ok, goes_on = False, True
    try:
        note, is_ok = step(), True
    except TimeIsUp:
        note, goes_on = "the time is up", False
    except Unmet as error:
        note, goes_on = str(error), not isinstance(error, Hopeless)
    except Exception as error:
        traceback.print_exc()
        note = f"{type(error).__name__}: {error}"
    return Row(name, time.monotonic() - begun, is_ok, note), goes_on


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in the main thread after so many seconds, or when the process is told to end."""

    def end(*_: object) -> None:
        raise TimeIsUp

    before = {number: signal.signal(number, end) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
