"""Memory that runs out in each part of a run is answered by smaller pieces and a sentence, and changes no figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ecgportal.errors import PortalError, TrainingFailed
from modelhub.runtime import predictor
from modelhub.runtime.pieces import Pieces, is_out_of_memory
from modelhub.services_predictions import prediction_start
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.training.fitting import Recorder
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.training.tiny import FS_HZ, QUIET, TinyNet, tiny_data, tiny_parts, tiny_settings
from tests.working import work_off
from training.engine import lr_finder, member
from training.engine.fit import fit
from training.engine.optim import OPTIMISERS
from training.engine.predict import predict
from training.engine.pretrain import pretrain
from training.engine.source import ArraySource
from training.engine.unlabelled.settings import Masked
from training.problems.registry import get_problem
from training.services import evaluation_start

SAID = "Memory ran out"


class Seen(list[int]):
    """A list that a network shares with its copies."""

    def __deepcopy__(self, memo: object) -> Seen:
        return self


class Short(TinyNet):
    """Its memory holds ``most`` records at a time, in ``mode`` (training or not) and ``place``; ``times``: how often it runs
    out, afterwards there is enough."""

    def __init__(self, most: int, *, training: bool, place: str = "first", times: int = 10**6, norms: bool = True):
        super().__init__()
        self.most, self.wanted, self.left = most, training, times
        if not norms:
            self.trunk[1], self.trunk[3], self.trunk[5] = nn.Identity(), nn.Identity(), nn.Identity()
        layer = self.trunk[6] if place == "last" else self.trunk[0]
        layer.register_forward_pre_hook(self._look)
        self.tried = Seen()

    def _look(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if layer.training != self.wanted:
            return
        self.tried.append(len(inputs[0]))
        if self.left and len(inputs[0]) > self.most:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")


def trained(net: nn.Module, **changes):
    train, targets, validation, truth = tiny_parts()
    recorder = Recorder()
    result = fit(
        net, train, targets, validation, truth, get_problem("multilabel"), tiny_settings(epochs=2, **changes), fs_hz=FS_HZ,
        callbacks=[recorder],
    )  # fmt: skip
    return result, [note for note in result.notes if SAID in note], recorder


def test_an_attempt_that_does_not_count_leaves_nothing_behind():
    # In the first the batch fails before any layer, each time; in the second once, with statistics and dropout moved.
    early, notes, _ = trained(Short(8, training=True))
    late, same, _ = trained(Short(8, training=True, place="last", times=1))
    assert notes == same and len(notes) == 1
    assert early.weights_hash == late.weights_hash


def test_smaller_pieces_give_the_training_of_the_whole_batch():
    whole, none, _ = trained(Short(99, training=True, norms=False), augmentation=QUIET)
    pieces, notes, _ = trained(Short(3, training=True, norms=False), augmentation=QUIET)
    assert not none and notes
    for name, tensor in whole.best_state.items():
        torch.testing.assert_close(pieces.best_state[name], tensor, rtol=1e-3, atol=1e-5)


def test_validation_goes_on_in_smaller_pieces_with_the_same_figures():
    plain, none, _ = trained(TinyNet())
    net = Short(3, training=False)
    result, notes, recorder = trained(net)
    assert not none and notes == recorder.notes == [f"Memory ran out; the network now answers {n} records at a time. The answers are the same." for n in (12, 6, 3)]  # fmt: skip
    np.testing.assert_allclose(result.validation_outputs, plain.validation_outputs, rtol=1e-5, atol=1e-6)
    assert (
        result.weights_hash == plain.weights_hash
        and result.history[-1]["auroc_macro"] == plain.history[-1]["auroc_macro"]
    )
    # The second epoch does not try again what did not fit in the first.
    assert max(net.tried[-8:]) <= 3


def test_where_one_record_does_not_fit_it_is_said_what_to_do():
    for training in (True, False):
        with pytest.raises(PortalError, match=r"smaller network") as error:
            trained(Short(0, training=training))
        assert error.value.code == "out_of_memory"


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
@pytest.mark.parametrize("done", [True, False])
def test_the_optimisers_first_step_is_done_again_with_the_same_result(monkeypatch, name, done):
    """done: whether everything had changed already when memory ran out."""
    plain, none, _ = trained(TinyNet(), optimiser=name)
    failures = short_optimiser(monkeypatch, member, done)
    result, notes, _ = trained(TinyNet(), optimiser=name)
    assert failures == [1] and not none
    assert notes == [
        "Memory ran out in the optimiser's first step; it was done one tensor after the other, with the same result."
    ]
    assert result.weights_hash == plain.weights_hash


def short_optimiser(monkeypatch, place, done: bool, times: int = 1) -> list[int]:
    """Let the optimisers that ``place`` builds run out of memory so often; returns what is filled when they do."""
    real, failures = place.build_optimiser, []

    def build(*args):
        optimiser = real(*args)
        step = optimiser.step

        def short():
            if len(failures) >= times:
                return step()
            failures.append(1)
            if done:
                step()
            else:
                optimiser.state[optimiser.param_groups[0]["params"][0]]["step"] = torch.tensor(0.0)
            raise torch.OutOfMemoryError("CUDA out of memory.")

        optimiser.step = short
        return optimiser

    monkeypatch.setattr(place, "build_optimiser", build)
    return failures


def test_an_optimiser_that_never_fits_is_named(monkeypatch):
    short_optimiser(monkeypatch, member, done=False, times=10**6)
    with pytest.raises(TrainingFailed, match="Choose a smaller network") as error:
        trained(TinyNet())
    assert error.value.code == "out_of_memory"


def test_the_finder_takes_smaller_pieces_finds_the_same_rate_and_the_run_knows_them(monkeypatch):
    asked = {"learning_rate": None, "augmentation": QUIET}
    plain, none, _ = trained(Short(99, training=True, norms=False), **asked)
    failures = short_optimiser(monkeypatch, lr_finder, done=True)
    net = Short(7, training=True, norms=False)
    found, notes, recorder = trained(net, **asked)
    assert not none and failures == [1] and set(notes) <= set(recorder.notes) | set(found.notes)
    assert [note.split(";")[0] for note in notes] == ["Memory ran out", "Memory ran out in the optimiser's first step"]
    np.testing.assert_allclose(found.lr_finder["losses"][:20], plain.lr_finder["losses"][:20], rtol=1e-4)
    assert found.learning_rate == pytest.approx(plain.learning_rate, rel=0.2)
    assert len(notes) == 2 and found.lr_finder["notes"] == notes


def test_learning_without_labels_takes_back_the_attempt_that_did_not_count():
    signals, _ = tiny_data(16, samples=400)

    def learned(net):
        return pretrain(net, ArraySource(signals), tiny_settings(epochs=2), fs_hz=FS_HZ, how=Masked(span_s=0.2))

    always, once = learned(Short(8, training=True)), learned(Short(8, training=True, times=1, place="last"))
    assert always.notes == once.notes == ("Memory ran out; the network now learns from batches of 8 records.",)
    assert always.weights_hash == once.weights_hash


def test_the_loss_on_records_held_back_is_told_from_smaller_batches():
    signals, _ = tiny_data(32, samples=400)
    result = pretrain(
        Short(4, training=False), ArraySource(signals[:16]), tiny_settings(epochs=2), fs_hz=FS_HZ, how=Masked(span_s=0.2),
        held_back=ArraySource(signals[16:]),
    )  # fmt: skip
    assert SAID in result.notes[0] and all(np.isfinite(row["val_loss"]) for row in result.history)


def test_what_smaller_pieces_cannot_help_is_said(monkeypatch):
    def run_out(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(member, "augment", run_out)
    with pytest.raises(TrainingFailed, match="smaller pieces do not help"):
        trained(TinyNet())


def test_answers_in_smaller_pieces_are_the_same_and_other_errors_pass():
    signals, _ = tiny_data(20)
    plain = predict(TinyNet().eval(), ArraySource(signals))
    pieces = Pieces(64)
    found = predict(Short(5, training=False).eval(), ArraySource(signals), pieces=pieces)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert pieces.size == 5 and len(pieces.notes) == 2
    with pytest.raises(ZeroDivisionError):
        pieces.of(lambda part: 1 / 0, signals)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("sizes do not match"))


def test_predictions_and_evaluations_go_on_in_smaller_pieces_and_say_so(ward, monkeypatch):
    version = ward.train(settings={**FAST, "members": 1}).produced_version
    other = factories.make_dataset(ward.project)
    signal = np.tile(factories.ecg_signal(seed=5), 10)[:, :1000]
    for number in range(12):
        factories.make_record(
            other, subject=f"o{number}", labels=("NORM",) if number % 2 else ("IMI",), signal=signal + number / 100
        )

    def both():
        run = prediction_start(actor=ward.user, project=ward.project, version=version, dataset=other)
        row = evaluation_start(actor=ward.user, version=version, dataset=other, label_map=ward.label_map)
        ended = work_off()
        assert {job.state for job in ended} == {"succeeded"}, [job.error_message for job in ended]
        row.refresh_from_db()
        values = [one.values for one in run.predictions.order_by("record__key")]
        return (
            values,
            ended[0].result.get("notes", []),
            row.report["auroc_macro"],
            [n for n in row.report.get("notes", []) if SAID in n],
        )

    plain = both()
    real = predictor.OnnxPredictor._run

    def short(self, session, start, signals, persons=None):
        if len(signals) > 1:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1048576")
        return real(self, session, start, signals, persons)

    monkeypatch.setattr(predictor.OnnxPredictor, "_run", short)
    found = both()
    assert not plain[1] and not plain[3]
    assert "1 record at a time" in found[1][-1] and "1 record at a time" in found[3][-1]
    np.testing.assert_allclose(found[0], plain[0], atol=1e-6)
    assert found[2] == plain[2]
