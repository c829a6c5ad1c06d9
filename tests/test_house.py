"""The house itself: notebooks and library agree, table notebooks keep their parameters cell, stored outputs stay small."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
TABLES = [p for p in NOTEBOOKS if p.parent.name in ("tables", "figures")]


def _run(name, folder):
    tool = Path(sys.executable).parent / name
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([str(tool)], cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{name} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def _changed(before, after, folders, suffixes):
    "Relative names of the files that differ between two copies, missing ones included."
    names = lambda top: {
        p.relative_to(top) for f in folders for p in (top / f).rglob("*") if p.suffix in suffixes
    }
    old, new = names(before), names(after)
    return sorted(
        str(n)
        for n in old | new
        if n not in old or n not in new or not filecmp.cmp(before / n, after / n, shallow=False)
    )


@pytest.fixture
def copy(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("nbs", "mvnb"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    for name in ("pyproject.toml", "settings.ini", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_export_changes_nothing(copy):
    "The committed library is what the notebooks export."
    _run("nbdev-export", copy)
    assert _changed(ROOT, copy, ["mvnb"], {".py"}) == [], "run nbdev-export and commit what it writes"


def test_clean_changes_nothing(copy):
    "The committed notebooks are clean, and cleaning keeps the parameters tag."
    _run("nbdev-clean", copy)
    assert _changed(ROOT, copy, ["nbs"], {".ipynb"}) == [], "run nbdev-clean and commit what it writes"


def test_export_notices_a_disagreement(copy):
    "The check above can fail: a library edited by hand is found."
    path = copy / "mvnb" / "settings.py"
    path.write_text(path.read_text() + "\nedited = True\n")
    (edited := copy.parent / "edited").mkdir()
    for folder in ("nbs", "mvnb"):
        shutil.copytree(copy / folder, edited / folder)
    _run("nbdev-export", copy)
    assert _changed(edited, copy, ["mvnb"], {".py"}) == ["mvnb/settings.py"]


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_one_parameters_cell(path):
    cells = json.loads(path.read_text())["cells"]
    assert sum("parameters" in c["metadata"].get("tags", []) for c in cells) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_outputs_are_small(path):
    cells = json.loads(path.read_text())["cells"]
    size = sum(len(json.dumps(c.get("outputs", []))) for c in cells)
    assert size < 1.5e6, f"{path.name} stores {size / 1e6:.1f} MB of outputs; 1.5 MB is the limit"
    assert not any(o["output_type"] == "error" for c in cells for o in c.get("outputs", []))


def test_outputs_folder_is_small():
    tracked = subprocess.run(["git", "ls-files", "-z", "outputs"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout, so there is no list of committed outputs")
    files = [ROOT / name for name in tracked.stdout.split("\0") if name]
    assert sum(f.stat().st_size for f in files if f.exists()) < 40e6


def test_nbdev_is_pinned_exactly():
    assert '"nbdev==' in (ROOT / "pyproject.toml").read_text()
    assert 'allowed_cell_metadata_keys = ["tags"]' in (ROOT / "pyproject.toml").read_text()
