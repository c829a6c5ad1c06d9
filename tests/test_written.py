"Files are whole or not there, a refusal is told by name, halves go, and no process outlives its parent."

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from filelock import Timeout

from mvnb import settings
from processes import ended


@pytest.fixture(autouse=True)
def looked_at_anew():
    "Each process sweeps a folder once; here each test does."
    settings._sweep.cache_clear()


def refusing(monkeypatch, number):
    def replace(*names):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(settings.os, "replace", replace)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_come_back(tmp_path):
    for content in ("é日\n", b"\xff\0", ""):
        file = settings.save_whole(tmp_path / "new" / "folder" / "a.txt", content, sync=True)
        assert file.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(file.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_what_breaks_off_leaves_the_file_before(tmp_path, error):
    file = settings.save_whole(tmp_path / "a.csv", "before")
    with pytest.raises((ValueError, KeyboardInterrupt, settings.NotWritten)):
        with settings.whole(file) as part:
            part.write_text("half of")
            raise error
    assert names(tmp_path) == ["a.csv"] and file.read_text() == "before"


def test_a_reader_never_sees_a_half(tmp_path):
    "One process writes long and short contents in turn, while this one reads."
    code = """
import sys
from mvnb import settings
while True:
    settings.save_whole(sys.argv[1], 300_000 * "a")
    settings.save_whole(sys.argv[1], "b")
"""
    file = settings.save_whole(tmp_path / "a.txt", "b")
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)])
    try:
        seen, end = set(), time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < end:
            seen.update(file.read_text() for _ in range(200))
    finally:
        writer.kill()
        writer.wait()
    assert seen == {"b", 300_000 * "a"}
    settings._sweep.cache_clear()  # a folder is swept once by each process, and this one wrote there before
    settings.save_whole(file, "c")  # whatever the killed writer left has gone
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_called_that(tmp_path, monkeypatch, number):
    refusing(monkeypatch, number)
    with pytest.raises(settings.NotWritten) as told:
        settings.save_whole(tmp_path / "a.bin", bytes(2_500_000))
    assert str(told.value).startswith(f"{tmp_path / 'a.bin'}: 2.5 MB could not be written: no room")
    with pytest.raises(settings.NotWritten, match="more than 12 bytes could not be written: no room"):
        with settings.whole(tmp_path / "b.bin") as part:
            part.write_bytes(bytes(12))
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_shared_store_names_the_remedy(tmp_path, monkeypatch, number):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "our runs"))
    refusing(monkeypatch, number)
    with pytest.raises(settings.NotWritten) as told:
        settings.save_whole(tmp_path / "our runs" / "x" / "result.json", "{}")
    text = str(told.value)
    assert f"chgrp -R GROUP '{tmp_path}/our runs'" in text and "umask 002" in text


def test_a_mount_for_reading_only_is_told(tmp_path, monkeypatch):
    refusing(monkeypatch, errno.EROFS)
    with pytest.raises(settings.NotWritten, match="Read-only file system; choose another folder"):
        settings.save_whole(tmp_path / "a", "b")


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "taken").write_text("mine")
    for path in (tmp_path / "taken" / "a", tmp_path / "taken" / "deeper" / "a"):
        with pytest.raises(
            settings.NotWritten, match=r"taken is a file, not a folder; choose another folder"
        ):
            settings.save_whole(path, "b")
        with pytest.raises(settings.NotWritten, match=r"taken is a file, not a folder"):
            settings.locked(path)
    assert names(tmp_path) == ["taken"] and (tmp_path / "taken").read_text() == "mine"


def test_what_is_no_refusal_of_the_disk_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), settings.written(tmp_path / "a"):
        open(tmp_path / "other" / "file")
    with pytest.raises(IsADirectoryError):
        settings.save_whole(tmp_path, "text")


def test_halves_of_ended_processes_go_and_others_stay(tmp_path):
    mine, other = settings._part_of(tmp_path / "a.csv"), tmp_path / ".elsewhere.1.01234567.part.csv"
    left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{ended()}."))
    of_init = mine.with_name(mine.name.replace(f".{os.getpid()}.", ".1."))
    old = tmp_path / ".elsewhere.1.89abcdef.part.csv"
    user = tmp_path / ".notes.part.csv"
    for path in (mine, other, left, of_init, old, user):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)  # another machine's processes cannot be asked: a day
    settings.save_whole(tmp_path / "b.csv", "whole")
    assert names(tmp_path) == sorted(p.name for p in (mine, other, of_init, user, tmp_path / "b.csv"))


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_folder_for_what_is_temporary_goes(error, monkeypatch, tmp_path):
    monkeypatch.setattr(settings.tempfile, "tempdir", str(tmp_path))
    try:
        with settings.scratch() as folder:
            (folder / "deep").mkdir()
            assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert names(tmp_path) == []


def test_a_lock_is_held_once(tmp_path):
    with settings.locked(tmp_path / "new" / ".lock"):
        with pytest.raises(Timeout):
            settings.locked(tmp_path / "new" / ".lock", timeout=0)
    with settings.locked(tmp_path / "new" / ".lock", timeout=0):
        pass


CHILD = """
import sys, time
from mvnb import settings
settings.end_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(120)
"""
PARENT = """
import os, subprocess, sys, time
words = [sys.executable, "-c", sys.argv[1], str(os.getpid())]
child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(120)
"""


def test_a_child_ends_with_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)  # it is there
    parent.kill()
    parent.wait()
    try:
        end = time.monotonic() + 30
        while settings._lives(child):
            assert time.monotonic() < end, "it goes on without its parent"
            time.sleep(0.1)
    finally:
        if settings._lives(child):
            os.kill(child, signal.SIGKILL)


def test_a_process_does_not_end_with_itself():
    before = threading.active_count()
    settings.end_with(os.getpid())
    assert threading.active_count() == before
