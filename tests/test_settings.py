"""Settings: precedence, folders, and the sentences that bad values get."""

import pytest

from mvnb import settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty repository root with its own settings.ini."
    monkeypatch.setenv("MVNB_ROOT", str(tmp_path))
    for key in ("MVNB_DATA_UCF101", "MVNB_RUN_DEVICE", "MVNB_RUN_WORKERS"):
        monkeypatch.delenv(key, raising=False)
    (tmp_path / "settings.ini").write_text(
        "[data]\nucf101 = videos/ucf\nhmdb51 =\n[run]\ndevice = cpu\nworkers = 2\n"
    )
    return tmp_path


def test_precedence(home, monkeypatch):
    assert settings.get("run", "workers") == "2"
    (home / "settings.local.ini").write_text("[run]\nworkers = 3\n")
    assert settings.get("run", "workers") == "3"
    monkeypatch.setenv("MVNB_RUN_WORKERS", "4")
    assert settings.get("run", "workers") == "4"
    assert settings.workers(override=0) == 0


def test_an_empty_value_is_not_set(home, monkeypatch):
    assert settings.data_root("hmdb51") is None and settings.data_root("never_heard_of") is None
    monkeypatch.setenv("MVNB_DATA_UCF101", "")
    assert settings.data_root("ucf101") == home / "videos/ucf"


def test_paths_are_absolute_and_follow_the_root(home, monkeypatch):
    assert settings.data_root("ucf101") == home / "videos/ucf"
    monkeypatch.setenv("MVNB_DATA_UCF101", "/elsewhere/UCF-101")
    assert str(settings.data_root("ucf101")) == "/elsewhere/UCF-101"
    assert settings.runs() == home / "outputs/runs"


def test_an_edit_is_seen(home):
    (home / "settings.ini").write_text("[run]\nworkers = 7\n")
    assert settings.workers() == 7


@pytest.mark.parametrize("value", ["gpu", "tpu:0"])
def test_a_wrong_device_is_refused(home, value):
    with pytest.raises(ValueError, match="auto, cpu or cuda"):
        settings.device(value)


def test_wrong_workers_are_refused(home):
    with pytest.raises(ValueError, match="workers"):
        settings.workers("-1")


def test_a_broken_file_is_named(home):
    (home / "settings.ini").write_text("device = cpu\n")
    with pytest.raises(ValueError, match="settings.ini is not a valid settings file"):
        settings.get("run", "device")


def test_no_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "site" / "mvnb" / "settings.py"))
    with pytest.raises(FileNotFoundError, match="MVNB_ROOT"):
        settings.root()
