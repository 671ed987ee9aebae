"""S4D answers as its definition says, whatever form the computation takes, and travels as ONNX like the others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from modelhub.architectures.ensemble import Ensemble
from modelhub.architectures.s4d import StateSpace
from modelhub.importing import examine
from modelhub.loading import export
from modelhub.onnx.load import load_own
from modelhub.runtime.predictor import OnnxPredictor
from tests.modelhub.conftest import beats, make_contract
from tests.modelhub.test_architectures import small

LEADS = ("I", "II", "V2")


def by_definition(system: StateSpace, x: torch.Tensor) -> torch.Tensor:
    """Convolve with the impulse responses, written with complex numbers as in the paper."""
    samples = x.shape[-1]
    pole = torch.complex(-system.log_decay.exp(), system.frequency)
    exponent = pole * system.log_step.exp()[:, None]
    weight = torch.view_as_complex(system.mixing) * (torch.exp(exponent) - 1) / pole
    powers = torch.exp(exponent[..., None] * torch.arange(samples))
    forward, backward = 2 * torch.einsum("dcn,cnt->dct", weight, powers).real
    lag = torch.arange(samples)[:, None] - torch.arange(samples)
    matrix = torch.where(lag >= 0, forward[:, lag.clamp(min=0)], backward[:, (-lag - 1).clamp(min=0)])
    return torch.einsum("cts,bcs->bct", matrix, x) + x * system.skip[:, None]


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 330])
def test_blocks_give_the_convolution_of_the_definition_and_its_gradients(samples):
    torch.manual_seed(0)
    system = StateSpace(4).double()
    x = torch.randn(3, 4, samples, dtype=torch.double)
    answer, expected = system(x), by_definition(system, x)
    assert torch.allclose(answer, expected, atol=1e-10)
    weights = list(system.parameters())
    found = torch.autograd.grad(answer.square().sum(), weights)
    wanted = torch.autograd.grad(expected.square().sum(), weights)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in zip(found, wanted, strict=True))


def test_an_ensemble_travels_as_one_onnx_file_and_answers_at_other_lengths():
    module = Ensemble([small("s4d_128", seed=seed) for seed in (1, 2)]).eval()
    contract = make_contract(
        leads=LEADS, n_samples=200, classes=("a", "b", "c", "d"), architecture="s4d_128", config={"members": 2}
    )
    files = export(module, contract, check_signals=beats(5, 3, 200))
    assert files.checks["format"] == "onnx"
    assert files.checks["parity_max_difference"] < 1e-4
    own = load_own(files.main)
    assert all(torch.equal(value, own.module.state_dict()[key]) for key, value in module.state_dict().items())
    assert len(onnx.load_model_from_string(files.main).graph.node) < 2000 * 2
    found = examine(files.main, "s4d.onnx", {})
    assert (found.contract, found.checks["format"]) == (contract, "onnx")
    predictor = OnnxPredictor(files.main, contract.with_changes(n_samples=330), threads=2, features=True)
    signals = beats(6, 3, 330)
    answers, features = predictor.predict_with_features(signals)
    with torch.no_grad():
        expected = torch.sigmoid(module(torch.from_numpy(signals))).numpy()
    assert np.abs(answers - expected).max() < 1e-4
    assert features is None or len(features) == 6
