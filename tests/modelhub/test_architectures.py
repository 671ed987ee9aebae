"""The promises that every registered network keeps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ecgportal.errors import InvalidInput, NotFound
from modelhub.architectures.catalog import catalog
from modelhub.architectures.fast import FastForm, as_2d
from modelhub.architectures.person import UNKNOWN
from modelhub.architectures.registry import architectures, build, mac_count, parameter_count
from modelhub.onnx.export import export_onnx
from modelhub.weights import load_safetensors, save_safetensors
from tests.modelhub.conftest import beats, make_contract

NAMES = sorted(catalog())

# Trunk and parameters per class for 12 leads and 1000 samples, from the papers and their public code.
TABLE = {
    "code_resnet": (6_391_184, 320 * 4 + 1),
    "inception_time": (456_960, 129),
    "net1d": (30_665_264, 1_025),
    "net1d_s": (740_864, 257),
    "resnet1d_wang": (472_704, 129),
    "s4d_128": (148_096, 129),
    "s4d_256": (558_336, 257),
    "se_wrn": (1_811_072, 129),
    "se_wrn_metadata": (1_811_072, 134),
    "xception_time": (400_720, 129),
    "xresnet1d101": (1_871_616, 129),
    "xresnet1d18": (364_288, 129),
    "xresnet1d50": (953_344, 129),
}
MILLION_MACS = {
    "inception_time": 454.9,
    "net1d": 242.4,
    "resnet1d_wang": 252.4,
    "s4d_128": 135,
    "s4d_256": 530,
    "se_wrn": 88.3,
    "xception_time": 243.1,
    "xresnet1d101": 162.1,
    "xresnet1d18": 47.2,
    "xresnet1d50": 105.1,
}


def small(name: str, *, n_leads: int = 3, n_samples: int = 200, n_classes: int = 4, seed: int = 7, **config):
    return build(name, n_leads=n_leads, n_samples=n_samples, fs_hz=100, n_classes=n_classes, seed=seed, **config)


@pytest.fixture(scope="module")
def networks():
    return {name: small(name) for name in NAMES}


def test_catalogue_and_registry_agree():
    assert {name: entry.facts for name, entry in architectures().items()} == catalog()
    assert set(TABLE) == set(NAMES)


def test_catalogue_needs_no_torch():
    code = "import sys; from modelhub.architectures.catalog import catalog; catalog(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_classes", [2, 5, 26, 71])
def test_parameter_count_is_the_published_one(name, n_classes):
    trunk, per_class = TABLE[name]
    with torch.device("meta"):
        module = build(name, n_leads=12, n_samples=1000, fs_hz=100, n_classes=n_classes)
    assert parameter_count(module) == trunk + per_class * n_classes
    if n_classes == 5:
        assert catalog()[name].parameters == parameter_count(module)


@pytest.mark.parametrize("n_classes,total", [(5, 401_370), (26, 404_100), (71, 409_950)])
def test_the_published_head_of_xception_time_has_its_parameters(n_classes, total):
    module = build("xception_time", n_leads=12, n_samples=1000, fs_hz=100, n_classes=n_classes, rectified=True)
    assert parameter_count(module) == total


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_is_as_stated(name):
    module = build(name, n_leads=12, n_samples=1000, fs_hz=100, n_classes=5)
    million = mac_count(module, 12, 1000) / 1e6
    assert million == pytest.approx(catalog()[name].million_macs, abs=0.051)
    if name in MILLION_MACS:
        assert million == pytest.approx(MILLION_MACS[name], rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_output_shape(networks, name):
    module = networks[name].eval()
    for batch in (1, 2, 7):
        assert module(torch.from_numpy(beats(batch, 3, 200))).shape == (batch, 4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [{"n_leads": 1}, {"n_leads": 8, "n_samples": 500}, {"n_samples": 350}])
def test_sizes_are_arguments(name, sizes):
    if name == "net1d" and "n_leads" not in sizes:
        pytest.skip("the widest network is tried in two sizes only")
    module = small(name, **sizes).eval()
    signal = torch.from_numpy(beats(2, sizes.get("n_leads", 3), sizes.get("n_samples", 200)))
    assert torch.isfinite(module(signal)).all()


@pytest.mark.parametrize("name", NAMES)
def test_other_lengths_work_or_are_refused_as_promised(networks, name):
    module = networks[name].eval()
    signal = torch.from_numpy(beats(2, 3, 251))
    if catalog()[name].dynamic_length:
        assert module(signal).shape == (2, 4)
    else:
        with pytest.raises(InvalidInput, match="200 samples"):
            module(signal)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name):
    module = small(name).train()
    module(torch.from_numpy(beats(4, 3, 200))).square().sum().backward()
    idle = module.idle_tensors()
    without = {key for key, value in module.named_parameters() if value.grad is None}
    assert without == {key for key, _ in module.named_parameters() if key in idle}
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    if not name.startswith("net1d"):
        assert not idle


@pytest.mark.parametrize("name", NAMES)
def test_one_record_does_not_depend_on_the_rest_of_the_batch(networks, name):
    module = networks[name].eval()
    signals = torch.from_numpy(beats(5, 3, 200))
    with torch.no_grad():
        together = module(signals)
        alone = torch.cat([module(signals[i : i + 1]) for i in range(5)])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_flat_leads_give_finite_logits(networks, name):
    module = networks[name]
    zeroed = beats(2, 3, 200)
    zeroed[:, 1] = 0
    constant = np.full((2, 3, 200), 0.3, dtype=np.float32)
    for signals in (zeroed, constant, np.zeros_like(constant)):
        for mode in (True, False):
            module.train(mode)
            assert torch.isfinite(module(torch.from_numpy(signals))).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second, other = small(name, seed=7), small(name, seed=7), small(name, seed=8)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(first.state_dict().values(), second.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_reload_to_identical_outputs(networks, name):
    module = networks[name].eval()
    fresh = small(name, seed=99).eval()
    load_safetensors(fresh, save_safetensors(module))
    signals = torch.from_numpy(beats(2, 3, 200))
    with torch.no_grad():
        assert torch.equal(module(signals), fresh(signals))


@pytest.mark.parametrize("name", [name for name in NAMES if catalog()[name].exports_onnx])
def test_onnx_round_trip(networks, name):
    # export_onnx itself compares with onnxruntime at two batch sizes and refuses above 1e-4.
    contract = make_contract(
        leads=("I", "II", "V2"),
        n_samples=200,
        classes=("a", "b", "c", "d"),
        architecture=name,
    )
    assert len(export_onnx(networks[name], contract, check_signals=beats(5, 3, 200))) > 1000


def test_multilabel_xception_time_can_say_no(networks):
    signals = torch.from_numpy(beats(16, 3, 200))
    with torch.no_grad():
        plain = torch.sigmoid(networks["xception_time"].eval()(signals))
        published = torch.sigmoid(small("xception_time", rectified=True).eval()(signals))
    assert plain.min() < 0.5
    assert published.min() >= 0.5


# These take most of the time of all and share their code with a smaller one; `make proofs` runs them.
SLOW_TO_LEARN = {"s4d_256", "net1d", "xresnet1d101"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_TO_LEARN else name for name in NAMES]
)
def test_overfits_32_records(name):
    # The two slowest families are tried on shorter records.
    n_samples = 50 if name.startswith(("s4d", "net1d")) else 100
    module = as_2d(small(name, n_leads=2, n_samples=n_samples, n_classes=1, seed=1))
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    signals = torch.from_numpy(beats(32, 2, n_samples, seed=5))
    target = (torch.arange(32) % 2).float()[:, None]
    slow = module.slow_parameters() if hasattr(module, "slow_parameters") else []
    fast = [p for p in module.parameters() if not any(p is other for other in slow)]
    optimiser = torch.optim.Adam([{"params": fast, "lr": 3e-3}, {"params": slow, "lr": 1e-3}])
    loss = torch.tensor(9.0)
    module.train()
    for _ in range(200):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(module(signals), target)
        loss.backward()
        optimiser.step()
        if loss < 0.05:
            break
    assert loss < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_fast_form_has_equal_outputs_gradients_and_names(name):
    module = small(name).eval()
    fast = as_2d(module)
    assert isinstance(fast, FastForm) == module.has_2d_form
    if not module.has_2d_form:
        assert fast is module
        return
    # In float64: rounding at the kink of a ReLU would turn single gradients over.
    module.double(), fast.double()
    # Running statistics of a fresh network are 0 and 1; move them so that the comparison means something.
    for layer in (*module.modules(),):
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    fast.load_state_dict_1d(module.state_dict())
    fast.eval()
    signals = torch.from_numpy(beats(3, 3, 200)).double()
    expected = module(signals).detach()
    assert (expected - fast(signals)).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    module(signals).sum().backward()
    fast(signals).sum().backward()
    theirs = dict(fast.net.named_parameters())
    for key, value in module.named_parameters():
        if value.grad is not None:
            scale = max(1.0, float(value.grad.abs().max()))
            assert (value.grad - theirs[key].grad.reshape(value.shape)).abs().max() < 1e-4 * scale, key
    state = fast.state_dict_1d()
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_head_can_be_replaced_and_is_all_that_head_training_touches(name):
    module = small(name)
    trunk = {key for key, _ in module.named_parameters()}
    head = {id(p) for layer in module.head_modules() for p in layer.parameters()}
    assert head
    assert head < {id(p) for p in module.parameters()}
    module.replace_head(9)
    assert module.n_classes == 9
    assert module.eval()(torch.from_numpy(beats(2, 3, 200))).shape == (2, 9)
    assert trunk == {key for key, _ in module.named_parameters()}
    fast = as_2d(small(name))
    fast.replace_head(6)
    assert fast.eval()(torch.from_numpy(beats(2, 3, 200))).shape == (2, 6)


def test_age_and_sex_change_the_answer_and_unknown_means_the_training_means():
    module = small("se_wrn_metadata").eval()
    signals = torch.from_numpy(beats(2, 3, 200))
    unknown = module(signals)
    assert torch.allclose(unknown, module(signals, torch.tensor([UNKNOWN] * 2)), atol=1e-6)
    assert not torch.allclose(unknown, module(signals, torch.tensor([[0.8, 1.0, 0.0, 1.0, 1.0]] * 2)))


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(NotFound, match="inception_time"):
        small("resnet9000")
    with pytest.raises(InvalidInput, match="no setting width"):
        small("inception_time", width=3)
    with pytest.raises(InvalidInput, match="multiple of 50"):
        small("xception_time", n_samples=333)
    with pytest.raises(InvalidInput, match="at least 64 samples"):
        small("se_wrn", n_samples=63)
    with pytest.raises(InvalidInput, match="positive whole number of classes"):
        small("inception_time", n_classes=0)
