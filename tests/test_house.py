"""The house itself: notebooks and library agree, parameters cells stay, stored outputs are small."""

import ast
import filecmp
import json
import os
import re
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


# ---------------------------------------------------------------- floors and rooms

sys.path.insert(0, str(ROOT / "docs"))
import house  # noqa: E402

ROOMS = house.rooms(ROOT)
LOOK_AHEAD = {
    ("tables", "outcomes"),  # a table's run
    ("outcomes", "claims"),  # an outcome's claims
    ("masks", "tokens"),  # token masks are masks: their names are to be had there
}
PAPERS = ("fame", "mac", "mgm", "mcl")
NAMED = re.compile(rf"\b({'|'.join(PAPERS)})\b", re.I)


def imported(module):
    "Rooms that a module imports, wherever in it."
    path = ROOT / "mvnb" / Path(*module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    package = f"mvnb.{module}" if path.name == "__init__.py" else f"mvnb.{module}".rpartition(".")[0]
    known, found = {room.module for room in ROOMS}, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("mvnb.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            if base == "mvnb" or base.startswith("mvnb."):
                base = base.removeprefix("mvnb").removeprefix(".")
                names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
                found |= {name if name in known else base for name in names}
    return found & known


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.module)
def test_a_room_imports_only_rooms_below_it(room):
    order = [other.module for other in ROOMS]
    for other in imported(room.module) - {"papers"}:
        assert (room.module, other) in LOOK_AHEAD or order.index(other) < order.index(room.module), (
            f"{room.module} imports {other}, which stands above it"
        )
        if not room.paper:
            assert not other.startswith("papers."), f"{room.module} imports a paper: {other}"


def constants(tree):
    "Texts in a module's code, docstrings aside."
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("room", [r for r in ROOMS if not r.paper], ids=lambda room: room.module)
def test_nothing_outside_papers_names_a_paper(room):
    path = ROOT / "mvnb" / Path(*room.module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    for line, text in constants(ast.parse(path.read_text(encoding="utf-8"))):
        assert not NAMED.search(text), f"{path.name}, line {line}: {text!r}"


def test_every_module_has_a_room_and_every_floor_is_drawn():
    files = {p.relative_to(ROOT / "mvnb") for p in (ROOT / "mvnb").rglob("*.py")}
    files = {p for p in files if "__pycache__" not in p.parts and p.name not in ("_modidx.py",)}
    modules = {".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in files}
    empty = {"__init__", *(f"papers.{name}" for name in {room.paper for room in ROOMS if room.paper})}
    assert modules - empty == {room.module for room in ROOMS}
    drawn = house.picture(ROOT, lambda path: path.name)
    assert all(f"<code>{room.module}</code>" in drawn and room.line for room in ROOMS)


@pytest.mark.parametrize("words", ["format --check", "check"])
def test_code_is_formatted(words):
    "The formatter of pyproject.toml changes nothing, and its checker finds nothing."
    tool = [sys.executable, "-m", "ruff", *words.split(), "nbs", "tests", "docs", "bench", "faults"]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_library_opens_where_posix_modules_are_missing():
    "As on Windows, pretended: no fcntl, no resource, no SIGHUP."
    code = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[name] = None  # importing it is an ImportError
del signal.SIGHUP, os.sched_getaffinity
from mvnb import batch, boxes, cli, explore, figures, own, settings
assert settings.peak_memory() == 0 and settings.cores() >= 1
with settings.stopped_by_sigterm():
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
