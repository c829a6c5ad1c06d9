"""MoCo in two processes: keys come home from shuffled batch norm, and the queue is one and the same."""

import pytest
import torch
from processes import two_processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return two_processes("methods_ddp.py", tmp_path_factory.mktemp("ddp"))


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
