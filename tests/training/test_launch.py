"""Trainings by several processes of one host that a process which does not train starts, watches and tells."""

import numpy as np
import pytest
import torch
import torch.multiprocessing as processes

from ecgportal.errors import JobCancelled, TrainingFailed
from ecgportal.jobs.models import JobState
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.training.fitting import Recorder
from tests.training.team_program import Dying, Stuck, another_network, still_tiny
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine import crew as team_crew
from training.engine.crew import Crew
from training.engine.fit import FitResult, fit
from training.engine.launch import processes_for, together
from training.engine.outcome import load_result, save_result
from training.problems.registry import get_problem

BOUNDS = {"fs_hz": FS_HZ, "names": ("a", "b")}


def asked(**settings):
    module = TinyNet()
    return (module, *tiny_parts(), get_problem("multilabel"), tiny_settings(**({"epochs": 3} | settings)))


def test_two_processes_give_the_result_of_one_and_tell_it_here():
    recorder = Recorder()
    found = together(fit, 2, *asked(), callbacks=[recorder], **BOUNDS)
    alone = fit(*asked(), **BOUNDS)
    assert recorder.info["processes"] == 2 and len(recorder.rows) == 3 and recorder.ended == 1
    assert [row["epoch"] for row in recorder.rows] == [1, 2, 3] and len(recorder.batches) == 9
    assert found.stopped_reason == "finished" and found.monitor == alone.monitor and found.notes == alone.notes
    np.testing.assert_allclose(found.validation_outputs, alone.validation_outputs, atol=1e-3)
    for name, tensor in alone.best_state.items():
        torch.testing.assert_close(found.best_state[name], tensor, rtol=1e-3, atol=1e-4)


def test_processes_are_kept_from_one_training_to_the_next_and_a_reason_to_stop_comes_at_its_epoch(monkeypatch):
    class Pruned(Recorder):
        def should_stop(self):
            return "pruned" if len(self.rows) == 2 else False

    started = []
    start = processes.start_processes
    monkeypatch.setattr(processes, "start_processes", lambda *a, **k: started.append(a) or start(*a, **k))
    with Crew() as crew:
        whole = together(fit, 2, *asked(epochs=2), crew=crew, **BOUNDS)
        again = together(fit, 2, *asked(epochs=2), crew=crew, **BOUNDS)
        assert again.weights_hash == whole.weights_hash
        pruned = together(fit, 2, *asked(epochs=50), callbacks=[Pruned()], crew=crew, **BOUNDS)
        assert (pruned.stopped_reason, pruned.epochs) == ("pruned", 2)
        assert len(started) == 1
        with pytest.raises(TrainingFailed, match="too small for 2 processes"):
            together(fit, 2, *asked(batch_size=2), crew=crew, **BOUNDS)
        assert crew.idle


def test_a_stop_within_a_batch_gives_what_was_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(team_crew, "GRACE_S", 0.2)
    recorder, (_, *rest) = Recorder(stop_at=4), asked()
    found = together(fit, 2, Stuck(), *rest, callbacks=[recorder], checkpoint_dir=tmp_path, **BOUNDS)
    alone = fit(*asked(), **BOUNDS)
    assert (found.stopped_reason, found.epochs, recorder.ended) == ("cancelled", 1, 1)
    assert found.history[0]["train_loss"] == pytest.approx(alone.history[0]["train_loss"], rel=1e-4)


def test_a_network_is_made_again_from_what_makes_it_or_trained_by_one_process_that_says_so():
    class Local(TinyNet):
        """No other process can import this class."""

    sent, recorder = Local(), Recorder()
    found = together(fit, 2, sent, *asked(epochs=1)[1:], make=still_tiny, **BOUNDS)
    alone = fit(*asked(epochs=1), **BOUNDS)
    assert found.processes == 2
    np.testing.assert_allclose(found.validation_outputs, alone.validation_outputs, atol=1e-3)
    found = together(fit, 2, sent, *asked(epochs=1)[1:], make=another_network, callbacks=[recorder], **BOUNDS)
    assert found.processes == 1 and recorder.ended == 1 and len(recorder.rows) == 1
    assert found.notes[-1] == recorder.notes[-1] and "could not go to 2 processes" in found.notes[-1]


def test_a_process_that_is_killed_is_started_again_and_the_run_goes_on(tmp_path):
    recorder, (_, *rest) = Recorder(), asked()
    dying, folder = Dying(tmp_path / "died"), tmp_path / "checkpoint"
    found = together(fit, 2, dying, *rest, callbacks=[recorder], checkpoint_dir=folder, **BOUNDS)
    assert dying.file.exists() and found.stopped_reason == "finished" and found.resumed_epoch == 1
    assert any("ended (SIGKILL)" in note for note in recorder.notes)
    assert [row["epoch"] for row in recorder.rows] == [1, 2, 3] and recorder.ended == 1


@pytest.mark.slow
def test_without_a_checkpoint_a_lost_process_ends_the_run_with_a_sentence(tmp_path):
    _, *rest = asked()
    with pytest.raises(TrainingFailed, match="One of the 2 processes") as caught:
        together(fit, 2, Dying(tmp_path / "died"), *rest, **BOUNDS)
    assert caught.value.code == "process_lost"


@pytest.mark.slow
def test_a_stop_and_an_error_come_back(tmp_path):
    stopped = together(
        fit,
        2,
        *asked(epochs=500),
        callbacks=[Recorder(stop_at=8, reason="interrupted")],
        checkpoint_dir=tmp_path,
        **BOUNDS,
    )
    assert stopped.stopped_reason == "interrupted" and 1 <= stopped.epochs < 500
    with pytest.raises(JobCancelled) as caught:
        together(fit, 2, *asked(), callbacks=[Recorder(stop_at=0)], **BOUNDS)
    assert caught.value.code == "cancelled"
    with pytest.raises(TrainingFailed, match="too small for 2 processes"):
        together(fit, 2, *asked(batch_size=2), **BOUNDS)


@pytest.mark.django_db
def test_a_run_trains_with_the_processes_that_the_portal_is_set_to(ward, settings):
    settings.TRAIN_PROCESSES = 2
    run = ward.train(settings={**FAST, "epochs": 2, "members": 1})
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    assert run.manifest["processes"] == 2 and run.epochs.count() == 2 and run.report.report["n"] > 0


def test_as_many_processes_as_a_batch_can_be_shared_out_to():
    assert processes_for(None, 1000, 32) == max(1, torch.cuda.device_count())
    assert processes_for(4, 1000, 32) == 4 and processes_for(64, 1000, 32) == 15
    assert processes_for(4, 5, 32) == 2 and processes_for(4, 2, 32) == 1 and processes_for(4, 0, 32) == 1
    assert processes_for(2, 1000, 1) == 1


def test_a_result_survives_its_way_through_files(tmp_path):
    result = fit(*asked(epochs=1), **BOUNDS)
    save_result(tmp_path, result)
    again = load_result(tmp_path, FitResult)
    assert set(vars(again)) == set(vars(result)) and again.history == result.history and again.notes == result.notes
    np.testing.assert_array_equal(again.thresholds, result.thresholds)
    assert all(torch.equal(again.best_state[name], tensor) for name, tensor in result.best_state.items())
