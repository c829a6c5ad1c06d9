"""MoCo in two processes: keys come home from shuffled batch norm, and the queue is one and the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    env = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    run = lambda rank: subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("methods_ddp.py")),
            str(folder),
            str(folder / "meet"),
            str(rank),
        ],
        env={**env, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes = [run(0), run(1)]
    try:
        outs = [p.communicate(timeout=240)[0] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outs)
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in (0, 1)]


pytestmark = pytest.mark.ddp


def test_shuffling_mixes_the_processes_and_brings_keys_home(ranks):
    whole = torch.cat([r["x"] for r in ranks])
    encoded = torch.cat([r["seen"] for r in ranks])
    assert sorted(encoded.flatten().tolist()) == whole.flatten().tolist()
    assert any((r["seen"] >= 100).any() and (r["seen"] < 100).any() for r in ranks)
    for r in ranks:
        assert torch.equal(r["keys"], 2 * r["x"]) and torch.equal(r["gathered"], whole)


def test_queue_pointer_and_weights_agree(ranks):
    for a, b in zip(ranks[0]["queues"], ranks[1]["queues"]):
        assert torch.equal(a, b)
    assert ranks[0]["pointer"].item() == ranks[1]["pointer"].item() == 3 * 2 * 10 % 24
    for name, value in ranks[0]["weights"].items():
        assert torch.equal(value, ranks[1]["weights"][name]), name


def test_keys_of_both_processes_enter_and_losses_are_their_own(ranks):
    first = ranks[0]["queues"][0]
    assert len(torch.unique(first[:20], dim=0)) == 20  # two views of ten videos
    torch.testing.assert_close(first.norm(dim=1), torch.ones(24))
    assert ranks[0]["losses"] != ranks[1]["losses"]
