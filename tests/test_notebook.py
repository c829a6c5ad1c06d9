"A table's notebook through papermill, and the `mvnb` command around it."

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from mvnb import cli, pages, recipes, runs, tables

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs" / "tables" / "fame_table3_foreground_ratio.ipynb"


@pytest.fixture(scope="module")
def place(tmp_path_factory, puppets_root):
    "A store and an outputs folder for this module; every subprocess and this process use them."
    folder = tmp_path_factory.mktemp("house")
    new = dict(
        MVNB_PATHS_RUNS=folder / "runs", MVNB_PATHS_OUTPUTS=folder / "outputs", MVNB_DATA_PUPPETS=puppets_root
    )
    before = {k: os.environ.get(k) for k in new}
    os.environ.update({k: str(v) for k, v in new.items()})
    for name in ("puppets-u", "puppets-h"):
        recipes.Data(name, scale=recipes.SMOKE.scale).load()
    yield folder
    for k, v in before.items():
        os.environ.pop(k) if v is None else os.environ.update({k: v})


def papermill(notebook, out, *words, cwd):
    "Plain papermill in another process; the kernel is this interpreter's."
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(out),
        "-k",
        "python3",
        "--no-progress-bar",
        *words,
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1"
    }  # smoke tensors are too small for a second thread, which only waits
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


def small_book(path, parameters, code):
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code),
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        path,
    )


def outputs_of(path):
    return [o for c in json.loads(Path(path).read_text())["cells"] for o in c.get("outputs", [])]


def text_of(path):
    return "\n".join(
        "".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs_of(path)
    )


@pytest.fixture(scope="module")
def executed(place):
    "The notebook, run by plain papermill from a folder that has nothing to do with the repository."
    (elsewhere := place / "some where else").mkdir()
    done = papermill(NOTEBOOK, "out.ipynb", "-p", "profile", "smoke", cwd=elsewhere)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in elsewhere.iterdir()] == ["out.ipynb"]
    return elsewhere / "out.ipynb"


def test_papermill_from_any_folder_leaves_every_result(executed, place):
    plan = tables.table("fame", 3).plan("smoke")
    assert not plan.todo and len(plan.runs) == 12
    assert (
        len(list((place / "runs").glob("[0-9a-f]*"))) == 12
    )  # as many trainings as runs: pretrainings were shared
    text = text_of(executed)
    assert "12/12" in text and "ours, smoke profile" in text and "75.8" in text and "not judged" in text
    for (row, column, seed), recipe in plan.cells.items():  # the page shows the stored numbers
        for m in runs.load(recipe.hash).metrics.values():
            assert f"{m['top1']:.1f}" in text
    assert (place / "outputs" / "mine" / "smoke" / "fame_table3_foreground_ratio.png").is_file()


def test_the_executed_page_is_small_and_clean(executed):
    outputs = outputs_of(executed)
    assert executed.stat().st_size < 1.5e6 and sum("image/png" in o.get("data", {}) for o in outputs) == 1
    assert (
        not any("widget" in kind for o in outputs for kind in o.get("data", {}))
        and "widgets" not in json.loads(executed.read_text())["metadata"]
    )
    assert not any(o["output_type"] == "stream" and o["name"] == "stderr" for o in outputs), [
        o for o in outputs if o.get("name") == "stderr"
    ]
    assert "it/s" not in text_of(executed) and "%|" not in text_of(executed)  # no bars


def test_the_tag_is_there_and_cleaning_keeps_it(tmp_path):
    tagged = lambda path: [
        c["source"]
        for c in json.loads(path.read_text())["cells"]
        if "parameters" in c["metadata"].get("tags", [])
    ]
    assert len(tagged(NOTEBOOK)) == 1
    twin = tmp_path / "nbs" / "tables" / NOTEBOOK.name
    twin.parent.mkdir(parents=True)
    twin.write_bytes(NOTEBOOK.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    done = subprocess.run(
        [str(Path(sys.executable).parent / "nbdev-clean"), "--fname", str(twin)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and tagged(twin) == tagged(NOTEBOOK), done.stderr
    defaults = {}
    exec("".join(tagged(NOTEBOOK)[0]), defaults)
    assert {k for k in defaults if not k.startswith("__")} == set(pages.PARAMETERS) and defaults[
        "profile"
    ] == "demo"


def test_papermill_with_an_unknown_parameter_fails(place, tmp_path):
    done = papermill(
        NOTEBOOK, tmp_path / "out.ipynb", "-p", "profile", "smoke", "-p", "sead", "2", cwd=tmp_path
    )
    assert done.returncode != 0 and "unknown parameter 'sead'; did you mean 'seeds'" in done.stderr


def test_papermill_without_the_tag_fails(place, tmp_path):
    book = copy.deepcopy(nbformat.read(NOTEBOOK, 4))
    for cell in book.cells:
        cell.metadata.pop("tags", None)
    nbformat.write(book, tmp_path / "untagged.ipynb")
    done = papermill(
        tmp_path / "untagged.ipynb", tmp_path / "out.ipynb", "-p", "profile", "smoke", cwd=tmp_path
    )
    assert done.returncode != 0 and "lost its tag 'parameters'" in done.stderr


# ---------------------------------------------------------------- the mvnb command


def test_the_command_finds_everything_in_the_store_and_shows_the_table(executed, place, capsys):
    times = {p: p.stat().st_mtime_ns for p in (place / "runs").glob("*/result.json")}
    assert cli.main(["table", "fame", "3", "--profile", "smoke"]) == 0
    said, page = capsys.readouterr(), place / "outputs" / "mine" / "smoke" / NOTEBOOK.name
    assert (
        "75.8" in said.out
        and "ours, smoke profile" in said.out
        and str(page) in said.out
        and "12 of 12 runs were in the store" in said.err
    )
    assert {p: p.stat().st_mtime_ns for p in times} == times
    book = nbformat.read(page, 4)
    nbformat.validate(book)
    assert [c.metadata.get("tags") for c in book.cells if c.metadata] == [
        ["parameters"],
        ["injected-parameters"],
    ]
    assert (
        set(book.metadata) <= {"kernelspec", "language_info"}
        and str(place) not in page.read_text()
        and str(ROOT) not in page.read_text()
    )
    assert {p.name for p in page.parent.iterdir()} == {
        page.name,
        page.with_suffix(".png").name,
        page.with_suffix(".claims.csv").name,
        page.with_suffix(".numbers.csv").name,
    }  # nothing half-written


def test_a_published_page_stands_with_the_committed_ones(executed, place, capsys):
    before = {p: p.read_bytes() for p in (place / "outputs" / "mine").rglob("*") if p.is_file()}
    assert cli.main(["table", "fame", "3", "--profile", "smoke", "--publish"]) == 0
    page = place / "outputs" / "smoke" / NOTEBOOK.name
    assert str(page) in capsys.readouterr().out and "MVNB_RUN_PUBLISH" not in os.environ
    names = {path.name for path in page.parent.iterdir()}
    assert names == {page.with_suffix(end).name for end in (".ipynb", ".png", ".claims.csv", ".numbers.csv")}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_demo_says_how_it_compares(executed, place, capsys):
    "Beside committed numbers that are known, and where there are none."
    words = ["demo", "--profile", "smoke", "--seeds", "1"]
    committed = place / "outputs" / "smoke" / NOTEBOOK.name
    for path in committed.parent.glob("*"):
        path.unlink()
    assert cli.main(words) == 0
    assert f"there is no {committed.with_suffix('.numbers.csv')}" in capsys.readouterr().out
    mine = place / "outputs" / "mine" / "smoke" / NOTEBOOK.name
    committed.parent.mkdir(parents=True, exist_ok=True)
    numbers = pd.read_csv(mine.with_suffix(".numbers.csv"), dtype={"row": str})
    numbers = pd.concat([numbers.assign(seed=seed, value=value) for seed, value in ((0, 40.0), (1, 42.0))])
    numbers.to_csv(committed.with_suffix(".numbers.csv"), index=False)
    claims = pd.read_csv(mine.with_suffix(".claims.csv"), dtype=str, keep_default_na=False)
    claims.loc[0, ["verdict", "p"]] = "holds", "0.001"
    claims.to_csv(committed.with_suffix(".claims.csv"), index=False)
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said.count("41.0 ± 1.4") == 4 * 2 * 2  # rows, columns, tests
    n = len(claims)
    assert f"{n - 1} of {n} verdicts are the same on the committed page." in said
    assert f"- {claims.loc[0, 'claim']} (" in said and "mine not judged, committed holds" in said


def test_commands_leave_a_checkout_as_it_was(place, tmp_path):
    "The demo and a table in a clone: git sees nothing."
    clone = tmp_path / "clone"
    made = subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this is not a git checkout, so there is nothing to clone: {made.stderr.strip()}")
    own = {name: value for name, value in os.environ.items() if not name.startswith("MVNB_PATHS_")}
    own |= dict(PYTHONPATH=str(clone), MVNB_ROOT=str(clone))
    main = "import sys; from mvnb.cli import main; sys.exit(main())"
    for words in (
        ["demo", "--profile", "smoke", "--seeds", "1"],
        ["table", "fame", "3", "--profile", "smoke"],
    ):
        command = [sys.executable, "-c", main, *words]
        done = subprocess.run(command, cwd=clone, env=own, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
        assert str(clone / "outputs" / "mine" / "smoke") in done.stdout
    changes = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True)
    page = clone / "outputs" / "mine" / "smoke" / NOTEBOOK.name
    assert changes.stdout == "" and page.is_file()
    links = re.findall(r"\]\((\.\.[^)#\s]+)", page.read_text())
    assert links and all((page.parent / link).exists() for link in links)


def test_the_end_of_papermill_is_no_proof(executed, place, monkeypatch, capsys):
    "If the notebook ends well but a result is not in the store, the command fails and says which."
    monkeypatch.setattr(cli, "_execute", lambda source, target, values: None)
    assert cli.main(["table", "fame", "3", "--profile", "smoke", "--seeds", "2"]) == 1
    assert "ended without an error, but 12 of 24 results are not in" in capsys.readouterr().err


def test_a_notebook_that_fails_is_told_in_one_sentence_and_kept(place, tmp_path, capsys):
    small_book(tmp_path / "bad.ipynb", "x = 1", "raise ValueError('the lamp is out')")
    with pytest.raises(cli.Refused, match="ValueError: the lamp is out"):
        cli._execute(tmp_path / "bad.ipynb", tmp_path / "out" / "bad.ipynb", {"x": 2})
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["bad.failed.ipynb"]


def test_links_of_an_executed_page_lead_where_those_of_its_notebook_do(tmp_path):
    folder, out = tmp_path / "nbs" / "tables", tmp_path / "outputs" / "demo"
    (tmp_path / "nbs" / "results").mkdir(parents=True)
    (tmp_path / "nbs" / "results" / "claims.ipynb").write_text("{}")
    links = "[a](../results/claims.ipynb#x) [b](other.ipynb) [c](beside.ipynb) [d](https://e.org/f) [g](#h)"
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_markdown_cell(links), nbformat.v4.new_code_cell("x = 'f](b.ipynb)'")]
    out.mkdir(parents=True)
    (out / "beside.ipynb").write_text("{}")
    text, code = [cell.source for cell in cli._links_from(folder, book, out).cells]
    found = re.findall(r"\]\(([^)]+)\)", text)
    assert found == [
        "../../nbs/results/claims.ipynb#x",
        "../../nbs/tables/other.ipynb",
        "beside.ipynb",
        "https://e.org/f",
        "#h",
    ]
    assert (out / found[0].partition("#")[0]).resolve() == tmp_path / "nbs" / "results" / "claims.ipynb"
    assert code == "x = 'f](b.ipynb)'"


def test_a_lesson_is_executed_anew_or_stays_as_it_was(tmp_path):
    new = nbformat.v4
    bars = "from tqdm.auto import tqdm\nfor _ in tqdm(range(2)):\n    print('one')"
    good = new.new_notebook(cells=[new.new_code_cell(bars), new.new_code_cell("1 + 1")])
    bad = new.new_notebook(cells=[new.new_code_cell("2 + 2"), new.new_code_cell("1 / 0")])
    for name, notebook in (("good", good), ("bad", bad)):
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    before = (tmp_path / "bad.ipynb").read_bytes()
    paths = [tmp_path / "good.ipynb", tmp_path / "bad.ipynb"]
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "lessons.py", *paths], capture_output=True, text=True
    )
    assert done.returncode == 1 and "bad.ipynb failed" in done.stderr and "ZeroDivisionError" in done.stderr
    assert (tmp_path / "bad.ipynb").read_bytes() == before
    first, second = nbformat.read(tmp_path / "good.ipynb", 4).cells
    assert [output["text"] for output in first.outputs] == ["one\none\n"]
    assert second.outputs[0]["data"]["text/plain"] == "2"


def test_a_kernel_that_dies_is_told_in_one_sentence(tmp_path):
    small_book(tmp_path / "dies.ipynb", "x = 1", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(cli.Refused, match="ended from outside"):
        cli._execute(tmp_path / "dies.ipynb", tmp_path / "out" / "dies.ipynb", {"x": 2})
    assert not list((tmp_path / "out").iterdir())


def test_the_kernel_is_this_interpreter(tmp_path, monkeypatch):
    "Also when the user has another kernel called python3."
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        json.dumps(
            {"argv": ["/bin/false", "{connection_file}"], "display_name": "other", "language": "python"}
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    small_book(
        tmp_path / "which.ipynb", "python = ''", "import sys\nassert sys.executable == python, sys.executable"
    )
    cli._execute(tmp_path / "which.ipynb", tmp_path / "out.ipynb", {"python": sys.executable})


@pytest.mark.parametrize(
    "words,code,message",
    [
        (["table", "fame", "3", "-p", "sead=2"], 1, "did you mean 'seeds'"),
        (["table", "fame", "3", "-p", "seeds"], 1, "write -p name=value"),
        (["table", "fame", "3", "--profile", "smok"], 1, "did you mean 'smoke'"),
        (["table", "fane", "3"], 1, "did you mean 'fame'"),
        (["plan", "fame", "3", "--data", "ucf11"], 1, "did you mean 'ucf101'"),
        (["table", "fame", "3", "--seeds", "0"], 1, "seeds is '0'"),
        (["data", "check", "ucf1001"], 1, "did you mean 'ucf101'"),
        (["probe", "nowhere.mp4"], 1, "nowhere.mp4"),
        (["data", "make", "puppets-x"], 1, "puppets-x"),
    ],
)
def test_errors_are_sentences(place, words, code, message, capsys):
    assert cli.main(words) == code
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words,code", [(["--help"], 0), (["--version"], 0), ([], 2), (["tabel"], 2), (["table", "fame"], 2)]
)
def test_usage(words, code, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(words)
    said = capsys.readouterr()
    assert exit.value.code == code and ("usage" in said.err if code else "mvnb" in said.out)


def test_plan_runs_and_data(executed, place, capsys):
    assert (
        cli.main(["plan", "fame", "3", "--profile", "smoke"]) == 0
        and "12 runs, 12 stored" in capsys.readouterr().out
    )
    assert cli.main(["runs", "list"]) == 0 and "12 runs in" in capsys.readouterr().out
    assert cli.main(["data", "make", "puppets-u", "--profile", "smoke"]) == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    video = next(folder.rglob("*.mp4"))
    assert cli.main(["probe", str(video)]) == 0
    assert "h264, 96×96" in capsys.readouterr().out


def test_probe_on_real_and_damaged_files(shared_data, capsys):
    good, bad = next((shared_data / "mini").rglob("*.avi")), shared_data / "clips" / "edge" / "corrupted.mp4"
    assert cli.main(["probe", str(good)]) == 0 and "mpeg4, 320×240" in capsys.readouterr().out
    assert cli.main(["probe", str(good), str(bad), "missing.mp4"]) == 1
    said = capsys.readouterr()
    assert good.name in said.out and "missing.mp4" in said.err and "Traceback" not in said.err
