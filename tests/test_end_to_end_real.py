"The table's notebook on real UCF101 videos, end to end at smoke size, through the ordinary UCF101 reader."

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvnb import recipes, tables

NOTEBOOK = Path(__file__).resolve().parent.parent / "nbs" / "tables" / "fame_table3_foreground_ratio.ipynb"
pytestmark = pytest.mark.real


def test_fame_table_3_runs_on_real_videos(shared_data, tmp_path, monkeypatch):
    setting = dict(
        MVNB_DATA_UCF101=shared_data / "mini",
        MVNB_DATA_UCF101_ANNOTATIONS=shared_data / "annotations" / "mini",
        MVNB_PATHS_RUNS=tmp_path / "runs",
        MVNB_PATHS_OUTPUTS=tmp_path / "outputs",
        MVNB_DATA_PUPPETS=tmp_path / "no-puppets",
    )
    for name, value in setting.items():
        monkeypatch.setenv(name, str(value))
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOK),
        "out.ipynb",
        "-k",
        "python3",
        "--no-progress-bar",
        "-p",
        "profile",
        "smoke",
        "-p",
        "data",
        "ucf101",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    plan = tables.table("fame", 3).plan("smoke", data="ucf101")
    assert not plan.todo and len(plan.runs) == 8  # four pretrainings, four fine-tunings, and no HMDB51
    train, test = (
        recipes.training_data(recipes.SMOKE, "ucf101").load(),
        recipes.training_data(recipes.SMOKE, "ucf101", "test").load(),
    )
    groups = lambda index: {p.split("_g")[1][:2] for p in index.paths}
    assert not groups(train) & groups(test) and len(train.classes) == 6

    out = tables.table("fame", 3).run(plan, progress=False)
    for result in out.results.values():
        m = result.metrics["test"]
        assert (
            m["n"] == len(test) == 6 * recipes.SMOKE.test_per_class
            and m["failed"] == []
            and 0 <= m["top1"] <= m["top5"] <= 100
        )
        assert (
            result.meta["data"]["train"] == train.hash
            and result.meta["data"]["test test"] == test.hash
            and result.meta["failed"] == {}
        )
        parent = json.loads((result.folder.parent / result.recipe.parent.hash / "result.json").read_text())
        assert (
            parent["meta"]["data"]["train"] == train.hash
            and math.isfinite(parent["metrics"]["loss"])
            and parent["metrics"]["steps"] == 3
        )
    weights = {
        (result.folder.parent / r.recipe.parent.hash / "weights.safetensors").read_bytes()
        for r in out.results.values()
    }
    assert len(weights) == 4  # each β trained another network

    text = (tmp_path / "out.ipynb").read_text()
    assert "not run" in text and "ucf101" in text and not (tmp_path / "no-puppets").exists()
    assert (tmp_path / "outputs" / "mine" / "smoke" / "fame_table3_foreground_ratio_ucf101.png").is_file()
