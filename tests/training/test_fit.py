"""The training loop: determinism, resuming, stopping, freezing, and what it refuses."""

import copy
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgportal.errors import InvalidInput, JobCancelled, TrainingFailed
from modelhub.architectures.registry import build
from tests.training.tiny import FS_HZ, QUIET, TinyNet, tiny_data, tiny_parts, tiny_settings
from training.engine.callbacks import Callback, StopOnSignal
from training.engine.checkpoint import CheckpointStore, load_best
from training.engine.fit import fit
from training.engine.lr_finder import find_learning_rate
from training.engine.network import weights_hash
from training.engine.predict import predict
from training.engine.source import ArraySource
from training.problems.registry import get_problem

ROOT = Path(__file__).resolve().parents[2]
MULTILABEL = get_problem("multilabel")


def run(net=None, settings=None, problem=MULTILABEL, parts=None, **options):
    train, t, validation, v = parts or tiny_parts()
    return fit(net or TinyNet(), train, t, validation, v, problem, settings or tiny_settings(), fs_hz=FS_HZ, **options)


def without_times(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "records_per_s")} for row in history]


class Recorder(Callback):
    def __init__(self, stop_at=None, reason="cancelled"):
        self.info, self.batches, self.rows, self.notes, self.ended = None, [], [], [], 0
        self.stop_at, self.reason = stop_at, reason

    def on_start(self, info):
        self.info = info

    def on_batch(self, progress):
        self.batches.append(progress)

    def on_epoch_end(self, row):
        self.rows.append(row)

    def on_note(self, sentence):
        self.notes.append(sentence)

    def on_end(self):
        self.ended += 1

    def should_stop(self):
        return self.reason if self.stop_at is not None and len(self.batches) >= self.stop_at else False


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


@pytest.mark.parametrize("form", ["tiny", "inception_time"])
def test_a_frozen_trunk_is_unchanged_bit_for_bit(form):
    if form == "tiny":
        net, parts, head = TinyNet(), tiny_parts(), "head."
    else:
        from modelhub.architectures.registry import build

        net = build("inception_time", n_leads=3, n_samples=64, fs_hz=FS_HZ, n_classes=2, seed=0)
        parts, head = tiny_parts(), "head."
    before = copy.deepcopy(net.state_dict())
    result = run(net, tiny_settings(mode="head", epochs=2), parts=parts)
    for name, tensor in result.best_state.items():
        same = torch.equal(tensor, before[name])
        assert same != name.startswith(head), name


def test_head_then_full_moves_the_trunk_only_in_the_second_stage(tmp_path):
    net = TinyNet()
    before = copy.deepcopy(net.state_dict())
    settings = tiny_settings(mode="head_then_full", epochs=4, head_epochs=2, ema_decay=0)
    trunks = []

    class Look(Callback):
        def on_epoch_end(self, row):
            state = CheckpointStore(tmp_path).load()[1]
            trunks.append(all(torch.equal(state[f"0/net/{k}"], before[k]) for k in before if k.startswith("trunk")))

    result = run(net, settings, checkpoint_dir=tmp_path, callbacks=[Look()])
    assert trunks == [True, True, False, False]
    assert [row["stage"] for row in result.history] == ["head", "head", "full_after_head", "full_after_head"]
    stopped = run(net, settings, checkpoint_dir=tmp_path, resume=False, callbacks=[Recorder(stop_at=7)])
    assert stopped.epochs == 2
    assert run(net, settings, checkpoint_dir=tmp_path).weights_hash == result.weights_hash


def test_batch_norm_of_a_frozen_trunk_stays_in_eval_mode():
    seen = []

    class Watch(TinyNet):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append((self.trunk[1].training, self.trunk[3].training, self.head.training))
            return super().forward(x)

    run(Watch(), tiny_settings(mode="head", epochs=1))
    assert set(seen) == {(False, False, True)}


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tmp_path):
    with pytest.raises(TrainingFailed, match="no longer a finite number") as caught:
        run(
            settings=tiny_settings(optimiser="sgd", learning_rate=1.0, clip_norm=None, ema_decay=0, epochs=30),
            net=Exploding(),
        )
    assert caught.value.code == "loss_not_finite"


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


@pytest.mark.parametrize(("records", "batch"), [(41, 40), (33, 32), (17, 16), (17, 2)])
def test_no_batch_holds_a_single_record(records, batch):
    """The network's head normalises pooled features, which have no variance in a batch of one."""
    signals, targets = tiny_data(64)
    net = build("xresnet1d18", n_leads=3, n_samples=64, fs_hz=FS_HZ, n_classes=2, seed=0)
    parts = ArraySource(signals[:records]), targets[:records], ArraySource(signals[records:]), targets[records:]
    settings = tiny_settings(epochs=1, batch_size=batch, learning_rate=None)
    assert run(net, settings, parts=parts).stopped_reason == "finished"


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


def test_a_regression_refuses_a_network_that_bends_its_outputs_before_the_start():
    class Bounded(TinyNet):
        def forward(self, x):
            return torch.tanh(super().forward(x))

    train, _, validation, _ = tiny_parts()
    age = np.linspace(20, 90, 40)
    with pytest.raises(TrainingFailed, match="linear layer"):
        run(Bounded(1), problem=get_problem("regression"), parts=(train, age, validation, age[:24]))


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


def test_the_two_dimensional_form_trains_to_the_same_weights_as_the_given_one():
    from modelhub.architectures.registry import build

    net = build("inception_time", n_leads=3, n_samples=64, fs_hz=FS_HZ, n_classes=2, seed=0)
    plain = copy.deepcopy(net)
    plain.has_2d_form = False
    settings = tiny_settings(epochs=1, optimiser="sgd", learning_rate=1e-3, ema_decay=0)
    fast, slow = run(net, settings), run(plain, settings)
    for name, tensor in slow.best_state.items():
        torch.testing.assert_close(fast.best_state[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["resnet1d_wang", "xception_time", "s4d_128"])
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_registered_networks_train_and_their_heads_alone_too(name, task):
    from modelhub.architectures.registry import build

    signals, targets = (
        np.random.default_rng(0).normal(size=(10, 12, 200)).astype(np.float32),
        np.eye(2, dtype=np.float32)[[0, 1] * 5],
    )
    net = build(name, n_leads=12, n_samples=200, fs_hz=FS_HZ, n_classes=2, seed=0)
    before = copy.deepcopy(net.state_dict())
    parts = ArraySource(signals[:6]), targets[:6], ArraySource(signals[6:]), targets[6:]
    result = run(net, tiny_settings(mode="head", epochs=1, batch_size=3), get_problem(task), parts)
    changed = {k for k, tensor in result.best_state.items() if not torch.equal(tensor, before[k])}
    assert changed and all(k.startswith("head.") for k in changed)
    net.load_state_dict(result.best_state)
    np.testing.assert_allclose(predict(net, parts[2]), result.validation_outputs, rtol=1e-3, atol=1e-3)


def test_an_unknown_device_or_rate_is_refused():
    with pytest.raises(TrainingFailed, match="not available"):
        run(device="cuda:93")
    train, t, validation, v = tiny_parts()
    with pytest.raises(InvalidInput, match="sampling rate"):
        fit(TinyNet(), train, t, validation, v, MULTILABEL, tiny_settings(), fs_hz=float("nan"))


def test_mixup_and_every_augmentation_train():
    from training.engine.settings import Augmentation

    everything = Augmentation(
        noise_mv=0.05, scale=0.3, shift_s=0.2, lead_dropout=0.2, wander_mv=0.2, hum_mv=0.05, mixup=0.4
    )
    result = run(
        settings=tiny_settings(augmentation=everything, focal_gamma=2.0, class_weights="sqrt", label_smoothing=0.05)
    )
    assert result.stopped_reason == "finished"
