"""A run that was stopped or killed: what is kept, and that going on gives the same weights."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ecgportal.errors import JobCancelled, TrainingFailed
from tests.training.fitting import Recorder, run, without_times
from tests.training.tiny import TinyNet, tiny_settings
from training.engine.callbacks import Callback, StopOnSignal
from training.engine.checkpoint import CheckpointStore, load_best

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("optimiser", ["adamw", "nadam", "sgd"])
def test_resuming_after_a_stop_gives_the_same_weights_bit_for_bit(tmp_path, optimiser):
    settings = tiny_settings(epochs=6, optimiser=optimiser)
    whole = run(settings=settings)
    # 40 records in batches of 16 are 3 batches an epoch: this stops inside epoch 3.
    stopped = run(settings=settings, checkpoint_dir=tmp_path, callbacks=[Recorder(stop_at=7, reason="interrupted")])
    assert (stopped.stopped_reason, stopped.epochs) == ("interrupted", 2)
    recorder = Recorder()
    resumed = run(settings=settings, checkpoint_dir=tmp_path, callbacks=[recorder])
    assert resumed.weights_hash == whole.weights_hash and resumed.resumed_epoch == 2
    assert without_times(resumed.history) == without_times(whole.history)
    assert [row["epoch"] for row in recorder.rows] == [3, 4, 5, 6]
    np.testing.assert_array_equal(resumed.thresholds, whole.thresholds)


def test_a_finished_run_resumes_to_its_own_result(tmp_path):
    first = run(checkpoint_dir=tmp_path)
    again = run(checkpoint_dir=tmp_path)
    assert again.weights_hash == first.weights_hash and again.resumed_epoch == first.epochs


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
        from training.engine.callbacks import Callback
        from training.engine.fit import fit
        from training.problems.registry import get_problem
        class Die(Callback):
            count = 0
            def on_batch(self, progress):
                Die.count += 1
                if Die.count == 8:
                    import os, signal
                    os.kill(os.getpid(), signal.SIGKILL)
        train, t, validation, v = tiny_parts()
        fit(TinyNet(), train, t, validation, v, get_problem("multilabel"), tiny_settings(), fs_hz=FS_HZ,
            checkpoint_dir=Path(sys.argv[1]), callbacks=[Die()])
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    weights, state = load_best(tmp_path)
    assert state["epoch"] == 2 and set(weights) == set(TinyNet().state_dict())
    assert run(checkpoint_dir=tmp_path).weights_hash == run().weights_hash


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(checkpoint_dir=tmp_path)
    with pytest.raises(TrainingFailed, match="other settings") as caught:
        run(settings=tiny_settings(batch_size=8), checkpoint_dir=tmp_path)
    assert caught.value.code == "checkpoint_mismatch"
    assert run(settings=tiny_settings(batch_size=8), checkpoint_dir=tmp_path, resume=False).epochs == 5


def test_a_damaged_checkpoint_is_set_aside(tmp_path):
    whole = run(checkpoint_dir=tmp_path)
    path = next(tmp_path.glob("state-*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = run(checkpoint_dir=tmp_path)
    assert again.weights_hash == whole.weights_hash and again.resumed_epoch == 0
    assert any("damaged" in note for note in again.notes)


def test_a_full_disk_is_a_sentence_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("training.engine.checkpoint.os.replace", replace)
    with pytest.raises(TrainingFailed, match="disk is full"):
        run(checkpoint_dir=tmp_path)
    monkeypatch.undo()
    assert CheckpointStore(tmp_path).load()[0]["epoch"] >= 1
    assert run(checkpoint_dir=tmp_path).weights_hash == run().weights_hash


def test_cancel_keeps_the_best_so_far_and_stops_at_the_next_batch():
    recorder = Recorder(stop_at=8)
    result = run(callbacks=[recorder])
    assert result.stopped_reason == "cancelled" and result.epochs == 2
    assert len(recorder.batches) == 8 and recorder.ended == 1
    assert result.best_epoch in (1, 2) and result.thresholds is not None


def test_cancel_before_the_first_epoch_says_that_there_is_no_model():
    recorder = Recorder(stop_at=1)
    with pytest.raises(JobCancelled, match="no model to keep"):
        run(callbacks=[recorder])
    assert recorder.ended == 1


def test_sigterm_stops_the_run_and_the_handler_is_put_back():
    class Ask(Callback):
        def on_epoch_end(self, row):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result = run(callbacks=[StopOnSignal(), Ask()])
    assert result.stopped_reason == "interrupted" and result.epochs == 1
    assert signal.getsignal(signal.SIGTERM) is before
