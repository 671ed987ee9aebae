"""Trainings by several processes of one host that a process which does not train starts, watches and tells."""

import numpy as np
import pytest
import torch

from ecgportal.errors import JobCancelled, TrainingFailed
from ecgportal.jobs.models import JobState
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.training.team_program import Dying, without_dropout
from tests.training.test_fit import Recorder
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine.fit import fit
from training.engine.launch import fit_together, load_result, processes_for, save_result
from training.problems.registry import get_problem

BOUNDS = {"fs_hz": FS_HZ, "names": ("a", "b")}


def asked(**settings):
    module = without_dropout(TinyNet())
    return (module, *tiny_parts(), get_problem("multilabel"), tiny_settings(**({"epochs": 3} | settings)))


def test_two_processes_give_the_result_of_one_and_tell_it_here():
    recorder = Recorder()
    found = fit_together(2, *asked(), callbacks=[recorder], **BOUNDS)
    alone = fit(*asked(), **BOUNDS)
    assert recorder.info["processes"] == 2 and len(recorder.rows) == 3 and recorder.ended == 1
    assert [row["epoch"] for row in recorder.rows] == [1, 2, 3] and len(recorder.batches) == 9
    assert found.stopped_reason == "finished" and found.monitor == alone.monitor and found.notes == alone.notes
    np.testing.assert_allclose(found.validation_outputs, alone.validation_outputs, atol=1e-3)
    for name, tensor in alone.best_state.items():
        torch.testing.assert_close(found.best_state[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_process_that_is_killed_is_started_again_and_the_run_goes_on(tmp_path):
    recorder, (_, *rest) = Recorder(), asked()
    dying, folder = without_dropout(Dying(tmp_path / "died")), tmp_path / "checkpoint"
    found = fit_together(2, dying, *rest, callbacks=[recorder], checkpoint_dir=folder, **BOUNDS)
    assert dying.file.exists() and found.stopped_reason == "finished" and found.resumed_epoch == 1
    assert any("ended (SIGKILL)" in note for note in recorder.notes)
    assert [row["epoch"] for row in recorder.rows] == [1, 2, 3] and recorder.ended == 1


@pytest.mark.slow
def test_without_a_checkpoint_a_lost_process_ends_the_run_with_a_sentence(tmp_path):
    _, *rest = asked()
    with pytest.raises(TrainingFailed, match="One of the 2 processes") as caught:
        fit_together(2, Dying(tmp_path / "died"), *rest, **BOUNDS)
    assert caught.value.code == "process_lost"


@pytest.mark.slow
def test_a_stop_and_an_error_come_back(tmp_path):
    stopped = fit_together(
        2, *asked(epochs=500), callbacks=[Recorder(stop_at=8, reason="interrupted")], checkpoint_dir=tmp_path, **BOUNDS
    )
    assert stopped.stopped_reason == "interrupted" and 1 <= stopped.epochs < 500
    with pytest.raises(JobCancelled) as caught:
        fit_together(2, *asked(), callbacks=[Recorder(stop_at=0)], **BOUNDS)
    assert caught.value.code == "cancelled"
    with pytest.raises(TrainingFailed, match="too small for 2 processes"):
        fit_together(2, *asked(batch_size=2), **BOUNDS)


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
    again = load_result(tmp_path)
    assert set(vars(again)) == set(vars(result)) and again.history == result.history and again.notes == result.notes
    np.testing.assert_array_equal(again.thresholds, result.thresholds)
    assert all(torch.equal(again.best_state[name], tensor) for name, tensor in result.best_state.items())
