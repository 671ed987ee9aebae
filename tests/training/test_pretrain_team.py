"""Learning without labels by two processes: what one gives, with the same hidden and the same to be told apart."""

import numpy as np
import pytest
import torch

from tests.training.fitting import Recorder
from tests.training.team_program import Dying, Short
from tests.training.test_pretrain import MASKED, hearts
from tests.training.tiny import TinyNet, tiny_settings
from training.engine.crew import Crew
from training.engine.launch import together
from training.engine.pretrain import pretrain
from training.engine.unlabelled.settings import Contrastive

WAYS = {"contrastive": Contrastive(window_s=1.2), "masked": MASKED}


@pytest.fixture(scope="module")
def crew():
    with Crew() as crew:
        yield crew


def learn(count, how, crew, net=None, callbacks=(), folder=None, **settings):
    return together(
        pretrain, count, net or TinyNet(), hearts(41), tiny_settings(**({"epochs": 3} | settings)), fs_hz=100.0,
        how=WAYS[how], held_back=hearts(19, seed=9), callbacks=callbacks, checkpoint_dir=folder, crew=crew,
    )  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_two_processes_give_the_result_of_one(crew, how, tmp_path):
    alone, recorder = learn(1, how, None), Recorder()
    found = learn(2, how, crew, callbacks=[recorder], folder=tmp_path)
    assert (alone.processes, found.processes, recorder.info["processes"]) == (1, 2, 2)
    assert len(recorder.rows) == 3 and recorder.ended == 1 and len(recorder.batches) == 9
    for own, theirs in zip(found.history, alone.history, strict=True):
        for name in theirs.keys() - {"seconds"}:
            assert own[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    for name, tensor in alone.state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-3, atol=2e-4, msg=name)
    again = learn(2, how, crew, folder=tmp_path)
    assert again.resumed_epoch == 3 and again.weights_hash == found.weights_hash


def test_a_stop_reaches_both_and_the_run_goes_on_where_it_was(crew, tmp_path):
    whole = learn(2, "contrastive", crew)
    stop = Recorder(stop_at=4, reason="interrupted")
    stopped = learn(2, "contrastive", crew, callbacks=[stop], folder=tmp_path)
    assert stopped.stopped_reason == "interrupted" and 1 <= len(stopped.history) < 3
    resumed = learn(2, "contrastive", crew, folder=tmp_path)
    assert resumed.resumed_epoch == len(stopped.history) and resumed.weights_hash == whole.weights_hash


def test_a_process_that_is_killed_is_started_again(crew, tmp_path):
    recorder, dying = Recorder(), Dying(tmp_path / "died")
    found = learn(2, "masked", crew, net=dying, callbacks=[recorder], folder=tmp_path / "checkpoint")
    assert dying.file.exists() and (found.stopped_reason, found.resumed_epoch, found.processes) == ("finished", 1, 2)
    assert any("ended (SIGKILL)" in note for note in recorder.notes) and len(recorder.rows) == 3


@pytest.mark.parametrize("how", WAYS)
def test_both_learn_from_smaller_batches_when_the_memory_of_one_runs_out(crew, how):
    found, every = (
        learn(2, how, crew, net=Short(every), epochs=2) for every in (False, True)
    )  # fmt: skip
    assert found.notes == every.notes == ("Memory ran out; the network now learns from batches of 7 records.",)
    # As if both had run out at once: nothing of the attempt that does not count is left.
    assert found.weights_hash == every.weights_hash
    assert np.isfinite(found.history[-1]["train_loss"])
