"""What a run cannot learn from: refused before the start, left out and said, or a sentence when it shows."""

import numpy as np
import pytest
import torch

from ecgportal.errors import InvalidInput, TrainingFailed
from tests.training.fitting import MULTILABEL, Recorder, run
from tests.training.tiny import FS_HZ, TinyNet, tiny_data, tiny_parts, tiny_settings
from training.engine.fit import fit
from training.engine.source import ArraySource
from training.problems.registry import get_problem


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tmp_path):
    with pytest.raises(TrainingFailed, match="no longer a finite number") as caught:
        run(
            settings=tiny_settings(optimiser="sgd", learning_rate=1.0, clip_norm=None, ema_decay=0, epochs=30),
            net=Exploding(),
        )
    assert caught.value.code == "loss_not_finite"


class Spoilt(TinyNet):
    """Its answers are no numbers from some call of a training step on."""

    after, calls = 5, 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (np.nan if self.calls > self.after else 1.0)


def test_what_was_best_before_the_loss_was_no_number_is_kept():
    """The first epoch of three batches is whole; the third step of the second fails."""
    told = Recorder()
    result = run(net=Spoilt(), callbacks=[told])
    assert (result.stopped_reason, result.epochs, result.best_epoch) == ("loss_not_finite", 1, 1)
    (note,) = [note for note in told.notes if "no longer a finite number (epoch 2, batch 3" in note]
    assert note in result.notes and note.endswith("The model is the best of the epochs before, that of epoch 1.")
    one = run(net=TinyNet(), settings=tiny_settings(epochs=5), callbacks=[Recorder(stop_at=4)])
    assert one.stopped_reason == "cancelled" and one.weights_hash == result.weights_hash


class Exploding(TinyNet):
    def forward(self, x):
        return super().forward(x) * torch.exp(self.head.weight.abs().sum() * 1e3)


def test_missing_samples_are_read_as_zero_and_said():
    signals, targets = tiny_data(64)
    signals[3, 1, 10:20] = np.nan
    signals[5] = np.nan
    parts = ArraySource(signals[:40]), targets[:40], ArraySource(signals[40:]), targets[40:]
    result = run(parts=parts)
    assert "1 training record holds missing samples, which were read as 0 mV." in result.notes
    assert any(note.startswith("1 training record holds no sample at all") for note in result.notes)
    assert all(torch.isfinite(t).all() for t in result.best_state.values())


def test_records_that_are_all_empty_are_no_training_data():
    signals, targets = tiny_data(64)
    signals[:40] = np.nan
    with pytest.raises(TrainingFailed, match="None of the records") as caught:
        run(parts=(ArraySource(signals[:40]), targets[:40], ArraySource(signals[40:]), targets[40:]))
    assert caught.value.code == "signals_empty"


def test_a_class_without_records_is_said_and_the_others_learn():
    train, targets, validation, val_targets = tiny_parts()
    targets, val_targets = targets.copy(), val_targets.copy()
    targets[:, 1] = val_targets[:, 1] = 0
    for weights in ("none", "sqrt", "balanced"):
        result = run(
            settings=tiny_settings(epochs=1, class_weights=weights), parts=(train, targets, validation, val_targets)
        )
        assert any("no record has class '1'" in note for note in result.notes)
        assert all(torch.isfinite(t).all() for t in result.best_state.values())


@pytest.mark.parametrize(
    ("task", "targets", "code"),
    [
        ("multilabel", np.ones((40, 2)), "one_class_only"),
        ("multilabel", np.full((40, 2), np.nan), "labels_unknown"),
        ("binary", np.ones((40, 1)), "one_class_only"),
        ("multiclass", np.tile([1.0, 0.0], (40, 1)), "one_class_only"),
        ("regression", np.full((40, 1), 5.0), "one_value_only"),
        ("multilabel", np.ones((39, 2)), "targets_shape"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused_before_the_start(task, targets, code):
    train, _, validation, _ = tiny_parts()
    with pytest.raises(TrainingFailed) as caught:
        fit(
            TinyNet(targets.shape[1]),
            train,
            targets,
            validation,
            targets[:24],
            get_problem(task),
            tiny_settings(),
            fs_hz=FS_HZ,
        )
    assert caught.value.code == code and caught.value.message.endswith(".")


def test_a_network_for_other_leads_or_classes_is_refused():
    with pytest.raises(TrainingFailed, match="3 leads and 64 samples"):
        run(TinyNet(n_leads=12))
    with pytest.raises(TrainingFailed, match="task needs 2"):
        run(TinyNet(n_classes=5))


def test_a_regression_refuses_a_network_that_bends_its_outputs_before_the_start():
    class Bounded(TinyNet):
        def forward(self, x):
            return torch.tanh(super().forward(x))

    train, _, validation, _ = tiny_parts()
    age = np.linspace(20, 90, 40)
    with pytest.raises(TrainingFailed, match="linear layer"):
        run(Bounded(1), problem=get_problem("regression"), parts=(train, age, validation, age[:24]))


def test_unlabelled_records_are_not_trained_on():
    train, t, validation, v = tiny_parts()
    t = t.copy()
    t[30:] = np.nan
    asked = []

    class Source(ArraySource):
        def read(self, indices):
            asked.extend(int(i) for i in indices)
            return super().read(indices)

    run(parts=(Source(train.signals), t, validation, v), settings=tiny_settings(epochs=2))
    assert max(asked) == 29


def test_signals_that_vanish_are_a_sentence():
    class Gone(ArraySource):
        def read(self, indices):
            if len(indices) > 2:
                raise FileNotFoundError("signals-00000.i16")
            return super().read(indices)

    train, t, validation, v = tiny_parts()
    with pytest.raises(TrainingFailed, match="could not be read") as caught:
        run(parts=(Gone(train.signals), t, validation, v))
    assert caught.value.code == "signals_gone"


def test_an_unknown_device_or_rate_is_refused():
    with pytest.raises(TrainingFailed, match="not available"):
        run(device="cuda:93")
    train, t, validation, v = tiny_parts()
    with pytest.raises(InvalidInput, match="sampling rate"):
        fit(TinyNet(), train, t, validation, v, MULTILABEL, tiny_settings(), fs_hz=float("nan"))
