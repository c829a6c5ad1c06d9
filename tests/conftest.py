"""Shared fixtures: where real test videos are, and a small puppet data set."""
import os
import shutil
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # one thread here and in every child: equal bits need equal threads
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
def chromium():
    "One browser for all tests (Playwright starts once in a process), or a skip that says what is missing."
    try: from playwright.sync_api import sync_playwright
    except ImportError: pytest.skip("no playwright here: pip install -e '.[browser]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None: pytest.skip("no chromium on this machine (on Debian: apt-get install chromium)")
    with sync_playwright() as play, play.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser: yield browser
