"""What trainings do on an accelerator. The suite hides accelerators, so that its figures are the processor's; with one:

PORTAL_TEST_ACCELERATOR=1 .venv/bin/pytest tests/training/test_accelerator.py
"""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ecgportal.errors import JobCancelled
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.catalog import built_in
from modelhub.architectures.registry import build
from tests.training.fitting import Recorder
from tests.training.team_program import without_dropout
from tests.training.tiny import FS_HZ, QUIET, TinyNet, tiny_data, tiny_parts, tiny_settings
from training.engine import recorded
from training.engine import run as engine
from training.engine.batches import Stepper
from training.engine.device import held, resolve_device
from training.engine.estimate import estimate
from training.engine.fit import fit
from training.engine.launch import together
from training.engine.lr_finder import find_learning_rate
from training.engine.network import Form
from training.engine.predict import predict
from training.engine.pretrain import pretrain
from training.engine.settings import Augmentation, FitSettings
from training.engine.source import ArraySource, Feed
from training.engine.unlabelled.settings import Contrastive, Masked
from training.problems.registry import get_problem

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an accelerator, and PORTAL_TEST_ACCELERATOR=1"
)
CUDA = torch.device("cuda")
EXACT = {"mixed_precision": False, "augmentation": QUIET}


@pytest.fixture(autouse=True)
def single_precision():
    """Convolutions in full single precision, where the processor's are compared with."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def small_memory():
    """Let this process have only so many bytes more of the accelerator."""

    def allow(n_bytes):
        gc.collect()
        torch.cuda.empty_cache()
        n_bytes += torch.cuda.memory_allocated()
        torch.cuda.set_per_process_memory_fraction(n_bytes / torch.cuda.get_device_properties(0).total_memory)

    yield allow
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture
def recordings(monkeypatch):
    """Count how often a recording is made and played."""
    counts = {"made": 0, "played": 0}
    make, play = recorded._Recording.__init__, recorded._Recording.play

    def counted_make(self, *args):
        make(self, *args)
        counts["made"] += 1

    def counted_play(self, inputs):
        counts["played"] += 1
        return play(self, inputs)

    monkeypatch.setattr(recorded._Recording, "__init__", counted_make)
    monkeypatch.setattr(recorded._Recording, "play", counted_play)
    return counts


class Tiny(EcgNetwork):
    """The tiny network as the portal's own, which can be recorded."""

    has_2d_form = False

    def __init__(self, dropout=0.1, n_classes=2):
        super().__init__(n_leads=3, n_samples=64, n_classes=n_classes)
        self.net = TinyNet(n_classes)
        self.net.trunk[3].p = dropout

    def forward(self, x):
        return self.net(x)

    def head_modules(self):
        return [self.net.head]


class ReadingBack(Tiny):
    def forward(self, x):
        return self.net(x) * (2.0 if float(x.detach().abs().max()) > 1e6 else 1.0)


def trained(net=None, device="cuda", problem="multilabel", parts=None, options=None, **settings):
    train, t, validation, v = parts or tiny_parts()
    return fit(
        Tiny() if net is None else net, train, t, validation, v, get_problem(problem), tiny_settings(**settings), fs_hz=FS_HZ, device=device,
        **(options or {}),
    )  # fmt: skip


def close(a, b, tolerance):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=tolerance)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=tolerance)


def gradients_of(net, x):
    net.zero_grad(set_to_none=True)
    outputs = net(x)
    outputs.float().square().mean().backward()
    return outputs.detach().float().cpu(), [
        p.grad.float().cpu().flatten() for p in net.parameters() if p.grad is not None
    ]


@pytest.mark.parametrize("name", sorted(built_in()))
@pytest.mark.parametrize("fast", [True, False])
def test_every_network_answers_and_learns_as_on_a_processor(name, fast):
    net = without_dropout(build(name, n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=5, seed=0)).train()
    x = torch.from_numpy(np.random.default_rng(0).normal(scale=0.3, size=(8, 12, 1000)).astype(np.float32))
    outputs, gradients = gradients_of(net, x)
    form = Form(net, CUDA, (12, 1000), fast=fast).net.train()
    found, own = gradients_of(form, x.cuda())
    torch.testing.assert_close(found, outputs, rtol=1e-3, atol=1e-3 * float(outputs.abs().max()))
    whole, other = torch.cat(gradients), torch.cat(own)
    assert float((whole - other).norm() / whole.norm()) < 2e-2
    with torch.autocast("cuda", torch.bfloat16):
        found, own = gradients_of(form, x.cuda())
    assert torch.isfinite(found).all()
    assert float(torch.nn.functional.cosine_similarity(whole, torch.cat(own), dim=0)) > 0.8


def test_what_is_trained_there_answers_alike_on_a_processor():
    signals, targets = tiny_data(160)
    parts = ArraySource(signals[:120]), targets[:120], ArraySource(signals[120:]), targets[120:]
    net, told = Tiny(), Recorder()
    result = trained(net, parts=parts, epochs=25, learning_rate=0.02, options={"callbacks": [told]})
    assert told.info["device"] == "cuda" and result.history[result.best_epoch - 1]["auroc_macro"] > 0.95
    net.load_state_dict(result.best_state)
    on_processor = predict(net, parts[2])
    np.testing.assert_allclose(on_processor, predict(net, parts[2], device="cuda"), atol=1e-4)
    np.testing.assert_allclose(on_processor, result.validation_outputs, atol=0.1)


def test_a_recorded_training_is_the_plain_one(monkeypatch, recordings):
    long = {**EXACT, "epochs": 6}
    found = trained(Tiny(dropout=0), **long)
    # Batches of 14 and of 13 records, each met often enough.
    assert recordings["made"] == 2 and recordings["played"] >= 10
    monkeypatch.setattr(recorded, "PLAIN_STEPS", 10**9)
    close(found.history, trained(Tiny(dropout=0), **long).history, 1e-3)
    close(found.history, trained(Tiny(dropout=0), device="cpu", **long).history, 1e-2)
    assert recordings["made"] == 2


def test_the_default_networks_learn_recorded_in_mixed_precision(recordings):
    rng = np.random.default_rng(0)
    targets = (rng.random((160, 2)) < 0.5).astype(np.float32)
    signals = rng.normal(scale=0.1, size=(160, 12, 500)).astype(np.float32)
    signals[:, 0] += targets[:, :1] * np.sin(np.arange(500) * 0.3).astype(np.float32)
    signals[:, 1] += targets[:, 1:] * np.sin(np.arange(500) * 0.8).astype(np.float32)
    parts = ArraySource(signals[:120]), targets[:120], ArraySource(signals[120:]), targets[120:]
    for number, name in enumerate(("inception_time", "xception_time", "xresnet1d18"), start=1):
        net = build(name, n_leads=12, n_samples=500, fs_hz=100.0, n_classes=2, seed=0)
        result = trained(net, parts=parts, epochs=8, batch_size=16, learning_rate=3e-3)
        assert recordings["made"] == number
        assert result.history[-1]["auroc_macro"] > 0.9, (name, result.history[-1])


def test_a_compiled_training_is_the_plain_one(monkeypatch, recordings):
    """The compiler joins operations and sums in another order; a few steps must not part the two."""
    rng = np.random.default_rng(0)
    signals, targets = rng.normal(size=(92, 12, 400)).astype(np.float32), (rng.random((92, 2)) < 0.5).astype(np.float32)
    # Batches of 16 and of 15 records.
    parts = ArraySource(signals[:77]), targets[:77], ArraySource(signals[77:]), targets[77:]
    long = {**EXACT, "epochs": 6, "learning_rate": 1e-3, "ema_decay": 0.0}
    compiled = []
    once = Stepper.compile

    def counted(self, *batches):
        compiled.append((len(batches), once(self, *batches), counters["stats"]["unique_graphs"]))
        return compiled[-1][1]

    monkeypatch.setattr(Stepper, "compile", counted)

    def run():
        net = build("inception_time", n_leads=12, n_samples=400, fs_hz=100.0, n_classes=2, seed=0)
        return trained(net, parts=parts, **long)

    plain = run()
    monkeypatch.setattr(engine, "COMPILED_FROM_S", 0.0)
    found = run()
    # Nothing is compiled later, when no request to stop would be heard.
    assert compiled == [(2, "", counters["stats"]["unique_graphs"])] and recordings["made"] >= 3
    close(found.history, plain.history, 3e-2)
    assert not any("compile" in note for note in found.notes)


def test_a_stop_is_heard_while_the_compiler_works(monkeypatch):
    works, ends = threading.Event(), threading.Event()

    def slow(self, *batches):
        works.set()
        ends.wait(60)
        return ""

    class StopWhile(Recorder):
        def should_stop(self):
            return works.is_set()

    monkeypatch.setattr(engine, "COMPILED_FROM_S", 0.0)
    monkeypatch.setattr(Stepper, "compile", slow)
    net = build("inception_time", n_leads=3, n_samples=64, fs_hz=100.0, n_classes=2, seed=0)
    result = trained(net, epochs=5, options={"callbacks": [StopWhile()]})
    ends.set()
    assert result.stopped_reason == "cancelled" and result.epochs == 2


def test_without_a_compiler_the_training_goes_on_and_says_so(monkeypatch):
    def broken(net):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(engine, "COMPILED_FROM_S", 0.0)
    monkeypatch.setattr(torch, "compile", lambda net, dynamic: broken)
    result = trained(build("inception_time", n_leads=3, n_samples=64, fs_hz=100.0, n_classes=2, seed=0), epochs=5)
    assert result.epochs == 5 and sum("cannot compile" in note for note in result.notes) == 1


def test_chance_is_drawn_anew_in_each_played_step_and_repeats_with_its_seed():
    net = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1)).cuda()
    net.has_fixed_steps = True

    def compute(x):
        for p in net.parameters():
            p.grad = None
        value = net(x).sum()
        value.backward()
        return value.detach()

    recorder, x = recorded.Recorder(net, compute), torch.ones(8, 4, device="cuda")
    values = []
    for seed in (0, 0, 0, 1, 1, 2, 1):
        torch.manual_seed(seed)
        played = recorder.play(x)
        values.append(float(compute(x) if played is None else played))
    assert values[0] == values[1] == values[2], "plain steps"
    assert values[3] == values[4] == values[6] != values[5], "played ones"
    assert float(recorder.play(x)) != float(recorder.play(x))


def test_a_network_that_reads_values_back_is_computed_plainly(recordings):
    net = ReadingBack(dropout=0.5)
    found = trained(net, epochs=6)
    assert recordings["made"] == 0 and found.epochs == 6
    # Random numbers and memory are in order after the attempt.
    assert trained(epochs=6).epochs == 6 and recordings["made"] == 2


@pytest.mark.parametrize("room_mb", [250, 400, 900])
def test_memory_that_runs_out_is_answered_by_smaller_pieces(small_memory, room_mb):
    rng = np.random.default_rng(0)
    signals, targets = (
        rng.normal(size=(256, 12, 1000)).astype(np.float32),
        np.tile(np.eye(2, dtype=np.float32), (128, 1)),
    )
    parts = ArraySource(signals[:192]), targets[:192], ArraySource(signals[192:]), targets[192:]
    net = build("inception_time", n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=2, seed=0)
    small_memory(room_mb * 2**20)
    result = trained(net, parts=parts, epochs=6, batch_size=192)
    assert result.epochs == 6 and any("Memory ran out" in note for note in result.notes)


def test_pretraining_goes_on_in_smaller_pieces(small_memory):
    source = ArraySource(np.random.default_rng(0).normal(size=(192, 12, 1000)).astype(np.float32))
    net = build("inception_time", n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=2, seed=0)
    small_memory(300 * 2**20)
    result = pretrain(net, source, FitSettings(epochs=1, batch_size=192), fs_hz=100.0, how=Masked(), device="cuda")
    assert any("Memory ran out" in note for note in result.notes)


def test_signals_that_do_not_stay_there_come_in_the_same_order():
    train, *_ = tiny_parts()
    orders = [np.array([3, 1, 2]), np.array([0, 39])]
    stays, comes = Feed(train, CUDA), Feed(train, CUDA, resident_share=0.0)
    assert stays._resident is not None and comes._resident is None
    for a, b in zip(stays.batches(orders), comes.batches(orders), strict=True):
        assert a.is_cuda and b.is_cuda and torch.equal(a, b)


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path):
    whole = trained(Tiny(dropout=0), epochs=6, **EXACT)
    told = Recorder(stop_at=8, reason="interrupted")
    stopped = trained(Tiny(dropout=0), epochs=6, options={"checkpoint_dir": tmp_path, "callbacks": [told]}, **EXACT)
    assert stopped.stopped_reason == "interrupted" and stopped.epochs == 2
    found = trained(Tiny(dropout=0), epochs=6, options={"checkpoint_dir": tmp_path}, **EXACT)
    assert found.resumed_epoch == 2 and found.stopped_reason == whole.stopped_reason
    close(found.history, whole.history, 1e-3)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "nadam", "sgd"])
def test_every_optimiser_takes_the_same_steps_as_on_a_processor(optimiser):
    steps = {**EXACT, "optimiser": optimiser, "epochs": 4, "learning_rate": 3e-3}
    close(trained(Tiny(0), **steps).history, trained(Tiny(0), device="cpu", **steps).history, 1e-2)


@pytest.mark.parametrize("problem", ["multilabel", "multiclass", "binary", "regression"])
def test_every_task_with_every_change_of_the_signals(problem):
    signals, targets = tiny_data(64, n_classes=2)
    targets = {
        "multilabel": targets, "multiclass": np.eye(2, dtype=np.float32)[targets[:, 0].astype(int)],
        "binary": targets[:, :1], "regression": targets[:, :1] * 20 + 50,
    }[problem]  # fmt: skip
    targets[5] = np.nan
    parts = ArraySource(signals[:40]), targets[:40], ArraySource(signals[40:]), targets[40:]
    changes = Augmentation(
        noise_mv=0.05, scale=0.1, shift_s=0.2, lead_dropout=0.1, wander_mv=0.2, hum_mv=0.1, mixup=0.4
    )
    net = Tiny(n_classes=targets.shape[1])
    if problem == "regression":
        net.head_modules()[0].bias.data.zero_()
    options = {"augmentation": changes, "focal_gamma": 1.0, "class_weights": "balanced", "label_smoothing": 0.05}
    result = fit(
        net, *parts, get_problem(problem), tiny_settings(epochs=8, **options), fs_hz=500.0, device="cuda"
    )  # fmt: skip
    assert np.isfinite([row["train_loss"] for row in result.history]).all()
    assert all(torch.isfinite(tensor).all() for tensor in result.best_state.values())


def test_training_the_head_leaves_the_trunk_as_it_was(recordings):
    net = Tiny()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = trained(net, mode="head", epochs=6)
    assert recordings["played"] > 0
    for name, tensor in result.best_state.items():
        assert torch.equal(tensor, before[name]) == ("head" not in name), name
    both = trained(Tiny(), mode="head_then_full", epochs=8, head_epochs=4)
    assert [row["stage"] for row in both.history] == ["head"] * 4 + ["full_after_head"] * 4


def test_the_finder_finds_and_leaves_all_as_it_was():
    net = TinyNet()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train, targets, *_ = tiny_parts()
    found = find_learning_rate(
        net, train, targets, get_problem("multilabel"), tiny_settings(), fs_hz=FS_HZ, device="cuda"
    )
    assert len(found.rates) > 20 and 1e-5 < found.suggestion < 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert trained(learning_rate=None, epochs=3).lr_finder is not None


@pytest.mark.parametrize("how", [Contrastive(window_s=0.5), Masked()])
def test_learning_without_labels(how, tmp_path):
    signals, _ = tiny_data(64, samples=200)
    net = (
        Tiny()
        if isinstance(how, Masked)
        else build("xresnet1d18", n_leads=3, n_samples=200, fs_hz=100.0, n_classes=2, seed=0)
    )
    settings = tiny_settings(epochs=3)
    result = pretrain(
        net, ArraySource(signals[:48]), settings, fs_hz=FS_HZ, how=how, held_back=ArraySource(signals[48:]), device="cuda",
        checkpoint_dir=tmp_path,
    )  # fmt: skip
    assert len(result.history) == 3 and np.isfinite([row["val_loss"] for row in result.history]).all()
    again = pretrain(
        net, ArraySource(signals[:48]), replace(settings), fs_hz=FS_HZ, how=how, held_back=ArraySource(signals[48:]), device="cuda",
        checkpoint_dir=tmp_path,
    )  # fmt: skip
    assert again.resumed_epoch == 3


def test_two_processes_share_an_accelerator_and_give_the_result_of_one():
    parts, exact = tiny_parts(), tiny_settings(**EXACT)
    module = without_dropout(TinyNet())
    found = together(fit, 2, module, *parts, get_problem("multilabel"), exact, fs_hz=FS_HZ, device="cuda")
    alone = fit(module, *parts, get_problem("multilabel"), exact, fs_hz=FS_HZ, device="cuda")
    assert found.processes == 2
    close(found.history, alone.history, 1e-2)


def test_a_second_run_waits_until_it_is_told_to_stop():
    asked = []

    def waiting(first):
        asked.append(first)
        raise JobCancelled("It waited.", code="cancelled")

    def second():
        with pytest.raises(JobCancelled), held(CUDA, waiting):
            asked.append("had it")

    with held(resolve_device("auto"), waiting):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert asked == [True]
    with held(CUDA, waiting):
        pass


def test_an_ensemble_is_cross_fitted_there():
    train, t, validation, v = tiny_parts()
    net = build("xresnet1d18", n_leads=3, n_samples=64, fs_hz=100.0, n_classes=2, seed=0, members=3)
    groups = [f"{n}" for n in range(40)], [f"v{n}" for n in range(24)]
    told = Recorder()
    result = trained(net, parts=(train, t, validation, v), epochs=3, options={"groups": groups, "callbacks": [told]})
    assert result.members == 3 and result.cross_fitted and np.isfinite(result.validation_outputs).all()
    assert any(np.isfinite(progress.loss) for progress in told.batches), "a loss is shown while it runs"


def test_a_loss_that_is_no_number_ends_the_run():
    from ecgportal.errors import TrainingFailed

    with pytest.raises(TrainingFailed, match="no longer a finite number"):
        trained(learning_rate=1.0, clip_norm=None, optimiser="sgd", epochs=20, parts=_huge())


def _huge():
    signals, targets = tiny_data(64)
    return ArraySource(signals[:40] * 1e30), targets[:40], ArraySource(signals[40:]), targets[40:]


def test_what_a_run_will_cost_is_measured():
    found = estimate(TinyNet(), tiny_settings(), n_leads=3, n_samples=64, n_train=40, device="cuda")
    assert found.device == "cuda" and found.records_per_s and found.memory_bytes > 0
