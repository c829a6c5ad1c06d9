"""A fifth paper is one folder: a toy is put into a copy of the repository, and every part of the house knows it."""

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOY = Path(__file__).resolve().parent / "toy_paper"
COPIED = ("nbs", "mvnb", "docs", "workflow", "pyproject.toml", "settings.ini", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def house(tmp_path_factory, puppets_root):
    "A copy of the repository with the toy's folder in it, exported; and a way to run Python there."
    folder = tmp_path_factory.mktemp("house") / "mvnb"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_build", "_stage")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": ignore} if (ROOT / name).is_dir() else {}))
    (folder / "outputs").mkdir()
    (folder / "outputs" / "demo").symlink_to(ROOT / "outputs" / "demo")
    shutil.copytree(TOY, folder / "nbs" / "papers" / "toy", ignore=ignore)
    own = {key: value for key, value in os.environ.items() if not key.startswith("MVNB_")}
    own |= dict(PYTHONPATH=str(folder), MVNB_DATA_PUPPETS=str(puppets_root), OMP_NUM_THREADS="1")

    def run(*words, **more):
        done = subprocess.run(
            [str(word) for word in words],
            cwd=folder,
            env=own | more,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    run(Path(sys.executable).parent / "nbdev-export")
    run.folder = folder
    return run


def mvnb(house, *words):
    "The command of the copy."
    return house(sys.executable, "-c", "import sys; from mvnb.cli import main; sys.exit(main())", *words)


def python(house, code):
    "A few lines of Python in the copy."
    return house(sys.executable, "-c", code).strip()


def test_the_toy_touches_no_other_file(house):
    "Its folder and nbdev's index are all that differs from the repository."
    for top in ("mvnb", "nbs"):
        files = [
            path
            for path in (house.folder / top).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
        for path in files:
            name = path.relative_to(house.folder)
            if "toy" not in name.parts and name.name != "_modidx.py":
                assert filecmp.cmp(path, ROOT / name, shallow=False), name


def test_its_method_is_known_by_name(house):
    asked = "from mvnb import methods, papers, recipes; print(papers.names(), methods.owner('arrow'), "
    asked += "methods.parameters('arrow'), recipes.paper_of('arrow'))"
    assert python(house, asked).endswith("'toy'] toy {'share': 0.5} toy")


def test_its_table_is_planned_and_in_the_batch(house):
    plan = mvnb(house, "plan", "toy", "--profile", "smoke")
    assert "pretrain" in plan and "arrow on puppets-u" in plan and "toy table 1" in plan
    asked = "from mvnb import batch; print(list(batch.gather('smoke', paper='toy').pages))"
    assert python(house, asked) == "['toy_table1_direction']"


def test_its_table_runs_with_its_verdict(house):
    "By the command, which executes its page; then the page, its picture and its verdicts are there."
    said = mvnb(house, "table", "toy", "1", "--profile", "smoke")
    assert "the arrow beats random weights" in said and "ours, smoke profile" in said and "60.0" in said
    folder = house.folder / "outputs" / "smoke"
    kept = {path.name for path in folder.iterdir()}
    assert kept == {f"toy_table1_direction{suffix}" for suffix in (".ipynb", ".png", ".claims.csv")}
    asked = "from mvnb.claims import scoreboard; board = scoreboard('smoke'); "
    asked += "print(board[board.paper == 'toy'][['claim', 'published gap', 'biased test']].values.tolist())"
    assert python(house, asked) == "[['the arrow beats random weights', '+10.0', 'not judged']]"


def test_its_pages_are_on_the_site(house):
    "Lessons, table and claim; the landing page names it."
    pytest.importorskip("sphinx", reason="the site's packages are not installed: pip install -e '.[docs]'")
    asked = "import sys; sys.path.insert(0, 'docs'); from pages import stage_all; print(stage_all())"
    assert python(house, asked).splitlines()[-1] == "[]"
    stage = house.folder / "docs" / "_stage"
    assert "The arrow of time" in (stage / "tables" / "toy_table1_direction.ipynb").read_text(
        encoding="utf-8"
    )
    assert "the arrow beats random weights" in (stage / "claims.md").read_text(encoding="utf-8")
    lessons = (stage / "library" / "index.md").read_text(encoding="utf-8")
    assert "A toy paper: does a clip run forwards or backwards?" in lessons
    assert "TOY" in (stage / "index.md").read_text(encoding="utf-8")
