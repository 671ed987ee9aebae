"""The packed store keeps what it is given, survives crashes, and serves readers while one writes."""

from __future__ import annotations

import json
import multiprocessing
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datasets import prepared, prepared_files
from datasets.prepared import PreparedStore, quantise
from datasets.preprocess.crop import Crop
from datasets.preprocess.expand import Expand
from datasets.preprocess.recipe import DEFAULT_RECIPE, Prepared, Recipe
from datasets.preprocess.resample import Resample
from datasets.preprocess.select_leads import SelectLeads
from ecgportal.errors import Conflict, InvalidInput, NotFound

SMALL = Recipe((SelectLeads(("I", "V2")), Resample(50.0), Crop(1.0), Expand(1.0)))


def _batch(n: int, seed: int = 0) -> list[Prepared]:
    rng = np.random.default_rng(seed)
    return [
        Prepared(rng.standard_normal((2, 50)).astype(np.float32), 50.0, ("I", "V2"), rng.random((2, 50)) < 0.9)
        for _ in range(n)
    ]


def _keys(n: int, first: int = 0) -> list[str]:
    return [f"record {i}" for i in range(first, first + n)]


def _close(stored: np.ndarray, given_: np.ndarray) -> bool:
    return bool((np.abs(stored - given_) <= np.abs(given_).max(axis=-1, keepdims=True) / 32767 * 0.51).all())


def test_what_is_appended_is_read_back_in_any_order_also_by_another_process(tmp_path):
    batch = _batch(40)
    store = PreparedStore.create(tmp_path / "s", SMALL)
    assert store.append(_keys(25), batch[:25]) == list(range(25))
    assert store.append(_keys(15, 25), batch[25:]) == list(range(25, 40))
    again = PreparedStore.open(tmp_path / "s")
    assert again.recipe == SMALL and len(again) == 40 and again.index["record 30"] == 30
    order = np.random.default_rng(1).permutation(40)
    signals, masks = again.read(order), again.read_masks(order)
    assert signals.dtype == np.float32 and signals.shape == (40, 2, 50)
    for place, row in enumerate(order):
        assert _close(signals[place], batch[row].signal)
        assert np.array_equal(masks[place], batch[row].mask)
    into = np.empty_like(signals)
    assert again.read(order, out=into) is into and np.array_equal(into, signals)
    with pytest.raises(InvalidInput, match="must be float32 of shape"):
        again.read(order, out=into[:3])
    assert again.verify() == []
    assert again.missing(["record 3", "new"]) == ["new"]
    assert again.read([]).shape == (0, 2, 50)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20)),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_quantising_errs_by_at_most_half_a_step_and_never_clips(signals):
    steps, scales = quantise(signals)
    back = steps.astype(np.float64) * scales[:, :, None]
    slack = np.abs(signals).astype(np.float64) * 1e-6
    assert (np.abs(back - signals) <= scales[:, :, None].astype(np.float64) / 2 + slack).all()
    assert np.abs(steps).max() <= 32767


def test_values_that_are_not_finite_are_refused(tmp_path):
    store = PreparedStore.create(tmp_path, SMALL)
    item = _batch(1)[0]
    for bad in (np.nan, np.inf, -np.inf):
        signal = item.signal.copy()
        signal[1, 3] = bad
        with pytest.raises(InvalidInput, match="finite"):
            store.append(["a"], [replace(item, signal=signal)])
    assert len(store) == 0


def test_rows_run_on_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_ROWS", 7)
    batch = _batch(30)
    store = PreparedStore.create(tmp_path, SMALL)
    store.append(_keys(5), batch[:5])
    store.append(_keys(25, 5), batch[5:])
    assert len(list(tmp_path.glob("signals-*.i16"))) == 5
    order = np.random.default_rng(2).permutation(30)
    assert all(_close(s, batch[row].signal) for s, row in zip(store.read(order), order, strict=True))
    store.remove("record 20")
    assert store.verify() == []
    with pytest.raises(NotFound):
        store.read([20])


def test_a_known_key_or_another_shape_is_refused_and_changes_nothing(tmp_path):
    store = PreparedStore.create(tmp_path, SMALL)
    store.append(_keys(3), _batch(3))
    with pytest.raises(Conflict, match="record 1"):
        store.append(["new", "record 1"], _batch(2))
    with pytest.raises(Conflict):
        store.append(["twice", "twice"], _batch(2))
    wrong = Prepared(np.zeros((2, 49), np.float32), 50.0, ("I", "V2"), np.ones((2, 49), bool))
    with pytest.raises(InvalidInput, match="49 samples"):
        store.append(["new"], [wrong])
    assert len(store) == len(PreparedStore.open(tmp_path)) == 3


def test_a_recipe_without_fixed_length_and_an_existing_store_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="different shape"):
        PreparedStore.create(tmp_path, Recipe((SelectLeads(), Resample(100.0))))
    PreparedStore.create(tmp_path, DEFAULT_RECIPE)
    with pytest.raises(Conflict):
        PreparedStore.create(tmp_path, DEFAULT_RECIPE)
    with pytest.raises(NotFound):
        PreparedStore.open(tmp_path / "nothing")


def test_removal_overwrites_the_bytes_and_the_key_can_come_again(tmp_path):
    batch = _batch(4)
    store, reader = PreparedStore.create(tmp_path, SMALL), PreparedStore.open(tmp_path)
    store.append(_keys(4), batch)
    reader.refresh()
    size = 2 * 50 * 2
    raw = (tmp_path / "signals-00000.i16").read_bytes()
    assert raw[2 * size : 3 * size].strip(b"\0")
    store.remove("record 2")
    raw = (tmp_path / "signals-00000.i16").read_bytes()
    assert raw[2 * size : 3 * size] == bytes(size) and raw[3 * size :].strip(b"\0")
    with pytest.raises(NotFound):
        store.read([2])
    assert reader.refresh() and "record 2" not in reader.index
    assert store.append(["record 2"], batch[2:3]) == [4]
    assert _close(store.read([4])[0], batch[2].signal)
    with pytest.raises(NotFound):
        store.remove("nobody")
    assert store.verify() == []


def _fail(*_, **__):
    raise OSError("power cut")


@pytest.mark.parametrize("where", ["write_manifest", "put"])
def test_an_append_that_is_cut_off_leaves_the_store_as_it_was(tmp_path, monkeypatch, where):
    batch = _batch(6)
    store = PreparedStore.create(tmp_path, SMALL)
    store.append(_keys(3), batch[:3])
    original, calls = getattr(prepared_files, where), []

    def cut(*args, **kwargs):
        calls.append(args)
        if where == "write_manifest" or len(calls) == 2:
            raise OSError("power cut")
        return original(*args, **kwargs)

    monkeypatch.setattr(prepared_files, where, cut)
    with pytest.raises(OSError, match="power cut"):
        store.append(_keys(3, 3), batch[3:])
    monkeypatch.undo()
    assert len(store) == 3 and store.append(["record 9"], batch[:1]) == [3]
    store.remove("record 9")
    after = PreparedStore.open(tmp_path)
    assert len(after) == 3 and after.verify() == []
    assert after.append(_keys(2, 4), batch[4:]) == [4, 5]
    assert all(_close(s, b.signal) for s, b in zip(after.read([0, 1, 2, 4, 5]), batch[:3] + batch[4:], strict=True))


def test_a_removal_that_is_cut_off_is_finished_by_the_next_writer(tmp_path, monkeypatch):
    store = PreparedStore.create(tmp_path, SMALL)
    store.append(_keys(3), _batch(3))
    monkeypatch.setattr(prepared_files, "put", _fail)
    with pytest.raises(OSError, match="power cut"):
        store.remove("record 1")
    monkeypatch.undo()
    after = PreparedStore.open(tmp_path)
    assert "record 1" not in after.index
    after.append(["other"], _batch(1))
    assert (tmp_path / "signals-00000.i16").read_bytes()[200:400] == bytes(200)
    assert json.loads((tmp_path / "manifest.json").read_text())["pending_removal"] == []
    assert after.verify() == []


def test_damaged_bytes_are_found(tmp_path):
    store = PreparedStore.create(tmp_path, SMALL)
    store.append(_keys(3), _batch(3))
    path = tmp_path / "signals-00000.i16"
    raw = bytearray(path.read_bytes())
    raw[77] ^= 1
    path.write_bytes(raw)
    assert len(PreparedStore.open(tmp_path).verify()) == 1
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InvalidInput, match="cannot be used"):
        PreparedStore.open(tmp_path)


def _write_some(folder, first):
    store = PreparedStore.open(folder)
    for start in range(first, first + 40, 8):
        store.append(_keys(8, start), _batch(8, seed=start))


def test_writers_of_several_processes_and_readers_do_not_disturb_each_other(tmp_path):
    PreparedStore.create(tmp_path, SMALL)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_some, args=(tmp_path, first)) for first in (0, 40)]
    for worker in workers:
        worker.start()
    thread = threading.Thread(target=_write_some, args=(tmp_path, 80))
    thread.start()
    reader, seen = PreparedStore.open(tmp_path), 0
    while thread.is_alive() or any(worker.is_alive() for worker in workers):
        reader.refresh()
        rows = list(reader.index.values())
        assert len(rows) >= seen
        seen = len(rows)
        assert np.abs(reader.read(rows)).max(axis=(1, 2)).all()
    thread.join()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    reader.refresh()
    assert len(reader) == 120 and reader.verify() == []
    for start in range(0, 120, 8):
        rows = [reader.index[key] for key in _keys(8, start)]
        assert all(_close(s, b.signal) for s, b in zip(reader.read(rows), _batch(8, seed=start), strict=True))
