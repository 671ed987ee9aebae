"""A contract says everything, and says what is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgportal.errors import InvalidInput
from modelhub.contract import ModelContract, decided
from tests.modelhub.conftest import beats, make_contract


def test_json_round_trip_is_exact_and_canonical():
    contract = make_contract(
        thresholds={"MI": 0.4}, recipe={"version": 1, "steps": []}, architecture="inception_time", config={"dropout": 0.1}, parent="a" * 64
    )  # fmt: skip
    assert ModelContract.from_json(contract.to_json()) == contract
    assert (
        contract.to_json()
        == make_contract(
            **{k: getattr(contract, k) for k in ("thresholds", "recipe", "architecture", "config", "parent")}
        ).to_json()
    )
    assert make_contract(fs_hz=100).to_json() == make_contract(fs_hz=100.0).to_json()


@given(
    st.lists(st.text(min_size=1, max_size=20).filter(str.strip), min_size=2, max_size=6, unique=True),
    st.floats(1, 2000),
    st.integers(1, 10_000),
)
def test_any_class_names_survive(classes, fs_hz, n_samples):
    contract = make_contract(classes=tuple(classes), fs_hz=fs_hz, n_samples=n_samples, task="multiclass")
    assert ModelContract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    "field,value",
    [
        ("leads", ()), ("leads", ("I", "I")), ("leads", ("I", "")), ("fs_hz", 0), ("fs_hz", float("nan")), ("fs_hz", "100"),
        ("n_samples", 0), ("n_samples", 10.0), ("n_samples", True), ("unit", "V"), ("normalisation", "whatever"), ("task", "guess"),
        ("output", "scores"), ("classes", ()), ("classes", ("a", "a")), ("classes", ("a", "")), ("classes", ("x" * 201, "b")),
        ("thresholds", {"NOPE": 0.5}), ("thresholds", {"MI": 1.5}), ("thresholds", {"MI": float("nan")}), ("architecture", "../x"),
        ("parent", "abc"), ("recipe", object()), ("config", {"a": float("inf")}),
    ],
)  # fmt: skip
def test_each_trouble_is_named_with_its_field(field, value):
    with pytest.raises(InvalidInput) as caught:
        make_contract(**{field: value})
    expected = "recipe" if field == "config" else field
    assert expected in caught.value.fields
    assert caught.value.code == "bad_contract"


@pytest.mark.parametrize(
    "task,classes,activation",
    [
        ("multiclass", ("a", "b"), "softmax"), ("multilabel", ("a", "b"), "sigmoid"), ("multilabel", ("a",), "sigmoid"),
        ("binary", ("a",), "sigmoid"), ("binary", ("no", "yes"), "softmax"), ("regression", ("age",), "identity"),
    ],
)  # fmt: skip
def test_activation_follows_the_task(task, classes, activation):
    assert make_contract(task=task, classes=classes).activation == activation


@pytest.mark.parametrize(
    "task,classes,stated,limits",
    [
        ("multilabel", ("a", "b"), {"b": 0.3}, {"a": 0.5, "b": 0.3}), ("binary", ("a",), {}, {"a": 0.5}),
        ("multiclass", ("a", "b"), {}, None), ("multiclass", ("a", "b"), {"b": 0.3}, {"a": 0.0, "b": 0.3}),
        ("regression", ("age",), {}, None),
    ],
)  # fmt: skip
def test_thresholds_that_decide(task, classes, stated, limits):
    assert make_contract(task=task, classes=classes).limits(stated) == limits


def test_one_of_several_classes_is_the_one_that_exceeds_its_threshold_the_most():
    p = np.array([[0.6, 0.3, 0.1], [0.5, 0.5, 0.0], [0.3, 0.4, 0.3]])
    assert decided(p, None, one_of_several=True).argmax(1).tolist() == [0, 0, 1]
    hits = decided(p, [0.45, 0.1, 0.2], one_of_several=True)
    assert hits.argmax(1).tolist() == [1, 1, 1] and (hits.sum(1) == 1).all()
    assert decided(p, [0.45, 0.5, 0.05], one_of_several=True).argmax(1).tolist() == [0, 0, 2]


def test_classes_judged_one_by_one_are_called_from_their_threshold_on():
    p = np.array([[0.5, 0.49], [0.2, 0.9]])
    assert decided(p, None, one_of_several=False).tolist() == [[True, False], [False, True]]
    assert decided(p, [0.2, 0.95], one_of_several=False).tolist() == [[True, False], [True, False]]


def test_impossible_numbers_of_classes():
    for task, classes in (("multiclass", ("a",)), ("binary", ("a", "b", "c"))):
        with pytest.raises(InvalidInput):
            make_contract(task=task, classes=classes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"fs_hz": NaN}',
        '{"leads": 3}',
        '{"format": 2}',
        "[" * 100_000,
        '{"leads": "I", "classes": ["a"], "fs_hz": 1, "n_samples": 1, "task": "binary"}',
    ],
)
def test_broken_json_is_refused(text):
    with pytest.raises(InvalidInput):
        ModelContract.from_json(text)


def test_unknown_and_missing_fields_are_named():
    data = json.loads(make_contract().to_json())
    data["extra"] = 1
    del data["leads"]
    with pytest.raises(InvalidInput, match=r"missing: leads.*not known: extra"):
        ModelContract.from_dict(data)


@pytest.mark.parametrize(
    "batch,words",
    [
        (beats(1)[0], "2 axes"), (beats(1).astype(np.float64), "float64"), (beats(1, n_leads=8), "has 8"),
        (beats(1, n_samples=5000), "has 5000"),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_explained(batch, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        make_contract().check_batch(batch)
    assert caught.value.code == "input_mismatch"


def test_the_contract_needs_neither_torch_nor_onnx():
    code = "import sys, modelhub.contract, modelhub.bundle, modelhub.card, modelhub.webdav, modelhub.safetensors_check; sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'django'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
