"""MCL in two processes: DDP averages gradients differentiated twice, and both have the same queue."""

import pytest
import torch
from processes import two_processes

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return two_processes("mcl_ddp.py", tmp_path_factory.mktemp("ddp"))


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
