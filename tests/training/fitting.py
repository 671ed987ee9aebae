"""A short run of the training loop on small data, and what it told its callbacks."""

from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine.callbacks import Callback
from training.engine.fit import fit
from training.problems.registry import get_problem

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
