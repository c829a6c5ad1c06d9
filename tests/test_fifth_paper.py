"""A fifth paper is one folder: docs/howto_fifth_paper.md is followed to the letter in a copy."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.timeout(900)  # the page is followed once, two minutes unless the machine is busy
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("nbs", "mvnb", "docs", "workflow")
FILES = ("pyproject.toml", "settings.ini", "constraints.txt", "README.md", "LICENSE", "CITATION.cff")


def sections(page):
    "Heading → text of a page's numbered sections, and of what stands before them under ''."
    first, *rest = re.split(r"^## (?=\d)", page, flags=re.M)
    return {"": first} | dict(section.split("\n", 1) for section in rest)


def notebook(section):
    "The notebook that a section shows: each block of text or Python is a cell."
    cells, end = [], 0
    for block in re.finditer(r"^```(markdown|python)\n(.*?)\n```$", section, re.M | re.S):
        tags = ["parameters"] if "the tag `parameters`" in section[end : block.start()] else []
        make = nbformat.v4.new_markdown_cell if block[1] == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(block[2], metadata={"tags": tags} if tags else {}))
        end = block.end()
    spec = dict(name="python3", display_name="Python 3 (ipykernel)", language="python")
    return nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=spec))


def commands(section):
    "The lines that a section says to type."
    return "\n".join(re.findall(r"^```sh\n(.*?)\n```$", section, re.M | re.S))


def contents(folder):
    "Relative name → digest of every file of the notebooks and the library."
    files = [path for top in ("nbs", "mvnb") for path in (folder / top).rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def house(tmp_path_factory, puppets_root):
    "A copy of the repository in which the page was followed, its demo aside; and a way to run commands."
    folder = tmp_path_factory.mktemp("house") / "mvnb"
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_build", "_stage")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "demo").symlink_to(ROOT / "outputs" / "demo")
    (folder / ".venv").symlink_to(sys.prefix)
    before = contents(folder)
    own = {key: value for key, value in os.environ.items() if not key.startswith("MVNB_")}
    own |= dict(PYTHONPATH=str(folder), MVNB_DATA_PUPPETS=str(puppets_root), OMP_NUM_THREADS="1")

    def run(script):
        "What a shell says to some lines; its first failure is the test's."
        script = f"set -e\nsource .venv/bin/activate\n{script}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=own, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    page = sections((ROOT / "docs" / "howto_fifth_paper.md").read_text(encoding="utf-8"))
    run(commands(page.pop("")))
    for heading, section in page.items():
        if path := re.search(r"`(nbs/\S+\.ipynb)`", heading):
            nbformat.write(notebook(section), folder / path[1])
    run.said = "".join(
        run(commands(section)) for heading, section in page.items() if "verdict" not in heading
    )
    run.folder = folder
    run.before = before
    return run


def python(house, code):
    "What a few lines of Python print in the copy."
    return house(f"python -c {shlex.quote(code)}").strip()


def test_the_toy_touches_no_other_file(house):
    "What it adds or changes in the repository: its folders, and nbdev's index."
    now = contents(house.folder)
    changed = {name for name in now.keys() | house.before.keys() if now.get(name) != house.before.get(name)}
    assert changed and {name for name in changed if "papers/toy/" not in name} == {"mvnb/_modidx.py"}


def test_its_method_is_known_by_name(house):
    asked = "from mvnb import methods, papers, recipes; print(papers.names(), methods.owner('arrow'), "
    asked += "methods.parameters('arrow'), recipes.paper_of('arrow'))"
    assert python(house, asked).endswith("'toy'] toy {'share': 0.5} toy")


def test_the_first_lesson_runs(house):
    "The method's notebook alone: its loss is near that of a coin."
    path = house.folder / "nbs" / "papers" / "toy" / "1_method.ipynb"
    out = house.folder / "outputs" / "lesson.ipynb"
    house(f"papermill {path} {out}")
    (last,) = nbformat.read(out, 4).cells[-1].outputs
    assert 0.4 < float(re.search(r"tensor\(([\d.]+)", last["data"]["text/plain"])[1]) < 1.2


def test_its_table_is_planned_and_in_the_batch(house):
    assert "arrow on puppets-u" in house.said and "3 runs for 1 notebook, smoke profile" in house.said
    asked = "from mvnb import batch; print(list(batch.gather('smoke', paper='toy').pages))"
    assert python(house, asked) == "['toy_table1_direction']"


SUFFIXES = (".ipynb", ".png", ".claims.csv", ".numbers.csv")  # of the files of a page


def test_its_table_runs_and_its_claim_is_in_the_scoreboard(house):
    "By the page's commands: the notebook executed, its picture and its verdicts stored, and shown."
    assert "ours, smoke profile" in house.said and "60.0" in house.said
    folder = house.folder / "outputs" / "mine" / "smoke"
    assert {path.name for path in folder.iterdir()} == {f"toy_table1_direction{s}" for s in SUFFIXES}
    last = house.said[house.said.rindex("paper ") :]  # what the scoreboard printed
    told = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in last.splitlines() if "  " in line)
    assert told["claim"] == "the arrow beats random weights" and told["published gap"] == "+10.0"
    assert told["biased test"] == told["unbiased test"] == "not judged"


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
    home = (stage / "index.md").read_text(encoding="utf-8")
    assert "### Arrow\n" in home and "[Toy, Table 1: the arrow of time](tables/toy_table1" in home
