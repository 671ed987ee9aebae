"""ONNX files from elsewhere: checked, repaired, and where possible converted to a network that can be trained.

Whatever cannot be converted without a difference is kept for prediction only, and the reason is told.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime

from datasets.ecg import LEADS_12
from datasets.preprocess.crop import Crop
from datasets.preprocess.expand import Expand
from datasets.preprocess.moving_median import MovingMedian
from datasets.preprocess.recipe import Recipe
from datasets.preprocess.resample import Resample
from datasets.preprocess.select_leads import SelectLeads
from ecgportal.errors import InvalidInput, ParityError, PortalError, UnsafeFile
from modelhub.contract import ModelContract, Task
from modelhub.onnx.adapt import (
    Layout,
    activation_inside,
    adapt_input,
    free_batch,
    keep_one_output,
    layout_of,
    one_row_per_record,
    repair,
    strip_activation,
)
from modelhub.onnx.metadata import CONTRACT_KEY, SCALES, STANDARDIZERS, contract_in, parse_target_keys
from modelhub.onnx.safety import OnnxFacts, check_onnx
from modelhub.onnx.simplify import free_reshapes, simplify
from modelhub.onnx.versions import TARGET, to_target
from modelhub.runtime_words import EXPORT_AGAIN, does_not_run, logged

TOLERANCE = 1e-4


@dataclass(frozen=True)
class ForeignModel:
    """A foreign file after import.

    data: the graph as it is stored: repaired, with the portal's input, giving logits where its end was known.
    contract: None while ``questions`` (``{field: sentence}``) are open; ``known`` is what is settled so far. notes: what was changed, in sentences.
    trainable: whether it converts to a network; otherwise ``reason`` names the operator. parity: the largest
    difference between the converted network and onnxruntime; million_macs: its multiply-accumulates for 1000 samples. Both None without conversion.
    fixed_head: why the network can be trained with its own classes only; None where it takes others.
    """

    data: bytes = field(repr=False)
    contract: ModelContract | None
    questions: dict[str, str]
    notes: tuple[str, ...]
    trainable: bool
    reason: str | None
    parity: float | None
    million_macs: float | None
    fixed_head: str | None
    facts: OnnxFacts
    n_outputs: int
    known: dict[str, Any]


def import_foreign(
    data: bytes,
    *,
    name: str = "The file",
    answers: Mapping[str, Any] | None = None,
    check_signals: np.ndarray | None = None,
) -> ForeignModel:
    """Import a foreign ONNX file.

    answers: what the user says about it: ``classes``, ``fs_hz``, ``n_samples``, ``leads``, ``task``, ``unit``
    (``mV`` or ``uV``), ``standardizer`` (``None``, ``minMax``, ``meanStd``), ``recipe``. UnsafeFile when the check
    fails or the input can be no ECG; everything that the file leaves open comes back as ``questions``.
    """
    model, facts = check_onnx(data, name=name)
    given = dict(answers or {})
    _check_finite(model, name)
    layout = layout_of(model)
    notes: list[str] = []
    model, repaired = repair(model)
    if repaired:
        notes.append(
            f"{repaired} BatchNorm or Dropout operators were exported in training mode; they now answer with their "
            "stored statistics, as in prediction."
        )
    batch = free_batch(model)
    chosen = keep_one_output(model, _n_named(facts, given))
    if chosen:
        notes.append(chosen)
    # A regression's last activation belongs to the network: nothing puts it back.
    last = strip_activation(model) if given.get("task") != "regression" else None
    if last:
        notes.append(f"The file ends in a {last}; it was taken off, so that training can go on from the logits.")
    scale, standardizer = _input_treatment(facts, given, notes)
    notes += adapt_input(model, layout, scale=scale, standardizer=standardizer)
    n_samples = layout.n_samples or _whole(given.get("n_samples"))
    length = n_samples or 1000
    if _as_row(model, layout.n_leads, length, batch):
        notes.append("The answer's axes of one are taken off.")
    stored, reason = _plain_form(model, batch, layout.n_leads, length)
    n_outputs = _outputs_of(stored, layout.n_leads, length)
    applied = None if last or given.get("task") == "regression" else _applied(model, stored, layout.n_leads, length)
    contract, questions, known = _contract(facts, layout, n_outputs, last or applied, given, notes)
    if chosen and "classes" in questions:
        questions["classes"] += " If another of its outputs answers, name as many classes as that one has numbers."
    if applied:
        notes.append("The file answers with probabilities; they are taken as they are.")
        contract = contract.with_changes(output="probabilities") if contract is not None else None
        reason = reason or (
            f"Its {applied} is followed by further operators, so that it gives probabilities, and training needs what goes "
            "into that. Export the model without its last activation to train it further."
        )
    parity, million_macs, fixed_head = None, None, None
    if reason is None:
        try:
            parity, million_macs, fixed_head = _converted(stored, layout.n_leads, length, check_signals)
        except PortalError as error:
            reason = error.message
        except Exception as error:  # converted layers raise what they like; the file stays usable for prediction.
            reason = logged(f"Its graph does not run after its conversion for training. {EXPORT_AGAIN}", error)
    return ForeignModel(
        stored,
        contract,
        questions,
        tuple(notes),
        reason is None,
        reason,
        parity,
        million_macs,
        fixed_head,
        facts,
        n_outputs,
        known,
    )


def _check_finite(model: onnx.ModelProto, name: str) -> None:
    """Refuse weights that are not numbers; endless ones stand in masks."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            if np.isnan(onnx.numpy_helper.to_array(tensor)).any():
                raise UnsafeFile(
                    f"{name} was refused: the weights {tensor.name[:80]!r} hold values that are not numbers. Its training "
                    "went wrong; export another state of it.",
                    code="weights_not_finite",
                )


def _n_named(facts: OnnxFacts, given: Mapping[str, Any]) -> int | None:
    """Return how many classes the user or the file names, where that can be told."""
    if given.get("classes"):
        return len(given["classes"])
    try:
        return len(parse_target_keys(facts.metadata["target_keys"]))
    except (KeyError, UnsafeFile):
        return None


def _as_row(model: onnx.ModelProto, n_leads: int, n_samples: int, batch: int | None) -> bool:
    """Let an answer of one number, or with axes of one around its numbers, be one row per record (in place)."""
    signals = np.zeros((batch or 2, n_leads, n_samples), dtype=np.float32)
    answer = _answer(model.SerializeToString(), signals)
    if answer is None or answer.ndim in (0, 2) or len(answer) != len(signals) or answer.dtype.kind != "f":
        return False
    if sum(size != 1 for size in answer.shape[1:]) > 1:
        return False
    one_row_per_record(model)
    return True


def _applied(model: onnx.ModelProto, stored: bytes, n_leads: int, n_samples: int) -> str | None:
    """Return the activation after which a file gives probabilities, or None where it gives logits or other numbers."""
    found = activation_inside(model)
    if found is None:
        return None
    signals = np.random.default_rng(5).normal(0, 0.3, (8, n_leads, n_samples)).astype(np.float32)
    answer = _answer(stored, signals)
    return found if answer is not None and bool(((answer >= 0) & (answer <= 1)).all()) else None


def _plain_form(model: onnx.ModelProto, batch: int | None, n_leads: int, n_samples: int) -> tuple[bytes, str | None]:
    """Return the graph in operator set 17 and plain forms, or as it came with the reason why it cannot be trained."""
    before = model.SerializeToString()
    plain = copy.deepcopy(model)
    simplify(plain)
    if batch is not None:
        free_reshapes(plain, batch)
    freed = plain.SerializeToString()
    try:
        plain = to_target(plain)
    except ParityError as error:
        return freed, error.message
    simplify(plain)
    after = plain.SerializeToString()
    signals = np.random.default_rng(4).normal(0, 0.3, (batch or 2, n_leads, n_samples)).astype(np.float32)
    expected, got = _answer(before, signals), _answer(after, signals)
    if expected is None or (got is not None and np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE)):
        return after, None
    return freed, f"Bringing the graph to operator set {TARGET} changes its answers."


def _answer(data: bytes, signals: np.ndarray) -> np.ndarray | None:
    """Return what ONNX Runtime makes of signals, or None when it cannot run the graph on them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: signals})[0])
    except Exception:  # onnxruntime raises a family of its own that shares no base class.
        return None


def trainable_module(data: bytes, contract: ModelContract) -> Any:
    """Return a stored foreign file as a network with its weights; InvalidInput (``prediction_only``) with the reason."""
    from modelhub.onnx.network import ForeignNetwork

    model, _ = check_onnx(data)
    try:
        return ForeignNetwork(
            model, n_leads=contract.n_leads, n_samples=contract.n_samples, n_classes=contract.n_classes
        )
    except ParityError as error:
        raise InvalidInput(
            f"This model can predict but not be trained further. {error.message}", code="prediction_only"
        ) from error


def _input_treatment(facts: OnnxFacts, given: dict[str, Any], notes: list[str]) -> tuple[float, str]:
    unit = given.get("unit")
    written = facts.metadata.get("scale", "milliVolt").strip()
    if unit is None and written not in SCALES:
        notes.append(f"The file's metadata scale reads {written[:40]!r}, which is not known; millivolt is taken.")
    micro = unit == "uV" or (unit is None and written == "mikroVolt")
    standardizer = str(given.get("standardizer", facts.metadata.get("standardizer", "None"))).strip() or "None"
    if standardizer not in STANDARDIZERS:
        raise UnsafeFile(
            f"The file asks for the standardizer {standardizer[:40]!r}; known are {', '.join(STANDARDIZERS)}.",
            code="unknown_standardizer",
        )
    return (1000.0 if micro else 1.0), standardizer


def _outputs_of(stored: bytes, n_leads: int, n_samples: int) -> int:
    """Run the graph once on an ECG of zeros, two records, and return the number of outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        answer = np.asarray(session.run(None, {entry.name: np.zeros((2, n_leads, n_samples), dtype=np.float32)})[0])
    except Exception as error:  # onnxruntime raises a family of its own that shares no base class.
        what = f"The model does not run on two ECGs of {n_leads} leads and {n_samples} samples"
        raise does_not_run(what, error) from error
    if answer.ndim != 2 or answer.shape[0] != 2 or not np.issubdtype(answer.dtype, np.floating):
        raise UnsafeFile(
            f"The model answers two ECGs with an array of shape {answer.shape} ({answer.dtype}); expected is one row of "
            "numbers per ECG. Export it so that it answers with one number for each class.",
            code="unsupported_outputs",
        )
    return int(answer.shape[1])


def _contract(
    facts: OnnxFacts, layout: Layout, n_outputs: int, last: str | None, given: dict[str, Any], notes: list[str]
) -> tuple[ModelContract | None, dict[str, str], dict[str, Any]]:
    own = contract_in(facts.metadata)
    if own is not None and not given:
        return own.with_changes(architecture=None, config={}), {}, {}
    questions: dict[str, str] = {}
    n_samples = layout.n_samples or _whole(given.get("n_samples"))
    if n_samples is None:
        questions["n_samples"] = "The file accepts any length; say how many samples it was trained on."
    classes = _classes(facts, n_outputs, given, questions)
    fs_hz = _rate(facts, n_samples, given, questions, notes)
    leads = given.get("leads") or (LEADS_12 if layout.n_leads == 12 else None)
    if leads is None or len(leads) != layout.n_leads:
        questions["leads"] = f"The file takes {layout.n_leads} leads; name them in the order of its input."
    task = given.get("task")
    if task is None and last:
        task = "multiclass" if last == "softmax" else "multilabel"
    exclusive = {"softmax": ("multiclass", "binary"), "sigmoid": ("multilabel", "binary")}.get(last or "", (task,))
    if task not in exclusive or (task == "binary" and (last == "softmax") != (n_outputs == 2)):
        questions["task"] = (
            f"The file ends in a {last} over {n_outputs} outputs, which does not fit {task}. "
            f"Say {'multiclass' if last == 'softmax' else 'multilabel'}."
        )
    if task is None and "target_keys" in facts.metadata:
        task = "multiclass"
        notes.append("The classes are taken as exclusive (softmax), as ExChanGeAI does.")
    if task is None:
        questions["task"] = "Say whether the classes exclude one another (multiclass) or not (multilabel)."
    found = {"leads": leads, "fs_hz": fs_hz, "n_samples": n_samples, "classes": classes, "task": task}
    known = {name: value for name, value in found.items() if name not in questions and value is not None}
    if questions:
        return None, questions, known
    contract = ModelContract(
        leads=tuple(cast("tuple[str, ...]", leads)),
        fs_hz=cast(float, fs_hz),
        n_samples=cast(int, n_samples),
        classes=cast("tuple[str, ...]", classes),
        task=cast(Task, task),
        recipe=given.get("recipe") or _detrended(facts, known, notes),
        fixed_length=layout.n_samples is not None,
    )
    return contract, {}, known


def _detrended(facts: OnnxFacts, known: dict[str, Any], notes: list[str]) -> dict[str, Any] | None:
    """Return the preparation of ExChanGeAI for its files: the median over two seconds is taken out of each lead."""
    if "target_keys" not in facts.metadata or CONTRACT_KEY in facts.metadata:
        return None
    duration_s = known["n_samples"] / known["fs_hz"]
    recipe = Recipe(
        (
            SelectLeads(tuple(known["leads"])), Resample(known["fs_hz"]), Crop(duration_s, "centre"), MovingMedian(2.0),
            Expand(duration_s, "zero"),
        )
    )  # fmt: skip
    notes.append("Each lead's median over two seconds is taken out before the file sees it, as ExChanGeAI does.")
    return json.loads(recipe.to_json())


def _classes(
    facts: OnnxFacts, n_outputs: int, given: dict[str, Any], questions: dict[str, str]
) -> tuple[str, ...] | None:
    if given.get("classes"):
        names = tuple(str(name) for name in given["classes"])
        if len(names) != n_outputs:
            questions["classes"] = f"{len(names)} classes are named; the model has {n_outputs} outputs."
        return names
    texts = facts.repeated_metadata.get("target_keys") or (facts.metadata.get("target_keys"),)
    found: list[tuple[str, ...]] = []
    refusal = f"The file does not name its {n_outputs} classes; name them in the order of its outputs."
    for text in texts:
        if text is None:
            continue
        try:
            found.append(parse_target_keys(text, n_outputs))
        except UnsafeFile as error:
            refusal = error.message
    if len(set(found)) == 1:
        return found[0]
    if found:
        refusal = "The file names its classes more than once and differently; name them in the order of its outputs."
    questions["classes"] = refusal
    return None


def _rate(
    facts: OnnxFacts, n_samples: int | None, given: dict[str, Any], questions: dict[str, str], notes: list[str]
) -> float | None:
    value = given.get("fs_hz", facts.metadata.get("sampling_rate"))
    if value is not None:
        try:
            rate = float(value)
        except (TypeError, ValueError):
            rate = math.nan
        if math.isfinite(rate) and rate > 0:
            return rate
    elif "target_keys" in facts.metadata and n_samples is not None:
        notes.append(f"The rate follows from 10 s in {n_samples} samples, the length ExChanGeAI works with.")
        return n_samples / 10
    guess = f" {n_samples / 10:g} Hz would make it 10 s." if n_samples else ""
    questions["fs_hz"] = f"The file does not say its sampling rate in hertz.{guess}"
    return None


def _converted(
    stored: bytes, n_leads: int, n_samples: int, check_signals: np.ndarray | None
) -> tuple[float, float, str | None]:
    """Return how far the network made from a graph answers otherwise, at most, its million multiply-accumulates for 1000
    samples, and why it can be trained with its own classes only."""
    import torch

    from modelhub.architectures.registry import operation_count
    from modelhub.onnx.export import check_parity
    from modelhub.onnx.network import ForeignNetwork

    model = onnx.load_model_from_string(stored)
    network = ForeignNetwork(copy.deepcopy(model), n_leads=n_leads, n_samples=n_samples, n_classes=1)
    probe = ModelContract(
        leads=tuple(str(i) for i in range(n_leads)), fs_hz=1.0, n_samples=n_samples, classes=("any",), task="regression", fixed_length=True
    )  # fmt: skip
    try:
        parity = check_parity(network, stored, probe, check_signals=check_signals)
    except ParityError as error:
        raise ParityError("The network made from the graph does not answer as the file does.") from error
    count = operation_count(network.eval(), torch.zeros(2, n_leads, n_samples)) / 2
    return parity, round(count / 1e6 * 1000 / n_samples, 3), network.fixed_head()


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
