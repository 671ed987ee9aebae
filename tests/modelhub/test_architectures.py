"""The promises that every registered network keeps."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgportal.errors import InvalidInput, NotFound
from modelhub.architecture_checks import CHECKS, CheckFailed, Subject, lowest_loss
from modelhub.architectures.catalog import catalog
from modelhub.architectures.person import UNKNOWN
from modelhub.architectures.registry import architectures, build, parameter_count
from tests.modelhub.conftest import beats

NAMES = sorted(catalog())

# Trunk and parameters per class for 12 leads and 1000 samples, from the papers and their public code.
TABLE = {
    "code_resnet": (6_391_184, 320 * 4 + 1),
    "inception_time": (456_960, 129),
    "linear": (0, 3_843),
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
def subjects():
    return {name: Subject(entry) for name, entry in architectures().items()}


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


# These take most of the time of all and share their code with a smaller one; `make proofs` runs them.
SLOW_TO_LEARN = {"s4d_256", "net1d", "xresnet1d101"}


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "learning"])
@pytest.mark.parametrize("name", NAMES)
def test_keeps_its_promise(subjects, name, check):
    CHECKS[check](subjects[name])


@pytest.mark.parametrize("name,million", MILLION_MACS.items())
def test_arithmetic_is_the_published_one(name, million):
    assert catalog()[name].million_macs == pytest.approx(million, rel=0.02)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_TO_LEARN else name for name in NAMES]
)
def test_overfits_32_records(subjects, name):
    # The shortest records that the network takes.
    n_samples = 100 if name.startswith("se_wrn") else 50
    assert lowest_loss(subjects[name], n_leads=2, n_samples=n_samples) < 0.05


def test_only_the_net1d_family_has_idle_tensors(subjects):
    idle = {name for name, subject in subjects.items() if subject.network.idle_tensors()}
    assert idle == {"net1d", "net1d_s"}


def test_multilabel_xception_time_can_say_no(subjects):
    signals = torch.from_numpy(beats(16, 3, 200))
    with torch.no_grad():
        plain = torch.sigmoid(subjects["xception_time"].network.eval()(signals))
        published = torch.sigmoid(small("xception_time", rectified=True).eval()(signals))
    assert plain.min() < 0.5
    assert published.min() >= 0.5


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


@pytest.mark.parametrize("says", [True, False])
def test_a_network_that_draws_without_torch_must_say_so(says):
    class Drawing(torch.nn.Module):
        has_fixed_steps = says

        def forward(self, x):
            return x.mean((1, 2))[:, None] + np.random.default_rng().random()

    subject = SimpleNamespace(fresh=Drawing, signals=lambda n: torch.ones(n, 2, 8))
    if says:
        with pytest.raises(CheckFailed, match="has_fixed_steps = False"):
            CHECKS["fixed_steps"](subject)
    else:
        CHECKS["fixed_steps"](subject)
