"""An accelerator is one run's at a time; a processor is everyone's."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ecgportal.errors import JobCancelled, TrainingFailed
from tests.training.fitting import Recorder, run
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training import measuring
from training.engine import device as device_module
from training.engine import lr_finder
from training.engine.callbacks import Callbacks
from training.engine.device import held, resolve_device
from training.live import Report
from training.problems.registry import get_problem

ROOT = Path(__file__).resolve().parents[2]
# A device that needs no hardware and is not the processor.
ELSEWHERE = torch.device("meta")


@pytest.fixture
def other_run(tmp_path, monkeypatch):
    """Another process that holds the device until it is killed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(device_module.tempfile, "tempdir", None)
    program = textwrap.dedent("""
        import time, torch
        from training.engine.device import held
        with held(torch.device("meta"), print):
            print("holding", flush=True)
            time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_run_waits_until_the_first_has_ended_even_when_it_was_killed(other_run):
    calls = []

    def waiting(first):
        calls.append(first)
        if len(calls) == 2:
            other_run.kill()
            other_run.wait()

    with held(ELSEWHERE, waiting):
        assert calls[0] is True and calls[1] is False


def test_who_waits_can_be_cancelled_and_is_told_why_it_waits(other_run, monkeypatch):
    monkeypatch.setattr("training.engine.fit.resolve_device", lambda name: ELSEWHERE)
    recorder = Recorder()
    recorder.should_stop = lambda: "cancelled" if recorder.notes else False
    begun = time.monotonic()
    with pytest.raises(JobCancelled, match="waited for the accelerator"):
        run(callbacks=[recorder])
    assert time.monotonic() - begun < 5 and "waits until it has ended" in recorder.notes[0]


def test_a_wait_for_the_accelerator_is_the_progress_of_the_run_and_no_warning_about_it():
    told = []
    context = SimpleNamespace(report=lambda share, message: told.append((share, message)), stop_reason=lambda: None)
    row = SimpleNamespace(pk=None, warnings=[])
    Callbacks([Report(context, row, (0.05, 0.95))]).wait_for_accelerator(True)
    assert [share for share, _ in told] == [0.05] and "waits until it has ended" in told[0][1] and row.warnings == []


def test_measuring_the_machine_waits_for_the_accelerator(other_run, monkeypatch):
    monkeypatch.setattr(device_module, "resolve_device", lambda name: ELSEWHERE)

    def progress(share, message):
        raise JobCancelled(message)

    with pytest.raises(JobCancelled, match="so it waits"):
        measuring.run(SimpleNamespace(progress=progress))


def test_the_rate_finder_asks_for_the_device_of_a_run_and_waits_for_it(other_run, monkeypatch):
    asked = []
    monkeypatch.setattr(lr_finder, "resolve_device", lambda name: asked.append(name) or ELSEWHERE)

    def waiting(first):
        raise JobCancelled("while it waited")

    train, targets, *_ = tiny_parts()
    with pytest.raises(JobCancelled, match="while it waited"):
        lr_finder.find_learning_rate(
            TinyNet(), train, targets, get_problem("multilabel"), tiny_settings(), fs_hz=FS_HZ, waiting=waiting
        )
    assert asked == ["auto"]


def test_processors_are_shared_and_unknown_devices_refused(other_run):
    with held(torch.device("cpu"), lambda first: pytest.fail("a processor is not waited for")):
        assert resolve_device("cpu").type == "cpu"
    with pytest.raises(TrainingFailed, match="not available"):
        resolve_device("cuda:99")
