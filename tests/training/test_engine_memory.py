"""What a run does with the process's memory."""

import os
import subprocess
import sys

import pytest
import torch

from training.engine.seeding import deterministic

_PROGRAM = """
import resource, torch
from training.engine.memory import kept_memory

def faults(n=15_000_000):
    # The library may take some rounds until it has room for a block and its alignment.
    for _ in range(30):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(5_000_000)
        torch.ones(n)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
usual = faults()
before = resident()
with kept_memory():
    with kept_memory():
        kept = faults()
    still = faults()
    held = resident()
print(usual, kept, still, held - before, resident() - before, faults(40_000_000))
"""


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names or not sys.platform.startswith("linux"),
    reason="only the GNU library lets a process say what becomes of freed memory",
)
def test_a_run_takes_its_memory_from_the_system_once_and_gives_it_back_at_its_end():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    usual, kept, still, held, after, again = map(int, answer.stdout.split())
    assert usual > 100, "the system gives large blocks anew each time"
    assert kept < usual / 10 and still < usual / 10
    assert held > 30e6 and after < 20e6
    assert again > usual, "the usual way is back"


def test_new_tensors_are_not_filled_in_a_run():
    assert torch.utils.deterministic.fill_uninitialized_memory
    with deterministic(1, torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_kernels_are_deterministic_on_processors_and_the_fastest_on_accelerators():
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    with deterministic(1, torch.device("cpu")):
        assert torch.get_deterministic_debug_mode() == 1 and not torch.backends.cudnn.benchmark
    with deterministic(1, torch.device("cuda")):
        assert torch.get_deterministic_debug_mode() == 0 and torch.backends.cudnn.benchmark
    assert (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark) == before
