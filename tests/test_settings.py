"""Settings: precedence, folders, and the sentences that bad values get."""

import os

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
    with pytest.raises(ValueError, match="auto, cpu, cuda or mps"):
        settings.device(value)


def test_wrong_workers_are_refused(home):
    with pytest.raises(ValueError, match="workers"):
        settings.workers("-1")


def test_a_refusal_says_where_a_setting_stands(home, monkeypatch):
    monkeypatch.delenv("MVNB_RUN_WORKERS", raising=False)
    (home / "settings.local.ini").write_text("[run]\nworkers = many\n")
    with pytest.raises(ValueError, match=r"^workers in \[run\] of settings.local.ini is 'many': use auto or"):
        settings.workers()
    with pytest.raises(ValueError, match="^workers is 'some': use auto or"):
        settings.workers("some")
    monkeypatch.setenv("MVNB_RUN_WORKERS", "few")
    with pytest.raises(ValueError, match="^MVNB_RUN_WORKERS is 'few': use auto or"):
        settings.workers()


def test_threads_and_jobs(home, monkeypatch):
    for name in ("MVNB_RUN_THREADS", "MVNB_RUN_JOBS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "cores", lambda: 6)
    assert settings.threads() == 1 and settings.jobs() == 6 and settings.jobs(auto=1) == 1
    monkeypatch.setenv("MVNB_RUN_THREADS", "4")
    assert settings.jobs() == 1 and settings.jobs(override=3) == 3
    monkeypatch.setenv("MVNB_RUN_JOBS", "2")
    assert settings.jobs() == 2 and settings.jobs(auto=1) == 2
    monkeypatch.setenv("RANK", "0")  # torchrun's processes share each run
    assert settings.jobs() == 1
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("MVNB_RUN_JOBS")
    monkeypatch.setattr(settings, "device", lambda override=None: "cuda")
    assert settings.jobs() == 1
    for key in ("threads", "jobs"):
        monkeypatch.setenv(f"MVNB_RUN_{key.upper()}", "0")
        with pytest.raises(ValueError, match=f"^MVNB_RUN_{key.upper()} is '0': use "):
            getattr(settings, key)()


def test_pages_stand_apart_unless_published(home, monkeypatch):
    monkeypatch.delenv("MVNB_PATHS_OUTPUTS", raising=False)
    assert settings.pages() == home / "outputs" / "mine"
    monkeypatch.setenv("MVNB_RUN_PUBLISH", "yes")
    assert settings.pages() == settings.outputs() == home / "outputs"
    monkeypatch.setenv("MVNB_RUN_PUBLISH", "1")
    with pytest.raises(ValueError, match="use yes or no"):
        settings.pages()


def test_a_broken_file_is_named(home):
    (home / "settings.ini").write_text("device = cpu\n")
    with pytest.raises(ValueError, match="settings.ini is not a valid settings file"):
        settings.get("run", "device")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "The package outside of any repository, and an empty current folder."
    for name in [name for name in os.environ if name.startswith("MVNB_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "site" / "mvnb" / "settings.py"))
    return tmp_path


def test_without_a_repository_everything_has_its_default_below_the_current_folder(nowhere, monkeypatch):
    assert settings.root() == nowhere and not list(nowhere.iterdir())
    assert settings.runs() == nowhere / "outputs/runs" and settings.cache() == nowhere / "outputs/cache"
    assert settings.data_root("puppets") == nowhere / "outputs/data/puppets"
    assert settings.data_root("ucf101") is None and settings.threads() == 1 and not settings.publish()
    monkeypatch.setenv("MVNB_ROOT", str(nowhere / "elsewhere"))
    assert settings.outputs() == nowhere / "elsewhere" / "outputs"


def test_a_local_file_alone_is_found_from_below(nowhere, monkeypatch):
    (nowhere / "settings.local.ini").write_text("[data]\nucf101 = videos\n")
    (nowhere / "work").mkdir()
    monkeypatch.chdir(nowhere / "work")
    assert settings.root() == nowhere and settings.data_root("ucf101") == nowhere / "videos"


@pytest.mark.parametrize("there", [True, False])
def test_apples_gpu_where_torch_has_it(home, monkeypatch, there):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: there)
    if there:
        assert settings.device("mps") == "mps" and settings.jobs("mps") == 1
        return
    with pytest.raises(ValueError, match="device is 'mps': use auto or cpu, since torch finds no such GPU"):
        settings.device("mps")


@pytest.mark.parametrize(
    ("n", "what", "said"),
    [
        (1, "run", "1 run"),
        (0, "run", "0 runs"),
        (2, "test video", "2 test videos"),
        (3, "class", "3 classes"),
    ],
)
def test_one_is_not_many(n, what, said):
    assert settings.counted(n, what) == said
