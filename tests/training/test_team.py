"""Two processes that train together give what one gives, and share its checkpoint."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ecgportal.errors import TrainingFailed
from tests.training.team_program import facts, learn, train, unlabelled_facts
from training.engine.team import Team

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The answers of two processes that two launchers, as on two hosts, have brought together."""
    folder = tmp_path_factory.mktemp("team")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id",
        "test", "--rdzv-endpoint", place, "--local-addr", "127.0.0.1", "-m", "tests.training.team_program", str(folder),
    ]  # fmt: skip
    hosts = [
        subprocess.Popen(
            launcher, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        told = [host.communicate(timeout=300)[1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(told)[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("kind", ["one", "ensemble"])
def test_two_processes_give_the_result_of_one(two, kind):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = facts(train(kind))
    torch.set_num_threads(threads)
    assert two[0]["told"]["size"] == 2
    for answers in two:
        found = answers[kind]
        assert found["rate"] == alone["rate"] and found["epochs"] == 4
        np.testing.assert_allclose(found["loss"], alone["loss"], rtol=1e-4)
        np.testing.assert_allclose(found["outputs"], alone["outputs"], atol=1e-3)
        for name, tensor in alone["state"].items():
            np.testing.assert_allclose(found["state"][name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)


def test_two_processes_learn_without_labels_what_one_learns(two):
    alone = unlabelled_facts(learn())
    for answers in two:
        np.testing.assert_allclose(answers["unlabelled"]["loss"], alone["loss"], rtol=1e-3)
        np.testing.assert_allclose(answers["unlabelled"]["judged"], alone["judged"], rtol=1e-3)
    assert two[0]["unlabelled"]["hash"] == two[1]["unlabelled"]["hash"]


def test_all_processes_return_the_same_weights_and_the_first_alone_talks(two):
    for kind in ("one", "ensemble", "resumed"):
        assert two[0][kind]["hash"] == two[1][kind]["hash"]
    assert two[0]["told"]["rows"] == 4 and two[0]["told"]["ended"] == 1
    assert two[1]["told"]["rows"] == 0


def test_a_stop_reaches_all_processes_and_the_checkpoint_goes_on_where_it_was(two):
    for answers in two:
        assert answers["stopped"]["reason"] == "interrupted" and answers["stopped"]["epochs"] == 2
        assert answers["resumed"]["resumed"] == 2 and answers["resumed"]["hash"] == answers["one"]["hash"]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_processes_halve_their_batch_together_when_the_memory_of_one_runs_out(two, where):
    for answers in two:
        found = answers[where]
        assert found["reason"] == "finished" and found["epochs"] == 2
        assert any("pieces of 4 records in each process" in note for note in found["notes"])
        # As if all had run out at once: nothing of the attempt that does not count is left.
        assert found["hash"] == answers["every"]["hash"]
    assert two[0][where]["hash"] == two[1][where]["hash"]


def test_a_batch_that_cannot_be_shared_out_is_refused():
    team = Team()
    assert team.alone and team.leads and team.own_rows(5) == slice(0, 5)
    team.size = 4
    with pytest.raises(TrainingFailed, match="too small for 4 processes"):
        team.check_batch(7)
    shares = []
    for team.rank in range(4):
        shares.append(team.own_rows(10))
    assert [s.stop - s.start for s in shares] == [2, 3, 2, 3] and shares[-1].stop == 10


def test_alone_nothing_is_exchanged():
    team, layer = Team(), nn.Linear(2, 1)
    layer(torch.ones(1, 2)).backward()
    before = layer.weight.grad.clone()
    team.sum_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, before)
    values = np.ones((3, 2), np.float32)
    assert team.gathered(np.arange(3), values, 3, torch.device("cpu")) is values
