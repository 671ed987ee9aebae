"""How far an ECG lies from the data that a model was trained on, in the model's own features. Needs no torch.

The features are what goes into the last layer that mixes them. Each is standardised by its mean and deviation over the
training records; the distance of an ECG is the root mean square of its standardised features (a Mahalanobis distance
with a diagonal covariance, divided by the root of the number of features). It is about 1 for training data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

FEATURES = "portal_features"
MAX_FEATURES = 4096
#: Training records needed before their spread says anything.
FEWEST = 20
_MIXING = frozenset({"Gemm", "MatMul", "Conv"})
_PASSING = frozenset({"Add", "Sub", "Mul", "Div", "Softmax", "Sigmoid", "LogSoftmax", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "BatchNormalization", "Relu", "ReduceMean", "GlobalAveragePool", "Dropout", "Cast"})  # fmt: skip


def add_features(model: onnx.ModelProto) -> bool:
    """Make what goes into the last mixing layer a second output of the graph, in place; False where it is not found."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    name = graph.output[0].name
    for _ in range(20):
        node = producers.get(name)
        if node is None:
            return False
        sources = [value for value in node.input if value in producers]
        if node.op_type in _MIXING and len(node.input) > 1 and node.input[1] in weights and sources:
            _expose(model, sources[0])
            return True
        if node.op_type not in _PASSING or not sources:
            return False
        name = sources[0]
    return False


def _expose(model: onnx.ModelProto, name: str) -> None:
    position = next(i for i, node in enumerate(model.graph.node) if name in node.output)
    model.graph.node.insert(position + 1, onnx.helper.make_node("Identity", [name], [FEATURES]))
    model.graph.output.append(
        onnx.ValueInfoProto(name=FEATURES, type=onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    )


def flat(features: np.ndarray) -> np.ndarray:
    """Return ``(records, features)``: what still runs along time is averaged."""
    array = np.asarray(features, dtype=np.float32)
    return array.reshape(*array.shape[:2], -1).mean(axis=2) if array.ndim > 2 else array


def reference_of(features: np.ndarray) -> dict[str, Any] | None:
    """Return the reference of training features ``(records, features)`` in plain JSON values, or None for too few."""
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < FEWEST or rows.shape[1] > MAX_FEATURES or not np.isfinite(rows).all():
        return None
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    # A feature that never moves in training would make any movement endlessly far.
    floor = max(1e-6, float(np.median(deviation)) * 0.05)
    found = {"n": len(rows), "mean": _short(mean), "deviation": _short(np.maximum(deviation, floor))}
    own = distances(rows, found)
    return found | {
        "distance_50": round(float(np.quantile(own, 0.5)), 4),
        "distance_99": round(float(np.quantile(own, 0.99)), 4),
    }


def distances(features: np.ndarray, reference: Mapping[str, Any]) -> np.ndarray:
    """Return the distance of each row of features; NaN for all when the reference belongs to another network."""
    mean, deviation = np.asarray(reference["mean"], float), np.asarray(reference["deviation"], float)
    if features.shape[1:] != mean.shape:
        return np.full(len(features), np.nan)
    return np.sqrt((((features - mean) / deviation) ** 2).mean(axis=1))


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
