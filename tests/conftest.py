"""Shared fixtures: where real test videos are, and a small puppet data set."""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # one thread here and in every child: equal bits need equal threads
os.environ["MVNB_RUN_JOBS"] = "1"  # what a test replaces in this process is not replaced in others
ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    config.addinivalue_line("markers", "real: needs the folder of real test videos")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "Folder with real test videos (`MVNB_TEST_DATA`, else `../shared/data` beside the repository)."
    folder = Path(os.environ.get("MVNB_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real test videos: {folder} has no MANIFEST.csv; set MVNB_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def puppets_root(tmp_path_factory) -> Path:
    "A folder of freshly made small puppet sets, one per test session."
    return tmp_path_factory.mktemp("puppets")


@pytest.fixture(scope="session")
def small_store(tmp_path_factory, puppets_root):
    "A store and an outputs folder for a module's tables: no real data, few videos, trainings of one step."

    @contextlib.contextmanager
    def make(name: str, **settings):
        from mvnb import recipes

        folder = tmp_path_factory.mktemp(name)
        part = lambda profile, **changes: {
            p: dataclasses.replace(getattr(profile, p), **changes) for p in ("pretrain", "finetune")
        }
        with pytest.MonkeyPatch.context() as patch:
            for key, where in (
                dict(PATHS_RUNS=folder / "runs", PATHS_OUTPUTS=folder / "outputs", DATA_PUPPETS=puppets_root)
                | settings
            ).items():
                patch.setenv(f"MVNB_{key}", str(folder / where))  # an absolute path stays
            for data in ("UCF101", "HMDB51", "KINETICS400", "MINIKINETICS200", "DIVING48"):
                for kind in ("", "_ANNOTATIONS"):
                    patch.setenv(f"MVNB_DATA_{data}{kind}", str(folder / "nowhere"))
            patch.setattr(
                recipes,
                "SMOKE",
                dataclasses.replace(recipes.SMOKE, **part(recipes.SMOKE, max_steps=1, batch_size=4)),
            )
            patch.setattr(
                recipes,
                "DEMO",
                dataclasses.replace(
                    recipes.DEMO, scale=recipes.SMOKE.scale, **part(recipes.DEMO, batch_size=8)
                ),
            )
            yield folder

    return make


@pytest.fixture
def shell(tmp_path, monkeypatch):
    "Runs cells one after another in an IPython shell of its own, as a kernel would, and gives their names."
    from IPython.core.interactiveshell import InteractiveShell
    from mvnb import pages

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(pages.Parameters, "_opened", False)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()

    def run(*cells):
        for cell in cells:
            shell.run_cell(cell, store_history=True).raise_error()
        return shell.user_ns

    yield run
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


@pytest.fixture
def run_page(shell):
    "Runs a notebook's code, its parameters put after the defaults as papermill does; gives its prose."

    def run(name: str, **parameters) -> str:
        cells = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text())["cells"]
        tagged = [i for i, c in enumerate(cells) if "parameters" in c["metadata"].get("tags", [])]
        assert len(tagged) == 1, f"{name}: one cell has the tag 'parameters'"
        for i, c in enumerate(cells):
            if c["cell_type"] == "code":
                shell("".join(c["source"]))
            if i in tagged:
                shell("\n".join(f"{k} = {v!r}" for k, v in parameters.items()))
        return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")

    return run


@pytest.fixture(scope="session")
def chromium():
    "One browser for all tests (Playwright starts once in a process), or a skip that says what is missing."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no playwright here: pip install -e '.[browser]'")
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
    )
    if path is None:
        pytest.skip("no chromium on this machine (on Debian: apt-get install chromium)")
    with (
        sync_playwright() as play,
        play.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser,
    ):
        yield browser
