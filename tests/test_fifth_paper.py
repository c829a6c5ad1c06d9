"""A fifth paper is one folder: a toy is put into a copy of the repository, and every part of the house knows it."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOY = Path(__file__).resolve().parent / "toy_paper"
FOLDERS = ("nbs", "mvnb", "docs", "workflow")
FILES = ("pyproject.toml", "settings.ini", "constraints.txt", "README.md", "LICENSE", "CITATION.cff")


def contents(folder):
    "Relative name → digest of every file of the notebooks and the library."
    files = [path for top in ("nbs", "mvnb") for path in (folder / top).rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def house(tmp_path_factory, puppets_root):
    "A copy of the repository with the toy's folder in it, exported; and a way to run Python there."
    folder = tmp_path_factory.mktemp("house") / "mvnb"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_build", "_stage")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "demo").symlink_to(ROOT / "outputs" / "demo")
    before = contents(folder)
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
    run.before = before
    return run


def mvnb(house, *words):
    "The command of the copy."
    return house(sys.executable, "-c", "import sys; from mvnb.cli import main; sys.exit(main())", *words)


def python(house, code):
    "A few lines of Python in the copy."
    return house(sys.executable, "-c", code).strip()


def test_the_toy_touches_no_other_file(house):
    "What it adds or changes in the repository: its folders, and nbdev's index."
    now = contents(house.folder)
    changed = {name for name in now.keys() | house.before.keys() if now.get(name) != house.before.get(name)}
    assert changed and {name for name in changed if "papers/toy/" not in name} == {"mvnb/_modidx.py"}


def test_its_method_is_known_by_name(house):
    asked = "from mvnb import methods, papers, recipes; print(papers.names(), methods.owner('arrow'), "
    asked += "methods.parameters('arrow'), recipes.paper_of('arrow'))"
    assert python(house, asked).endswith("'toy'] toy {'share': 0.5} toy")


def test_its_table_is_planned_and_in_the_batch(house):
    plan = mvnb(house, "plan", "toy", "--profile", "smoke")
    assert "pretrain" in plan and "arrow on puppets-u" in plan and "toy table 1" in plan
    asked = "from mvnb import batch; print(list(batch.gather('smoke', paper='toy').pages))"
    assert python(house, asked) == "['toy_table1_direction']"


SUFFIXES = (".ipynb", ".png", ".claims.csv", ".numbers.csv")  # of the files of a page


def test_its_table_runs_with_its_verdict(house):
    "By the command, which executes its page; then the page, its picture and its verdicts are there."
    said = mvnb(house, "table", "toy", "1", "--profile", "smoke")
    assert "the arrow beats random weights" in said and "ours, smoke profile" in said and "60.0" in said
    folder = house.folder / "outputs" / "mine" / "smoke"
    kept = {path.name for path in folder.iterdir()}
    assert kept == {f"toy_table1_direction{suffix}" for suffix in SUFFIXES}
    asked = "from mvnb.claims import scoreboard; board = scoreboard('smoke', source='mine'); "
    asked += "print(board[board.paper == 'toy'][['claim', 'published gap', 'biased test']].values.tolist())"
    assert python(house, asked) == "[['the arrow beats random weights', '+10.0', 'not judged']]"


def test_its_pages_are_on_the_site(house):
    "Lessons, table and claim; the landing page names it."
    pytest.importorskip("sphinx", reason="the site's packages are not installed: pip install -e '.[docs]'")
    asked = "import sys; sys.path.insert(0, 'docs'); from pages import stage_all; print(stage_all())"
    assert python(house, asked).splitlines()[-1] == "[]"
    stage = house.folder / "docs" / "_stage"
    assert "the arrow of time" in (stage / "tables" / "toy_table1_direction.ipynb").read_text(
        encoding="utf-8"
    )
    assert "the arrow beats random weights" in (stage / "claims.md").read_text(encoding="utf-8")
    lessons = (stage / "library" / "index.md").read_text(encoding="utf-8")
    assert "A toy paper: does a clip run forwards or backwards?" in lessons
    assert "TOY" in (stage / "index.md").read_text(encoding="utf-8")
