"""Write a network as an ONNX file that any runtime can run and that can be trained further."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from ecgportal.errors import InvalidInput, ParityError
from modelhub.architectures.base import EcgNetwork
from modelhub.architectures.person import INPUT, person_features
from modelhub.contract import ModelContract, statements_for_file
from modelhub.onnx.metadata import metadata_of
from modelhub.onnx.passes import publishable, set_tensors
from modelhub.onnx.simplify import drop_idle_states, settle_constants
from modelhub.runtime_words import does_not_run

OPSET = 17
TOLERANCE = 1e-4
# Of the largest output: networks fed in microvolt may answer in thousands, where float32 itself is coarser than 1e-4.
RELATIVE = 1e-5
INPUT_NAME = "signal"
OUTPUT_NAME = "logits"
PRODUCER = "ECG Portal"


def export_checked(
    module: nn.Module,
    contract: ModelContract,
    *,
    check_signals: np.ndarray | None = None,
    prose: Mapping[str, str] | None = None,
) -> tuple[bytes, float]:
    """Return the bytes of an ONNX file (opset 17) of ``module`` under ``contract``, and how far its answers are from torch's.

    The batch is free; so is the length, unless the contract or the network fixes it. BatchNorm and Dropout stay in the
    graph and every weight has its parameter's name. ``check_signals`` are real ECGs, float32 ``(n, leads, samples)``
    as the network gets them. ParityError unless onnxruntime and torch agree within 1e-4 (and 1e-5 of the largest output)
    on random and the given signals, at two batch sizes. ``prose`` may hold licence and intended use, which the file then states.
    """
    if contract.output != "logits":
        raise InvalidInput("A network is exported with logits as its output; the task's activation follows outside.")
    if not getattr(module, "dynamic_length", True):
        contract = contract.with_changes(fixed_length=True)
    if contract.needs and not getattr(module, "n_person_features", 0):
        raise InvalidInput("The contract asks for age and sex, which this network does not take.", code="bad_contract")
    working = copy.deepcopy(module).cpu()
    state = _tensors_to_keep(working)
    model = publishable(_traced(working, contract))
    settle_constants(model)
    drop_idle_states(model)
    _name_check(set_tensors(model, state), module)
    _describe(model, contract, prose or {})
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    return data, check_parity(module, data, contract, check_signals=check_signals)


def export_onnx(
    module: nn.Module,
    contract: ModelContract,
    *,
    check_signals: np.ndarray | None = None,
    prose: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes that :func:`export_checked` gives."""
    return export_checked(module, contract, check_signals=check_signals, prose=prose)[0]


def check_parity(
    module: nn.Module, data: bytes, contract: ModelContract, *, check_signals: np.ndarray | None = None
) -> float:
    """Return the largest absolute difference between torch and onnxruntime; ParityError above 1e-4 plus 1e-5 of the
    largest output, or if they are not finite."""
    session = onnxruntime.InferenceSession(data, _quiet_options(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    worst = 0.0
    was_training = module.training
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        module.eval()
        for signals in _probes(contract, check_signals, getattr(module, "dynamic_length", True)):
            given = {name: signals}
            if contract.needs:
                given[INPUT] = _persons(len(signals))
            with torch.no_grad():
                expected = module(*(torch.from_numpy(value).to(device) for value in given.values())).cpu().numpy()
            got = _run(session, given)
            if got.shape != expected.shape:
                raise ParityError(
                    f"The exported model gives outputs of shape {got.shape}, torch gives {expected.shape}. "
                    "The file was not written."
                )
            difference = float(np.max(np.abs(got - expected))) if np.isfinite(expected).all() else float("nan")
            allowed = TOLERANCE + RELATIVE * float(np.abs(expected).max(initial=0.0))
            if not difference < allowed:
                raise ParityError(
                    f"The exported model differs from torch by {difference:.2g} for a batch of {len(signals)} "
                    f"(allowed: {allowed:.2g}). The file was not written; exchange this model as safetensors instead."
                )
            worst = max(worst, difference)
    finally:
        module.train(was_training)
    return worst


def _persons(n: int) -> np.ndarray:
    """Return features of made-up persons of different age and sex, one of them unknown."""
    return person_features([None, *range(20, 19 + n)][:n], ["", *"FM" * n][:n])[0]


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    try:
        return np.asarray(session.run(None, inputs)[0])
    except Exception as error:  # onnxruntime raises a family of its own that shares no base class.
        raise ParityError(
            f"{does_not_run('The exported model does not run', error).message} The file was not written."
        ) from error


def _probes(contract: ModelContract, check_signals: np.ndarray | None, dynamic_length: bool) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(20)
    shape = (contract.n_leads, contract.n_samples)
    for batch in (1, 3):
        yield generator.standard_normal((batch, *shape), dtype=np.float32)
    if check_signals is not None and len(check_signals):
        contract.check_batch(check_signals)
        yield np.ascontiguousarray(check_signals[:1])
        if len(check_signals) > 1:
            yield np.ascontiguousarray(check_signals[:64])
    if not contract.fixed_length and dynamic_length:
        yield generator.standard_normal((2, contract.n_leads, contract.n_samples * 3 // 2), dtype=np.float32)


def _traced(module: nn.Module, contract: ModelContract) -> onnx.ModelProto:
    # Two records: a batch of one would let BatchNorm and shape arithmetic be specialised to it.
    example = [torch.zeros(2, contract.n_leads, contract.n_samples)]
    axes = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}}
    names = [INPUT_NAME]
    if contract.needs:
        example.append(torch.from_numpy(_persons(2)))
        names.append(INPUT)
        axes[INPUT] = {0: "batch"}
    if not contract.fixed_length:
        axes[INPUT_NAME][2] = "samples"
    buffer = io.BytesIO()
    module.train()
    with _quiet():
        torch.onnx.export(
            module,
            tuple(example),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            input_names=names,
            output_names=[OUTPUT_NAME],
            dynamic_axes=axes,
        )
    return onnx.load_model_from_string(buffer.getvalue())


def _tensors_to_keep(module: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of what further training needs: parameters and running statistics, by name."""
    idle = module.idle_tensors() if isinstance(module, EcgNetwork) else frozenset()
    statistics = ("running_mean", "running_var")
    named = [*module.named_parameters(), *(item for item in module.named_buffers() if item[0].endswith(statistics))]
    return {name: value.detach().numpy().copy() for name, value in named if name not in idle}


def _name_check(missing: list[str], module: nn.Module) -> None:
    if missing:
        raise ParityError(
            f"The export of {type(module).__name__} lost {len(missing)} of its tensors, the first is {missing[0]}. "
            "The file was not written; exchange this model as safetensors instead."
        )


def _describe(model: onnx.ModelProto, contract: ModelContract, prose: Mapping[str, str]) -> None:
    model.producer_name = PRODUCER
    model.producer_version = ""
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    model.graph.name = contract.architecture or "ecg_model"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata_of(contract) | statements_for_file(prose))


def _quiet_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's deprecation notices and tracing remarks out of the job's log."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
