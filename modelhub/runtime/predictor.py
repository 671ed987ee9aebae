"""Run a model on prepared ECGs: ONNX in, probabilities out. Needs no torch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from ecgportal.errors import InvalidInput
from modelhub.architectures.person import INPUT, N_FEATURES, UNKNOWN
from modelhub.contract import ModelContract
from modelhub.runtime.lift import lift_convolutions
from modelhub.runtime.pieces import Pieces, is_out_of_memory
from modelhub.runtime.reference import add_features, flat
from modelhub.runtime_words import does_not_run

# What a layer of a few records puts out stays in the processor's cache; larger batches cost time and memory.
BATCH = 4
_REFUSED = "The model cannot be run"


class Predictor(Protocol):
    """Anything that answers a batch of prepared ECGs. pieces: what it computes at once, and what is to be said of that."""

    contract: ModelContract
    pieces: Pieces

    def predict(self, batch: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
        """Return probabilities (values for regression), float32 ``(n, classes)``, for float32 ``(n, leads, samples)``.

        person: ``(n, 5)`` or ``(1, 5)`` for networks whose contract ``needs`` age and sex; None stands for unknown ones.
        """

    def predict_with_features(
        self, batch: np.ndarray, person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the answers and the features ``(n, features)`` behind them; None where none are kept."""


def activate(outputs: np.ndarray, contract: ModelContract) -> np.ndarray:
    """Turn a model's outputs ``(n, classes)`` into the task's answer: softmax, sigmoid or the values themselves."""
    outputs = np.asarray(outputs, dtype=np.float32)
    if contract.output == "probabilities" or contract.activation == "identity":
        return outputs
    if contract.activation == "sigmoid":
        # tanh never overflows.
        return np.float32(0.5) * (np.tanh(np.float32(0.5) * outputs) + np.float32(1))
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class OnnxPredictor:
    """A model in ONNX Runtime on the CPU.

    threads: CPU threads to use. fast: rewrite 1-D convolutions as 2-D ones (equal results, about twice as fast).
    features: keep what goes into the last layer, for ``predict_with_features``.
    """

    def __init__(
        self, data: bytes, contract: ModelContract, *, threads: int, fast: bool = True, features: bool = False
    ) -> None:
        self.contract = contract
        if fast or features:
            try:
                model = onnx.load_model_from_string(data)
            except DecodeError as error:
                raise does_not_run(_REFUSED, error) from error
            features = features and add_features(model)
            data = (lift_convolutions(model) if fast else model).SerializeToString()
        self._features: list[tuple[int, np.ndarray]] | None = [] if features else None
        self._persons = np.zeros((0, N_FEATURES), dtype=np.float32)
        self._data = data
        self._threads = max(1, threads)
        self.pieces = Pieces(BATCH)
        self._session = self._open(1)
        self._wide: onnxruntime.InferenceSession | None = None
        self._check_interface()

    def predict(self, batch: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
        """Return float32 ``(n, classes)``; InvalidInput when the batch is not what the contract states."""
        self.contract.check_batch(batch)
        return activate(self.outputs(batch, person), self.contract)

    def predict_with_features(
        self, batch: np.ndarray, person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the answers and the features behind them; None where the graph shows none or none were asked for."""
        self.contract.check_batch(batch)
        if self._features is None:
            return self.predict(batch, person), None
        self._features.clear()
        answers = activate(self.outputs(batch, person), self.contract)
        parts = [part for _, part in sorted(self._features, key=lambda entry: entry[0])]
        self._features.clear()
        return answers, np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def outputs(self, batch: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
        """Return the model's raw outputs, float32 ``(n, classes)``."""
        if self.contract.needs:
            given = np.array([UNKNOWN], dtype=np.float32) if person is None else np.asarray(person, dtype=np.float32)
            self._persons = np.broadcast_to(given, (len(batch), N_FEATURES))
        result = np.empty((len(batch), self.contract.n_classes), dtype=np.float32)
        if len(batch) < 2 or self._threads == 1:
            for start in range(0, len(batch), BATCH):
                self._fill(self._single_session(), batch, result, slice(start, start + BATCH))
            return result
        # One record per core at a time scales better than one convolution cut into parts for several cores.
        size = min(BATCH, -(-len(batch) // self._threads))
        parts = [slice(start, start + size) for start in range(0, len(batch), size)]
        with ThreadPoolExecutor(self._threads) as pool:
            for done in [pool.submit(self._fill, self._session, batch, result, part) for part in parts]:
                done.result()
        return result

    def _fill(self, session: onnxruntime.InferenceSession, batch: np.ndarray, result: np.ndarray, part: slice) -> None:
        signals = np.ascontiguousarray(batch[part], dtype=np.float32)
        given = [signals, np.ascontiguousarray(self._persons[part])] if self.contract.needs else [signals]
        answer = np.concatenate(self.pieces.of(lambda *own: self._run(session, part.start or 0, *own), *given))
        if answer.shape != (len(signals), self.contract.n_classes):
            raise InvalidInput(
                f"The model answered with shape {answer.shape}; its contract names {self.contract.n_classes} classes. "
                "Correct the classes of this version.",
                code="class_count_differs",
            )
        result[part] = answer

    def _run(
        self, session: onnxruntime.InferenceSession, start: int, signals: np.ndarray, persons: np.ndarray | None = None
    ) -> np.ndarray:
        given = {self._input: signals} | ({} if persons is None else {INPUT: persons})
        try:
            results = session.run(None, given)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise does_not_run(
                f"The model does not run on ECGs of {signals.shape[1]} leads and {signals.shape[2]} samples", error
            ) from error
        if self._features is not None:
            # One append at a time is safe from any thread; the first record's place puts the parts in order.
            self._features.append((start, flat(results[1])))
        return np.asarray(results[0])

    def _single_session(self) -> onnxruntime.InferenceSession:
        """Return the session for one record at a time: all threads work on it."""
        if self._threads == 1:
            return self._session
        if self._wide is None:
            self._wide = self._open(self._threads)
        return self._wide

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait in a loop would take the cores from other jobs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a family of its own that shares no base class.
            raise does_not_run(_REFUSED, error) from error

    def _check_interface(self) -> None:
        inputs = self._session.get_inputs()
        if len(inputs) != (2 if self.contract.needs else 1):
            names = ", ".join(entry.name for entry in inputs)
            raise InvalidInput(
                f"The model takes {len(inputs)} inputs ({names}); only the ECG is given.", code="input_mismatch"
            )
        self._input = inputs[0].name
        if inputs[0].type != "tensor(float)":
            raise InvalidInput(f"The model takes {inputs[0].type}; the portal gives float32.", code="input_mismatch")


def load_predictor(
    data: bytes, contract: ModelContract, threads: int | None = None, *, features: bool = False
) -> OnnxPredictor:
    """Return a predictor for a checked ONNX file; ``threads`` defaults to the cores this process may use."""
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return OnnxPredictor(data, contract, threads=threads, features=features)
