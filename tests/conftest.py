"""Shared fixtures: where real test videos are, and a small puppet data set."""
import os
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
