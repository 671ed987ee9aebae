"""A request to stop is heard in the middle of a batch, whatever the batch is for."""

import threading

import pytest
import torch

from ecgportal.errors import JobCancelled
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine import stopping
from training.engine.batches import Stopped, while_asking
from training.engine.callbacks import Callback
from training.engine.fit import fit
from training.problems.registry import get_problem


class Watched(TinyNet):
    """Notes each begin and end of a forward pass, and in which mode."""

    seen: list[str] = []

    def forward(self, x):
        mode = "train" if self.training else "eval"
        self.seen.append(f"{mode} begins")
        out = super().forward(x)
        self.seen.append(f"{mode} ends")
        return out


class StopWhile(Callback):
    """Asks for a stop when a forward pass has begun for the n-th time and not ended, once the run has started."""

    def __init__(self, what: str, times: int = 1):
        self.what, self.times, self.epochs = what, times, 0

    def on_start(self, info):
        Watched.seen.clear()

    def on_epoch_end(self, row):
        self.epochs += 1

    def should_stop(self):
        return Watched.seen[-1:] == [f"{self.what} begins"] and Watched.seen.count(Watched.seen[-1]) >= self.times


@pytest.mark.parametrize(
    ("what", "times", "changes", "epochs"),
    [
        ("train", 1, {"learning_rate": None}, None),  # the finder's first batch
        ("train", 5, {}, 1),  # the second epoch's
        ("eval", 1, {}, None),  # the first epoch's validation, by the running average
        ("eval", 2, {}, 1),
        ("eval", 2, {"ema_decay": 0.0}, 1),
    ],
)
def test_a_stop_is_heard_within_a_batch(monkeypatch, what, times, changes, epochs):
    monkeypatch.setattr(stopping, "ASK_EVERY_S", 0.0)
    train, t, validation, v = tiny_parts()
    told = StopWhile(what, times)

    def run():
        return fit(
            Watched(), train, t, validation, v, get_problem("multilabel"), tiny_settings(**changes), fs_hz=FS_HZ, callbacks=[told]
        )  # fmt: skip

    if epochs is None:
        with pytest.raises(JobCancelled):
            run()
    else:
        result = run()
        assert result.stopped_reason == "cancelled" and result.epochs == epochs and result.best_epoch == 1
    assert Watched.seen[-1] == f"{what} begins" and Watched.seen.count(f"{what} begins") == times


def test_a_stop_is_heard_while_a_thread_works():
    ends, asked = threading.Event(), []

    def check():
        asked.append(len(asked))
        if len(asked) == 2:
            raise Stopped("cancelled")

    with pytest.raises(Stopped):
        while_asking(lambda: ends.wait(60), check)
    assert len(asked) == 2
    ends.set()


def test_what_a_thread_gives_or_raises_comes_back_with_the_threads_of_the_caller():
    def broken():
        raise ValueError("no")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert while_asking(torch.get_num_threads, lambda: None) == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="no"):
        while_asking(broken, lambda: None)
