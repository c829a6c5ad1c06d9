"Two processes started by torchrun against one process with the same global batch."

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from train_toys import Evaluated, Method, Toy  # noqa: E402

from mvnb.protocols import extract  # noqa: E402
from mvnb.train import Schedule, fit  # noqa: E402

pytestmark = pytest.mark.ddp
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        HERE / "train_ddp.py",
        folder,
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    method = Method(dropout=0)
    done = fit(
        method,
        Toy(),
        Schedule(epochs=3, batch_size=8, lr=0.05, clip_grad=1.0),
        folder=tmp_path_factory.mktemp("alone"),
        device="cpu",
        progress=False,
    )
    return method, done


@pytest.mark.parametrize("name", ["plain", "accumulated"])
def test_two_processes_equal_one(found, alone, name):
    method, done = alone
    for rank in found:
        assert rank[name]["losses"] == pytest.approx(done.losses, rel=1e-4)
        assert rank[name]["fit"]["metrics"]["acc"] == pytest.approx(done.metrics["acc"])
        for key, weight in method.named_parameters():
            torch.testing.assert_close(rank[name]["weights"][key], weight.detach(), rtol=1e-4, atol=1e-6)
    assert found[0][name]["fit"]["effective_batch"] == done.effective_batch == 8


def test_resume_of_two_processes_changes_no_bit(found):
    for rank in found:
        assert rank["cut"]["fit"]["resumed"] == 5 and rank["cut"]["losses"] == rank["whole"]["losses"]
        assert all(torch.equal(v, rank["cut"]["weights"][k]) for k, v in rank["whole"]["weights"].items())


def test_processes_drop_different_units(found):
    assert found[0]["whole"]["losses"] == found[1]["whole"]["losses"]  # the mean over processes, so the same
    assert found[0]["whole"]["losses"] != found[0]["plain"]["losses"]


def test_a_bad_loss_in_one_process_stops_both(found, folder):
    assert [rank["broken"] for rank in found] == [0, 0]
    assert not (folder / "broken" / "checkpoint.pt").exists()


def test_moco_keeps_its_processes_alike(found):
    a, b = (rank["moco"]["weights"] for rank in found)
    for key in a:
        if "running" not in key:
            assert torch.equal(a[key], b[key]), key
    (pointer,) = [value.item() for key, value in a.items() if key.split(".")[-1] == "pointer"]
    assert pointer == (8 * 8 * 2) % 24
    assert all(0 < loss < 10 for loss in found[0]["moco"]["losses"]) and len(found[0]["moco"]["losses"]) == 8
    assert found[0]["moco"]["fit"]["failed"] == {"seen by 0": "damaged", "seen by 1": "damaged"}


def test_buffers_that_are_alike_are_not_sent_around(found):
    for rank, process in enumerate(found):
        assert process["parts"]["exempt"] == ["part.inner.kept", "part.kept"]
        for name in ("part", "part.inner"):
            assert process["parts"]["weights"][f"{name}.kept"] == rank  # left alone
            assert process["parts"]["weights"][f"{name}.sent"] == 0  # process 0's


def test_evaluation_is_shared_out_and_put_together(found):
    expected = extract(
        Method().backbone, Evaluated(11, broken=(3,)), "cpu", batch_size=4, pool="features", progress=False
    )
    for rank in found:
        torch.testing.assert_close(rank["features"], expected.values, rtol=1e-5, atol=1e-6)
    assert expected.failed == ["a/3.avi"] and not expected.values[3].any() and expected.values[4].any()
