"""The training loop: that it learns, is determined by its seed, and does what its settings say."""

import copy

import numpy as np
import pytest
import torch

from modelhub.architectures.registry import build
from tests.training.fitting import MULTILABEL, Recorder, run, without_times
from tests.training.tiny import FS_HZ, QUIET, TinyNet, tiny_data, tiny_parts, tiny_settings
from training.engine.lr_finder import find_learning_rate
from training.engine.network import weights_hash
from training.engine.predict import predict
from training.engine.source import ArraySource
from training.problems.registry import get_problem


def test_a_run_learns_and_gives_back_usable_weights():
    signals, targets = tiny_data(160)
    parts = ArraySource(signals[:120]), targets[:120], ArraySource(signals[120:]), targets[120:]
    net = TinyNet()
    result = run(net, tiny_settings(epochs=25, learning_rate=0.02), parts=parts)
    assert result.stopped_reason in ("finished", "early_stopping")
    assert result.history[result.best_epoch - 1]["auroc_macro"] > 0.95
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert set(result.best_state) == set(net.state_dict())
    assert result.thresholds.shape == (2,) and ((result.thresholds > 0) & (result.thresholds < 1)).all()
    net.load_state_dict(result.best_state)
    np.testing.assert_allclose(predict(net, parts[2]), result.validation_outputs, atol=1e-5)
    assert result.weights_hash == weights_hash(net.state_dict())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again, other = run(), run(), run(settings=tiny_settings(seed=4))
    assert first.weights_hash == again.weights_hash != other.weights_hash
    assert without_times(first.history) == without_times(again.history)


def test_the_module_and_the_random_state_are_left_as_they_were():
    net = TinyNet()
    before = weights_hash(net.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    run(net, tiny_settings(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert weights_hash(net.state_dict()) == before and torch.get_num_threads() == threads


@pytest.mark.parametrize(("records", "batch"), [(41, 40), (33, 32), (17, 16), (17, 2)])
def test_no_batch_holds_a_single_record(records, batch):
    """The network's head normalises pooled features, which have no variance in a batch of one."""
    signals, targets = tiny_data(64)
    net = build("xresnet1d18", n_leads=3, n_samples=64, fs_hz=FS_HZ, n_classes=2, seed=0)
    parts = ArraySource(signals[:records]), targets[:records], ArraySource(signals[records:]), targets[records:]
    settings = tiny_settings(epochs=1, batch_size=batch, learning_rate=None)
    assert run(net, settings, parts=parts).stopped_reason == "finished"


def test_memory_that_runs_out_halves_the_pieces_and_keeps_the_recipe():
    class Small(TinyNet):
        def forward(self, x):
            if self.training and len(x) > 5:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    recorder = Recorder()
    result = run(Small(), callbacks=[recorder])
    assert result.stopped_reason == "finished"
    assert any("pieces of 4 records" in note for note in recorder.notes)
    assert recorder.info["batches"] == 3 == recorder.batches[0].batches


@pytest.mark.parametrize("unknown", [0, 5])
def test_pieces_add_up_to_the_gradient_of_the_batch(unknown):
    from training.engine.batches import Stepper
    from training.problems.base import LossOptions

    signals, targets = tiny_data(16)
    # In the first piece less is known than in the others.
    targets[:unknown] = np.float32([np.nan, 1.0]) if unknown else targets[:unknown]
    net = TinyNet().eval()
    loss = MULTILABEL.loss(targets, LossOptions())
    found = []
    for piece in (16, 4):
        Stepper(net, loss, autocast=False, piece=piece, note=print).gradients(
            torch.from_numpy(signals), torch.from_numpy(targets)
        )
        found.append([p.grad.clone() for p in net.parameters()])
    for whole, summed in zip(*found, strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-4, atol=1e-6)


def test_regression_answers_in_the_unit_of_its_target():
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 90, 120).astype(np.float32)
    signals = rng.normal(scale=0.05, size=(120, 3, 64)).astype(np.float32)
    signals[:, 0] += (age[:, None] / 90) * np.sin(np.arange(64) * 0.4).astype(np.float32)
    parts = ArraySource(signals[:90]), age[:90], ArraySource(signals[90:]), age[90:]
    net = TinyNet(n_classes=1)
    result = run(
        net, tiny_settings(epochs=25, learning_rate=0.02, augmentation=QUIET), get_problem("regression"), parts
    )
    net.load_state_dict(result.best_state)
    answer = predict(net, parts[2])[:, 0]
    np.testing.assert_allclose(answer, result.validation_outputs[:, 0], rtol=1e-3, atol=1e-2)
    assert np.abs(answer - age[90:]).mean() < 12


@pytest.mark.parametrize("ema_decay", [0.0, 0.98])
def test_a_network_that_learned_a_regression_learns_on_from_what_it_answers(ema_decay):
    train, targets, validation, held = tiny_parts()
    parts = train, 50 + 20 * targets[:, 0], validation, 50 + 20 * held[:, 0]
    problem, net = get_problem("regression"), TinyNet(n_classes=1)
    settings = tiny_settings(epochs=12, learning_rate=0.02, augmentation=QUIET)
    net.load_state_dict(run(net, settings, problem, parts).best_state)
    known = predict(net, validation)
    still = tiny_settings(
        epochs=1, mode="head", learning_rate=1e-8, weight_decay=0, ema_decay=ema_decay, augmentation=QUIET
    )
    on = run(net, still, problem, parts, in_units=True)
    np.testing.assert_allclose(on.validation_outputs, known, atol=0.01)
    sought = find_learning_rate(net, train, parts[1], problem, still, fs_hz=FS_HZ, in_units=True, steps=12)
    assert sought.losses[0] < 1


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_the_other_tasks_train(task):
    signals, targets = tiny_data(96, 3)
    problem = get_problem(task)
    labels = [[c for c, on in zip("abc", row, strict=True) if on] for row in targets]
    classes = ("a", "b", "c") if task == "multiclass" else ("a",)
    encoded = problem.encode(labels, classes).values
    parts = ArraySource(signals[:64]), encoded[:64], ArraySource(signals[64:]), encoded[64:]
    result = run(
        TinyNet(len(problem.output_names(classes))), tiny_settings(epochs=20, learning_rate=0.02), problem, parts
    )
    assert result.history[result.best_epoch - 1]["auroc_macro"] > 0.8


def test_early_stopping_waits_for_patience_and_keeps_the_best():
    train, t, validation, v = tiny_parts()
    random = np.random.default_rng(0).permutation(v)
    result = run(
        settings=tiny_settings(epochs=60, patience=3, warmup=0.1, tolerance=0.0), parts=(train, t, validation, random)
    )
    assert result.stopped_reason == "early_stopping" and result.epochs < 60
    assert result.epochs - max(result.best_epoch, 6) == 3
    assert result.history[result.best_epoch - 1]["is_best"]


def test_without_validation_the_last_epoch_is_kept_and_said():
    train, t, _, _ = tiny_parts()
    result = run(parts=(train, t, None, None))
    assert result.best_epoch == result.epochs == 5 and result.thresholds is None
    assert any("no validation part" in note for note in result.notes)


def test_a_validation_part_with_one_class_falls_back_to_the_loss():
    train, t, validation, v = tiny_parts()
    result = run(parts=(train, t, validation, np.zeros_like(v)))
    assert result.monitor == "loss" and any("not defined on this validation part" in n for n in result.notes)


def test_progress_counts_up_and_names_the_time_left():
    recorder = Recorder()
    run(callbacks=[recorder])
    fractions = [p.fraction for p in recorder.batches]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and len(fractions) == 15
    assert recorder.batches[-1].left_s == pytest.approx(0, abs=1e-6) and recorder.batches[5].left_s > 0
    assert recorder.info["epochs"] == 5 and [r["epoch"] for r in recorder.rows] == [1, 2, 3, 4, 5]


def test_the_two_dimensional_form_trains_to_the_same_weights_as_the_given_one():
    net = build("inception_time", n_leads=3, n_samples=64, fs_hz=FS_HZ, n_classes=2, seed=0)
    plain = copy.deepcopy(net)
    plain.has_2d_form = False
    settings = tiny_settings(epochs=1, optimiser="sgd", learning_rate=1e-3, ema_decay=0)
    fast, slow = run(net, settings), run(plain, settings)
    for name, tensor in slow.best_state.items():
        torch.testing.assert_close(fast.best_state[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_mixup_and_every_augmentation_train():
    from training.engine.settings import Augmentation

    everything = Augmentation(
        noise_mv=0.05, scale=0.3, shift_s=0.2, lead_dropout=0.2, wander_mv=0.2, hum_mv=0.05, mixup=0.4
    )
    result = run(
        settings=tiny_settings(augmentation=everything, focal_gamma=2.0, class_weights="sqrt", label_smoothing=0.05)
    )
    assert result.stopped_reason == "finished"
