"""MCL in two processes: DDP averages gradients that were differentiated twice, and the queue is one and the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    away = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {k: v for k, v in os.environ.items() if k not in away} | {"OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("mcl_ddp.py"))
    pipes = dict(env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    words = [sys.executable, script, str(folder), str(folder / "meet")]
    processes = [subprocess.Popen([*words, str(rank)], **pipes) for rank in (0, 1)]
    try:
        outs = [p.communicate(timeout=240)[0] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outs)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("objective", ["nce", "seco"])
def test_gradients_are_the_mean_over_processes(ranks, objective):
    "Of two accumulated batches each, and alike on both."
    for name, value in ranks[0][objective]["ddp"].items():
        assert value.equal(ranks[1][objective]["ddp"][name]), name
        by_hand = ranks[0][objective]["by_hand"][name]
        torch.testing.assert_close(value, by_hand, rtol=1e-3, atol=1e-6, msg=name)
        assert value.any() or name.endswith("bias"), name


@pytest.mark.parametrize("objective, keys", [("nce", 1), ("seco", 3)])
def test_keys_of_both_processes_enter_the_queue(ranks, objective, keys):
    first, second = (rank[objective] for rank in ranks)
    assert first["queue"].equal(second["queue"])
    assert first["pointer"].item() == second["pointer"].item() == keys * 2 * 2 * 3 % 24
