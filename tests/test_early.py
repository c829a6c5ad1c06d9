"""What the command line answers at once: without PyTorch, and from a wheel without the repository."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mvnb import cli, records, settings

ROOT = Path(__file__).resolve().parent.parent
ALONE = """import sys
from mvnb import cli
code = cli.main(sys.argv[1:])
assert "torch" not in sys.modules, "PyTorch was loaded"
sys.exit(code)"""


def called(*words, folder=ROOT, **environment):
    "A command in a process of its own: what it printed and said, and its code."
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MVNB_ROOT": str(ROOT), **environment},
    )
    assert "PyTorch was loaded" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("table fame 33", "no table 33 of 'fame' (there are: 1, 2, 3, 4, 5, 6)"),
        ("table fam 3", "no paper 'fam'; did you mean 'fame'?"),
        ("figure mcll 4", "no paper 'mcll'; did you mean 'mcl'?"),
        ("plan mac s9", "no table s9 of 'mac'"),
        ("batch mgn", "no paper 'mgn'; did you mean 'mgm'?"),
        ("pretrain moko nowhere", "no method called 'moko'; did you mean 'moco'?"),
        ("table fame 3 --profile dmeo", "profile is 'dmeo'; did you mean 'demo'?"),
        ("demo -p sedes=3", "unknown parameter 'sedes'; did you mean 'seeds'?"),
        ("table fame 3 --data hmdb15", "no data set 'hmdb15'; did you mean 'hmdb51'?"),
        ("data check ucf", "no data set 'ucf'; did you mean 'ucf101'?"),
        ("table fame 1 --backbone r3d_18", "--backbone says which network an --encoder is"),
        ("pretrain mac nowhere --seed -1", "--seed -1: use 0 or more"),
        ("batch fame --cores 0", "--cores 0: use 1 or more"),
        ("data check ucf101 --limit -3", "--limit -3: use 1 or more"),
    ],
)
def test_wrong_names_are_refused_before_pytorch_is_loaded(words, said):
    done = called(*words.split())
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_names_that_are_read_are_those_that_are_known():
    from mvnb import methods, tables

    assert sorted(cli._tables_here()) == sorted((d.paper, d.number) for d in tables.definitions())
    assert cli._methods_here() == methods.names()


def stored(folder: Path, **more):
    "A store with one sound record."
    record = dict(
        hash="0123456789abcdef",
        recipe={"data": {"name": "ucf101"}},
        metrics={"unbiased": {"top1": 12.5}, "loss": 3.0},
        meta=dict(finished="2026-01-02T03:04:05.000+00:00", profile="demo", seconds=7.0),
        files={},
        **more,
    )
    (folder / record["hash"]).mkdir()
    text = json.dumps(record | {"checksum": records.checksum(record)})
    (folder / record["hash"] / records.RESULT).write_text(text)


def test_stored_runs_are_listed_without_pytorch(tmp_path):
    stored(tmp_path, about="linear on ucf101 from somewhere")
    done = called("runs", "list", MVNB_PATHS_RUNS=str(tmp_path))
    assert done.returncode == 0
    assert "0123456789abcdef  2026-01-02T03:04" in done.stdout and "unbiased 12.5" in done.stdout
    assert "linear on ucf101 from somewhere" in done.stdout and "1 run in" in done.stdout


def test_rooms_that_only_look_into_the_store_load_little():
    "Most of the time of a stored run would be their imports; torchvision brings PyTorch's compiler."
    rooms = "from mvnb import methods, papers, recipes, runs; methods.names()"
    unused = {"torchvision", "torch._dynamo", "pandas", "matplotlib"}
    check = f"import sys; sys.exit(bool({unused} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{rooms}; {check}"], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize("change", ['"top1": 99.5', '"top1": NaN'])
def test_a_changed_record_is_damaged(tmp_path, change):
    stored(tmp_path)
    path = tmp_path / "0123456789abcdef" / records.RESULT
    path.write_text(path.read_text().replace('"top1": 12.5', change))
    with pytest.raises(records.Damaged):
        records.parsed(path.parent)
    done = called("runs", "list", MVNB_PATHS_RUNS=str(tmp_path))
    assert done.returncode == 0 and "0 runs in" in done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "A folder with the installed package alone."
    source, site = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mvnb", source / "mvnb", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (packed,) = source.glob("*.whl")
    with zipfile.ZipFile(packed) as file:
        file.extractall(site)
    return site


def from_wheel(site: Path, folder: Path, *words):
    "A command of the installed package in an empty folder."
    own = {name: value for name, value in os.environ.items() if not name.startswith("MVNB_")}
    return subprocess.run(
        [sys.executable, "-c", "import sys; from mvnb.cli import main; sys.exit(main())", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**own, "PYTHONPATH": str(site)},
    )


def test_without_the_repository_commands_work_or_say_what_they_need(wheel, tmp_path):
    made = from_wheel(wheel, tmp_path, "data", "make", "puppets-d", "--profile", "smoke")
    assert made.returncode == 0, made.stderr
    assert any((tmp_path / "outputs" / "data" / "puppets").rglob("*.mp4"))
    for words in ("demo", "table fame 3", "figure mac 3", "batch mac"):
        done = from_wheel(wheel, tmp_path, *words.split())
        assert done.returncode == 1 and "run it in a clone of the repository" in done.stderr, done.stderr
    listed = from_wheel(wheel, tmp_path, "runs", "list")
    assert listed.returncode == 0 and f"0 runs in {tmp_path / 'outputs' / 'runs'}" in listed.stdout


def test_without_the_repository_tables_are_planned(wheel, tmp_path):
    done = from_wheel(wheel, tmp_path, "plan", "fame", "3")
    assert done.returncode == 0, done.stderr
    assert "FAME table 3, demo profile" in done.stdout


def test_the_wheel_holds_what_the_package_reads(wheel):
    there = {path.name for path in (wheel / "mvnb" / "published").glob("*.csv")}
    assert there == {path.name for path in (ROOT / "mvnb" / "published").glob("*.csv")} and there
    assert (wheel / "mvnb" / "py.typed").is_file()
    settings.root()  # is the repository here, and nothing of it is in the wheel
    assert not list(wheel.rglob("*.ipynb")) and not list(wheel.rglob("settings.ini"))


def test_a_reader_that_leaves_is_no_error(tmp_path):
    stored(tmp_path, about="linear on ucf101 from somewhere")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", ALONE, "runs", "list"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MVNB_PATHS_RUNS": str(tmp_path)},
        )
    finally:
        os.close(writing)
    assert done.returncode == 1 and done.stderr == ""


def test_a_broken_pipe_elsewhere_is_told(monkeypatch, capsys):
    def broken():
        raise BrokenPipeError(32, "a loader has gone")

    monkeypatch.setattr(records, "stored", broken)
    assert cli.main(["runs", "list"]) == 1 and "a loader has gone" in capsys.readouterr().err


def test_an_error_on_the_way_out_of_a_stop_is_the_stop(monkeypatch, capsys):
    "A loader's worker got the same signal, and says so while its parent cleans up."
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def stopped(args):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    broken = lambda args: 1 / 0
    for run, code in ((stopped, 130), (broken, None)):
        command = next(command for command in cli.COMMANDS if command.name == "probe")
        monkeypatch.setattr(cli, "COMMANDS", (dataclasses.replace(command, run=run),))
        if code is None:
            with pytest.raises(ZeroDivisionError):
                cli.main(["probe", "x.avi"])
        else:
            assert cli.main(["probe", "x.avi"]) == code
            assert capsys.readouterr().err.strip() == "mvnb: stopped"
