"""What a training process has to load before its first batch."""

import subprocess
import sys

import pytest
import torch

from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine.fit import fit
from training.engine.optim import OPTIMISERS, build_optimiser
from training.problems.registry import get_problem

_TORCH = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "nadam": lambda groups, **kw: torch.optim.NAdam(groups, decoupled_weight_decay=True, **kw),
    "sgd": lambda groups, **kw: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **kw),
}

_PROGRAM = """
import sys
from tests.training.tiny import FS_HZ, TinyNet, tiny_parts, tiny_settings
from training.engine.fit import fit
from training.problems.registry import get_problem

train, t, validation, v = tiny_parts()
fit(TinyNet(), train, t, validation, v, get_problem("multilabel"), tiny_settings(epochs=1), fs_hz=FS_HZ)
print(*[name for name in ("torch._dynamo", "sympy", "scipy.signal", "scipy.stats", "dash") if name in sys.modules])
"""


def test_a_training_loads_neither_the_compiler_nor_filters_nor_pages():
    answer = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_optimisers_take_the_steps_of_their_originals(name):
    nets = []
    for kinds in (OPTIMISERS, _TORCH):
        net = TinyNet()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(OPTIMISERS, name, kinds[name])
            optimiser = build_optimiser(net, tiny_settings(optimiser=name), 0.01, {})
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimiser.step()
        nets.append((net, optimiser.state_dict()))
    for a, b in zip(nets[0][0].parameters(), nets[1][0].parameters(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(nets[0][1], nets[1][1], rtol=0, atol=0)


def test_the_process_of_a_job_does_not_load_what_draws_pages():
    program = (
        "import sys; sys.argv = ['manage.py', 'run_job', 'x']; import django; django.setup(); "
        "from training import running; from ecgportal.jobs.registry import KINDS; "
        "print(len(KINDS), *[name for name in ('dash', 'plotly', 'flask', 'scipy.signal') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = answer.stdout.split()
    assert int(found[0]) > 5 and found[1:] == []


def test_what_is_tried_before_the_start_uses_one_thread_and_the_training_those_asked_for():
    """For two records threads would only wait for one another: on a busy machine for seconds."""

    class Asking(TinyNet):
        def forward(self, x):
            used.append((self.training, torch.get_num_threads()))
            return super().forward(x)

    used, before = [], torch.get_num_threads()
    train, t, validation, v = tiny_parts()
    fit(Asking(), train, t, validation, v, get_problem("multilabel"), tiny_settings(epochs=1, threads=2), fs_hz=FS_HZ)
    assert used[0] == (False, 1) and {threads for training, threads in used if training} == {2}
    assert torch.get_num_threads() == before


def test_getting_ready_on_the_processor_does_not_open_the_driver_of_an_accelerator():
    """A process that waits for a job must leave the accelerator to those that compute; to ask for one opens its driver. In a
    process of its own: in one that has loaded the compiler PyTorch asks by itself."""
    program = """
import torch
asked = []
for question in ("is_available", "device_count", "is_bf16_supported", "mem_get_info"):
    setattr(torch.cuda, question, lambda *_, question=question: asked.append(question) or False)
from training.warming import warm_up
warm_up()
print("asked", *asked)
torch.cuda.is_available()
print("then", *asked)
"""
    program = "import sys; sys.argv = ['manage.py', 'run_job', 'x']; import django; django.setup()\n" + program
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["asked", "then", "is_available"]
