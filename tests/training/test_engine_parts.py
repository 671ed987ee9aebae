"""The engine's parts: rate finder, augmentation, schedules, order, averages, manifest."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgportal.errors import PortalError, TrainingFailed
from tests.training.tiny import FS_HZ, TinyNet, tiny_data, tiny_parts, tiny_settings
from training.engine.augment import augment, hum, in_unit, lead_dropout, mixup, noise, scale, shift, wander
from training.engine.batches import Stopped, interruptible
from training.engine.fit import fit
from training.engine.lr_finder import find_learning_rate, smooth, steepest, suggest, sweep, valley
from training.engine.manifest import digest_of_keys, digest_of_source, manifest
from training.engine.monitor import Monitor
from training.engine.network import Average, no_decay_names, rate_factors
from training.engine.optim import build_optimiser
from training.engine.run import Run
from training.engine.schedule import SCHEDULES
from training.engine.settings import Augmentation
from training.engine.source import ArraySource, Feed, Subset, epoch_order
from training.engine.stages import plan
from training.problems.base import LossOptions
from training.problems.registry import get_problem

CPU = torch.device("cpu")


def test_the_rate_finder_puts_everything_back_exactly():
    signals, targets = tiny_data()
    net = TinyNet().train()
    net.trunk[1].eval()
    net(torch.from_numpy(signals[:4])).sum().backward()
    before = copy.deepcopy(net.state_dict())
    gradients = [p.grad.clone() for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    loss = get_problem("multilabel").loss(targets, LossOptions())
    result = sweep(
        net,
        Feed(ArraySource(signals), CPU),
        targets,
        np.arange(48),
        loss,
        tiny_settings(),
        "head",
        fs_hz=FS_HZ,
        augmentation=Augmentation(),
    )
    assert torch.equal(torch.rand(4), expected)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(p.grad, g) and p.requires_grad for p, g in zip(net.parameters(), gradients, strict=True))
    assert [m.training for m in net.modules()] == modes
    assert len(result.rates) == len(result.losses) > 10
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["rule"] == result.rule


def test_the_rate_finder_reads_the_training_part_only_and_finds_a_rate_that_learns():
    train, t, validation, v = tiny_parts()

    class Forbidden(ArraySource):
        reads = 0

        def read(self, indices):
            Forbidden.reads += 1
            return super().read(indices)

    settings = tiny_settings(learning_rate=None, epochs=1)
    result = fit(
        TinyNet(), train, t, Forbidden(validation.signals), v, get_problem("multilabel"), settings, fs_hz=FS_HZ
    )
    # One read by the only epoch's validation: nothing before it.
    assert Forbidden.reads == 1
    assert 1e-5 < result.learning_rate < 1 and result.lr_finder["suggestion"] == result.learning_rate
    alone = find_learning_rate(TinyNet(), train, t, get_problem("multilabel"), settings, fs_hz=FS_HZ)
    assert alone.suggestion == result.learning_rate


def test_a_found_rate_survives_a_resume(tmp_path):
    train, t, validation, v = tiny_parts()
    settings = tiny_settings(learning_rate=None, epochs=2)
    problem = get_problem("multilabel")
    first = fit(TinyNet(), train, t, validation, v, problem, settings, fs_hz=FS_HZ, checkpoint_dir=tmp_path)
    again = fit(TinyNet(), train, t, validation, v, problem, settings, fs_hz=FS_HZ, checkpoint_dir=tmp_path)
    assert again.learning_rate == first.learning_rate and again.lr_finder == first.lr_finder


def test_suggestions_are_pure_functions_of_the_curve():
    rates = np.logspace(-5, 0, 51)
    losses = np.interp(np.log10(rates), [-5, -4, -2, -1, 0], [1.0, 1.0, 0.4, 0.45, 3.0])
    assert 1e-4 < valley(rates, losses) < 1e-2
    assert 1e-4 < steepest(rates, losses) < 1e-2
    rising = np.linspace(1, 2, 51)
    assert valley(rates, rising) is None and steepest(rates, rising) is None
    assert suggest(rates, rising).rule == "default"


def test_a_noisy_start_of_the_curve_is_not_taken_for_a_fall():
    rates = np.logspace(-5, 0, 60)
    log = np.log10(rates)
    # It falls fastest at 10^-2.3; single batches differ, the first ones most.
    true = 0.7 - 0.4 / (1 + np.exp(-4 * (log + 2.3))) + 3 * np.clip(log + 0.7, 0, None) ** 2
    found = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=60) * 0.03 * (1 + 4 * np.exp(-np.arange(60) / 4))
        result = suggest(rates.tolist(), (true + noise).tolist())
        assert result.steepest is not None and 10**-2.3 / 2 < result.steepest < 10**-2.3 * 6
        assert result.valley is not None and 10**-2.3 < result.valley < 0.1
        found.append(float(rates[np.argmin(np.gradient(result.smoothed, log))]))
    # The plain gradient of the same curves marks the first rates of the sweep more often than not.
    assert np.median(found) < 1e-4
    assert suggest(rates.tolist(), [0.7] * 60).rule == "default"


def test_smoothing_has_no_memory_of_a_start_from_zero():
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smooth([1.0, 0.0]) == pytest.approx([1.0, 0.09 / 0.19])
    assert smooth([]) == [] and suggest([], []).rule == "default"


@pytest.mark.parametrize(
    ("targets", "fs_hz", "error"),
    [
        (np.full((40, 2), np.nan), 100.0, "nothing to learn from"),
        (np.ones((40, 2)), 100.0, "nothing to tell apart"),
        (np.ones((39, 2)), 100.0, "39 training targets for 40"),
        (None, float("nan"), "positive number of hertz"),
    ],
)
def test_the_rate_finder_says_what_it_cannot_learn_from(targets, fs_hz, error):
    train, own, _, _ = tiny_parts()
    with pytest.raises(PortalError, match=error):
        find_learning_rate(
            TinyNet(),
            train,
            own if targets is None else targets,
            get_problem("multilabel"),
            tiny_settings(),
            fs_hz=fs_hz,
        )


def test_the_rate_finder_says_when_the_first_loss_is_not_finite():
    signals, targets = tiny_data()
    net = TinyNet()
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="very first batch"):
        find_learning_rate(net, ArraySource(signals), targets, get_problem("multilabel"), tiny_settings(), fs_hz=FS_HZ)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmentation_is_a_function_of_its_generator_and_keeps_shape():
    x = torch.randn(6, 12, 200, generator=generator(1))
    everything = Augmentation(noise_mv=0.05, scale=0.3, shift_s=0.2, lead_dropout=0.2, wander_mv=0.2, hum_mv=0.05)
    first, again, other = (augment(x, everything, 500, generator(s)) for s in (2, 2, 3))
    assert first.shape == x.shape and torch.equal(first, again) and not torch.equal(first, other)
    off = Augmentation(noise_mv=0, scale=0, shift_s=0, lead_dropout=0, wander_mv=0)
    assert augment(x, off, 500, generator()) is x


def test_signals_without_a_unit_get_changes_by_their_own_spread():
    signals, targets = tiny_data(64)
    asked = tiny_settings(epochs=1, augmentation=Augmentation(noise_mv=0.05, wander_mv=0.1, hum_mv=0.0))

    def trained(scale: float, **options):
        parts = (ArraySource(signals[:40] * scale), targets[:40], ArraySource(signals[40:] * scale), targets[40:])
        settings = options.pop("settings", asked)
        return fit(TinyNet(), *parts, get_problem("multilabel"), settings, fs_hz=FS_HZ, **options)

    found, twice = trained(1.0, unit="1"), trained(2.0, unit="1")
    record = signals[:40].std(axis=2, dtype=float)
    assert found.units_per_mv == pytest.approx(np.median(np.sqrt((record**2).mean(1))) / 0.2, rel=0.01) != 1.0
    assert twice.units_per_mv == pytest.approx(2 * found.units_per_mv, rel=0.01)
    by_hand = replace(asked, augmentation=in_unit(asked.augmentation, found.units_per_mv))
    plain = trained(1.0)
    assert trained(1.0, settings=by_hand).weights_hash == found.weights_hash != plain.weights_hash
    assert plain.units_per_mv == 1.0 and in_unit(asked.augmentation, 1.0) is asked.augmentation


def test_shift_moves_by_at_most_the_given_time_and_holds_the_edge():
    x = torch.arange(100, dtype=torch.float32).expand(50, 2, 100)
    moved = shift(x, 0.05, 100, generator())
    by = moved[:, 0, 50] - 50
    assert by.abs().max() <= 5 and len(by.unique()) > 3
    assert torch.equal(moved[:, 0], moved[:, 1]) and moved.min() == 0 and moved.max() == 99


def test_scale_keeps_the_ratio_of_leads_and_stays_in_range():
    x = torch.ones(200, 3, 4)
    x[:, 1] = 2
    scaled = scale(x, 0.2, generator())
    assert 0.8 <= scaled[:, 0].min() and scaled[:, 0].max() <= 1.2
    torch.testing.assert_close(scaled[:, 1], 2 * scaled[:, 0])


def test_lead_dropout_never_takes_more_than_half_of_the_leads():
    x = torch.ones(500, 12, 3)
    lost = (lead_dropout(x, 0.3, generator()) == 0).all(dim=2).sum(dim=1)
    assert lost.max() <= 6 and 0.2 < lost.float().mean() / 12 < 0.35
    assert (lead_dropout(x, 0.9, generator()) == 0).all(dim=2).sum(dim=1).max() == 6
    assert torch.equal(lead_dropout(torch.ones(5, 1, 3), 0.9, generator()), torch.ones(5, 1, 3))


def test_noise_wander_and_hum_stay_within_their_amplitude_and_band():
    x = torch.zeros(40, 2, 5000)
    assert noise(x, 0.1, generator()).std(dim=2).max() < 0.11
    slow = wander(x, 0.3, 500, generator())
    assert slow.abs().max() <= 0.3 and slow.diff(dim=2).abs().max() < 0.3 * 2 * np.pi * 0.5 / 500 * 1.01
    fast = hum(x, 0.05, 500, generator())
    spectrum = torch.fft.rfft(fast[0, 0]).abs()
    assert float(spectrum.argmax()) / 10 in (50.0, 60.0) and fast.abs().max() <= 0.05
    assert hum(x, 0.05, 100, generator()) is x


def test_mixup_mixes_signals_and_targets_alike_and_keeps_unknown_unknown():
    x = torch.arange(8, dtype=torch.float32)[:, None, None].expand(8, 1, 4)
    t = torch.arange(8, dtype=torch.float32)[:, None].clone()
    mixed, targets, _ = mixup(x, t, 0.4, generator())
    torch.testing.assert_close(mixed[:, 0, 0], targets[:, 0])
    t[3] = float("nan")
    unknown = torch.isnan(mixup(x, t, 0.4, generator())[1][:, 0])
    assert unknown[3] and 1 <= unknown.sum() <= 2


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_rise_over_the_warm_up_and_never_pass_the_peak(name):
    values = [SCHEDULES[name](p, 0.25) for p in np.linspace(0, 1, 201)]
    assert max(values) == pytest.approx(1) and min(values) >= 0
    assert all(a <= b + 1e-12 for a, b in zip(values[:50], values[1:51], strict=True))
    assert all(a >= b - 1e-12 for a, b in zip(values[51:-1], values[52:], strict=True))
    assert values[-1] == pytest.approx(1.0 if name == "constant" else 0.0, abs=1e-4)
    assert SCHEDULES[name](0.0, 0.0) > 0.9


def test_an_epochs_order_is_a_permutation_in_batches_of_nearly_equal_size():
    usable = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144])
    orders = epoch_order(usable, 4, 0, 1)
    assert sorted(np.concatenate(orders)) == list(usable) and [len(o) for o in orders] == [3, 3, 3]
    assert [o.tolist() for o in orders] == [o.tolist() for o in epoch_order(usable, 4, 0, 1)]
    assert [o.tolist() for o in orders] != [o.tolist() for o in epoch_order(usable, 4, 0, 2)]


def test_subset_and_feed_read_in_the_order_asked_for():
    source = Subset(ArraySource(np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 1, 2))), [7, 2, 5])
    batches = list(Feed(source, CPU).batches([np.array([2, 0]), np.array([1])]))
    assert [b[:, 0, 0].tolist() for b in batches] == [[5, 7], [2]]


@pytest.mark.parametrize("after", [2, 9])
def test_a_wish_to_stop_breaks_off_a_batch_in_its_forward_and_backward_pass(after):
    net, calls = TinyNet(), []

    def check():
        calls.append(1)
        if len(calls) > after:
            raise Stopped("cancelled")

    finished = []
    with pytest.raises(Stopped), interruptible(net, check):
        out = net(torch.randn(4, 3, 64))
        finished.append("forward")
        out.sum().backward()
    # Eight layers report on the way forward; the ninth call and those after it come on the way back.
    assert finished == ([] if after == 2 else ["forward"])
    calls.clear()
    net(torch.randn(4, 3, 64)).sum().backward()
    assert not calls


def test_norms_and_biases_are_not_decayed():
    net = TinyNet()
    assert no_decay_names(net) == {
        n for n, _ in net.named_parameters() if "trunk.1" in n or "trunk.5" in n or "bias" in n
    }
    optimiser = build_optimiser(net, tiny_settings(weight_decay=0.1), 0.01, rate_factors(net, "full", 0.1))
    rates = {
        (round(g["lr"], 6), g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in optimiser.param_groups
    }
    assert rates == {(0.001, 0.0): 32, (0.001, 0.1): 8 * 3 * 7 + 8 * 8 * 5, (0.01, 0.0): 2, (0.01, 0.1): 16}


def test_the_average_follows_the_weights_and_equals_them_when_they_rest():
    net = TinyNet()
    average = Average(net, 0.9)
    average.update()
    for name, tensor in net.state_dict().items():
        assert torch.equal(average.net.state_dict()[name], tensor), name
    with torch.no_grad():
        net.head.bias.add_(1.0)
    for _ in range(200):
        average.update()
    torch.testing.assert_close(average.net.head.bias, net.head.bias)


def test_the_manifest_is_plain_json_and_its_digests_tell_data_apart():
    signals, targets = tiny_data(10)
    text = json.dumps(manifest(tiny_settings(), task="multilabel", outputs=["a", "b"], fs_hz=FS_HZ, weights_hash="x"))
    content = json.loads(text)
    assert (
        content["seed"] == 3
        and content["environment"]["libraries"]["torch"] == torch.__version__.split("+")[0]
        or content
    )
    assert content["weights_hash"] == "x" and content["environment"]["threads"] >= 1
    one = digest_of_source(ArraySource(signals), targets)
    assert one == digest_of_source(ArraySource(signals.copy()), targets, chunk=3)
    changed = signals.copy()
    changed[4, 0, 0] += 1e-3
    assert digest_of_source(ArraySource(changed), targets) != one
    assert digest_of_keys({"train": ["b", "a"], "test": ["c"]}) == digest_of_keys({"test": ["c"], "train": ["a", "b"]})
    assert digest_of_keys({"train": ["a"], "test": ["b"]}) != digest_of_keys({"train": ["b"], "test": ["a"]})


@pytest.mark.parametrize("asked,stops_at", [({"epochs": 20, "head_epochs": 15}, 19), ({"epochs": 40}, 20)])
def test_patience_begins_when_the_rate_of_the_stage_has_risen(asked, stops_at):
    settings = tiny_settings(mode="head_then_full", patience=2, warmup=0.25, smoothing=1, monitor="loss", **asked)
    stages = plan(settings)
    head = stages.stages[0][1]
    run = SimpleNamespace(plan=stages, monitor=Monitor(settings, "loss", 100))
    history = []
    for epoch in range(1, settings.epochs + 1):
        worse = 0.5 + 0.3 * max(0, epoch - head)
        history.append({"epoch": epoch, "stage": stages.name(epoch), "val_loss": worse})
        Run._judge(run, history)
        if stages.is_last(epoch) and run.monitor.exhausted(epoch):
            break
    # A quarter of 5 epochs after 15 of the head, or of 30 after 10, and two more.
    assert epoch == stops_at


def test_of_epochs_that_are_about_equally_good_the_latest_is_kept():
    monitor = Monitor(tiny_settings(smoothing=1, tolerance=0.02, patience=3, warmup=0.0), "auroc_macro", 100)
    history = []
    for epoch, value in enumerate([0.6, 0.85, 0.84, 0.835, 0.82, 0.80, None, 0.834, 0.83], start=1):
        history.append({"epoch": epoch, "stage": "scratch", "auroc_macro": value, "val_loss": 1.0})
        monitor.add(history)
    assert [row["is_best"] for row in history] == [True, True, True, True, False, False, False, True, False]
    assert monitor.best_epoch == 8 and not monitor.exhausted(10) and monitor.exhausted(11)
    falling = Monitor(tiny_settings(smoothing=1, tolerance=0.02, monitor="loss"), "loss", 100)
    rows = []
    for epoch, value in enumerate([1.0, 0.5, 0.505, 0.52], start=1):
        rows.append({"epoch": epoch, "stage": "scratch", "val_loss": value})
        falling.add(rows)
    assert [row["is_best"] for row in rows] == [True, True, True, False]
    assert Monitor(tiny_settings(tolerance=0.02), "loss", 10_000).tolerance == pytest.approx(0.002)
