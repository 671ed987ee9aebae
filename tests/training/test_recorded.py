"""What surrounds recordings and the compiler, as far as it goes without an accelerator (see ``test_accelerator``)."""

import functools

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

from tests.bench.bench_accelerator import compile_seconds
from tests.training.fitting import Recorder as Told
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine import run as engine
from training.engine.batches import Stepper
from training.engine.fit import fit
from training.engine.recorded import Recorder
from training.problems.registry import get_problem


def stepper():
    torch.manual_seed(0)
    net = TinyNet().train()
    return Stepper(net, F.binary_cross_entropy_with_logits, autocast=False, piece=8, note=lambda _: None)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 64, generator=generator), torch.ones(8, 2)


def state_of(subject):
    return {name: tensor.clone() for name, tensor in subject.net.state_dict().items()}


def test_nothing_is_recorded_on_a_processor(batch):
    calls = []
    recorder = Recorder(TinyNet(), lambda *inputs: calls.append(inputs))
    recorder.possible = True
    assert all(recorder.play(*batch) is None for _ in range(10)) and not calls


def test_what_the_compiler_takes_is_measured_for_each_size_and_a_further_network(monkeypatch):
    """As ``python -m tests.bench accelerator`` does it; the sizes of an epoch's batches differ by one."""
    compiled = []
    once = Stepper.compile

    def counted(self, *batches):
        compiled.append(sorted(len(x) for x, _, _ in batches))
        return once(self, *batches)

    monkeypatch.setattr(Stepper, "compile", counted)
    monkeypatch.setattr(torch, "compile", lambda net, dynamic: net)
    own, further = compile_seconds("xresnet1d18", 4, 7, "cpu")
    assert compiled == [[3, 4], [3, 4]] and own > 0 < further
    monkeypatch.setattr(torch, "compile", lambda net, dynamic: lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="cannot compile here: ZeroDivisionError"):
        compile_seconds("xresnet1d18", 4, 7, "cpu")


def test_batches_that_the_compiler_is_tried_on_do_not_count(batch, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, subject = stepper(), stepper()
    before, chance = state_of(subject), torch.get_rng_state()
    assert subject.compile((*batch, ()), (batch[0][:7], batch[1][:7], ())) == ""
    graphs = counters["stats"]["unique_graphs"]
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(subject).items())
    assert all(p.grad is None for p in subject.net.parameters())
    for size in (8, 7):
        values = []
        for one in (plain, subject):
            torch.manual_seed(1)
            values.append(float(one.gradients(batch[0][:size], batch[1][:size])))
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs > 0, "nothing is compiled later"
    for own, other in zip(plain.net.parameters(), subject.net.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_where_the_compiler_fails_the_network_is_computed_as_it_is(batch, monkeypatch):
    def broken(net, dynamic):
        def answer(*_):
            raise RuntimeError("no C compiler found\nand more")

        return answer

    monkeypatch.setattr(torch, "compile", broken)
    subject = stepper()
    before = state_of(subject)
    assert subject.compile((*batch, ())) == "RuntimeError: no C compiler found"
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(subject).items())
    assert torch.isfinite(subject.gradients(*batch))


@pytest.mark.parametrize(
    "settings,resumed,told",
    [
        ({}, False, [2]),
        ({}, True, [4]),
        ({"mode": "head_then_full", "head_epochs": 3}, False, [5]),
        ({"epochs": 1}, False, []),
    ],
)
def test_the_second_epoch_of_the_last_stage_decides_whether_to_compile(settings, resumed, told, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(engine.Run, "_compile", lambda run, epoch: asked.append(epoch))
    train, t, validation, v = tiny_parts()

    def run(stop_at=None):
        callbacks = [Told(stop_at=stop_at, reason="interrupted")]
        fit(
            TinyNet(), train, t, validation, v, get_problem("multilabel"), tiny_settings(**({"epochs": 6} | settings)), fs_hz=FS_HZ,
            callbacks=callbacks, checkpoint_dir=tmp_path,
        )  # fmt: skip

    if resumed:
        run(stop_at=7)
        asked.clear()
    run()
    assert asked == told


@pytest.mark.parametrize(("piece", "sizes"), [(16, [13, 14]), (5, [4, 5])])
def test_what_is_compiled_is_for_the_pieces_that_fit_the_memory(piece, sizes, monkeypatch):
    found = []

    def compiled(run, epoch):
        (member,) = run.members
        member.stepper.piece = piece
        member.compile()

    monkeypatch.setattr(engine.Run, "_compile", compiled)
    monkeypatch.setattr(Stepper, "compile", lambda self, *batches: found.extend(len(x) for x, _, _ in batches))
    train, t, validation, v = tiny_parts()
    fit(
        TinyNet(), train, t, validation, v, get_problem("multilabel"), tiny_settings(epochs=3), fs_hz=FS_HZ
    )  # fmt: skip
    assert sorted(found) == sizes
