"""The rows of a proof: nothing that is not ok looks as if it were."""

import signal
import time

import pytest

from tests.proofs import steps
from tests.proofs.steps import Hopeless, must


def fail(error):
    raise error


def outcomes(rows):
    return {row.name: (row.is_ok, row.note) for row in rows}


def test_a_step_that_fails_says_why_and_the_others_are_done():
    done = {"one": lambda: must(False, "no bird") or "", "two": lambda: fail(KeyError("x")), "three": lambda: "3 birds"}
    rows = steps.run(done, 60)
    assert outcomes(rows) == {"one": (False, "no bird"), "two": (False, "KeyError: 'x'"), "three": (True, "3 birds")}
    assert steps.table(rows).endswith("2 not ok") and "NOT OK" in str(rows[0]) and "NOT OK" not in str(rows[2])


@pytest.mark.parametrize(
    ("step", "note"),
    [
        (lambda: fail(Hopeless("no portal")), "no portal"),
        (lambda: time.sleep(60) or "", "the time is up"),
        (lambda: signal.raise_signal(signal.SIGTERM) or "", "the time is up"),
    ],
)
def test_where_nothing_may_follow_the_others_are_left_out(step, note):
    before = signal.getsignal(signal.SIGTERM)
    rows = steps.run({"one": step, "two": lambda: ""}, 0.2)
    assert outcomes(rows) == {"one": (False, note), "two": (False, "left out")}
    assert signal.getsignal(signal.SIGTERM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0
