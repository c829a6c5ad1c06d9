"SIGTERM ends a command as Ctrl-C does, and what it has started."

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mvnb import cli, settings, video

CHILD = """
import signal, sys, time
def stop(*_):
    open(sys.argv[1] + "/ended", "w").close()
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
open(sys.argv[1] + "/began", "w").close()
time.sleep(60)
"""
PARENT = """
import sys
from mvnb import cli, settings
with settings.stopped_by_sigterm():
    cli._called([sys.executable, "-c", sys.argv[2], sys.argv[1]])
"""


def wait_for(path, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} does not come"
        time.sleep(0.05)


@pytest.mark.parametrize("ignored", [False, True])
def test_what_a_command_started_ends_with_it(tmp_path, ignored):
    "Also where Ctrl-C is ignored, as under nohup and cron."
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        words = [sys.executable, "-c", PARENT, str(tmp_path), CHILD]
        parent = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(tmp_path / "began")
    parent.terminate()
    assert parent.wait(30) != 0
    wait_for(tmp_path / "ended", 1)


def test_a_command_that_is_terminated_says_so(monkeypatch, capsys):
    def slow(path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(video, "probe", slow)
    assert cli.main(["probe", "a.mp4"]) == 130
    assert "stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_may_run_a_command_too():
    found = []

    def inside():
        with settings.stopped_by_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_a_command_that_ends_gives_its_exit_code():
    assert cli._called([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, tmp_path):
    "As in a container that is started with a user's number alone."

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cli.Path, "home", unknown)
    with pytest.raises(cli.Refused, match="no home folder.*set HOME"):
        cli._papermill(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {})
