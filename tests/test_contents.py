"Contents: digests agree with hashlib whatever happens to the file, the cache, or a process beside."

import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest

from mvnb import contents, settings

TICK = 0.1  # seconds in which a file is too young to be remembered, in these tests


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache, and files that may be remembered soon after they were written."
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_GRAIN", int(TICK * 1e9))
    monkeypatch.setattr(contents, "_held", {})
    return tmp_path / "cache" / "contents.sqlite"


@pytest.fixture
def reads(monkeypatch):
    "The files that were read, in order."
    seen, whole = [], contents.sha256

    def counted(path):
        seen.append(Path(path).name)
        return whole(path)

    monkeypatch.setattr(contents, "sha256", counted)
    return seen


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def files(folder, count, size=300):
    "Files of random bytes, old enough to be remembered."
    folder.mkdir(exist_ok=True)
    made = [folder / f"{i}.mp4" for i in range(count)]
    for i, path in enumerate(made):
        path.write_bytes(random.Random(i).randbytes(size))
    time.sleep(2 * TICK)
    return made


def forget():
    "Another process would not know what this one holds."
    contents._held.clear()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_a_digest_is_the_sha256(cache, tmp_path, size):
    (path,) = files(tmp_path / "v", 1, size)
    for _ in range(2):
        assert contents.digest(path) == contents.digest(str(path)) == sha(path)
        forget()


def test_a_file_is_read_once(cache, tmp_path, reads, monkeypatch):
    some = files(tmp_path / "v", 5)
    assert contents.known(some) == [None] * 5 and not reads
    right = [sha(path) for path in some]
    assert contents.digests(some) == right and sorted(reads) == sorted(p.name for p in some)
    forget()
    monkeypatch.chdir(tmp_path / "v")  # a relative path is the same file
    assert [contents.digest(path.name) for path in some] == contents.known(some) == right
    assert len(reads) == 5


def test_a_changed_byte_is_noticed_whatever_the_times_say(cache, tmp_path, reads):
    (path,) = files(tmp_path / "v", 1)
    contents.digest(path)
    about = path.stat()
    with open(path, "r+b") as file:  # in place: same size, same inode
        file.write(bytes([path.read_bytes()[0] ^ 1]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_ino == about.st_ino and path.stat().st_mtime_ns == about.st_mtime_ns
    assert contents.known([path]) == [None] and contents.digest(path) == sha(path)
    time.sleep(2 * TICK)
    other = path.with_name("other")
    other.write_bytes(bytes(300))
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    os.replace(other, path)  # as rsync --times does
    assert contents.digest(path) == sha(path) == hashlib.sha256(bytes(300)).hexdigest()


def test_a_touched_file_is_read_again_and_is_the_same(cache, tmp_path, reads):
    (path,) = files(tmp_path / "v", 1)
    before = contents.digest(path)
    os.utime(path, (1e9, 1e9))
    assert contents.digest(path) == before and len(reads) == 2


def coarse(tick):
    "The state of a file where the file system's clock has long ticks."
    exact = contents._state

    def state(path):
        key, changed = exact(path)
        words = key.split(b" ", 5)
        for i in (3, 4):
            words[i] = b"%d" % (int(words[i]) // tick * tick)
        return b" ".join(words), changed // tick * tick

    return state


def test_a_file_changed_twice_within_a_tick_of_the_clock(cache, tmp_path, monkeypatch):
    "What git calls racy: same size, same times, other bytes."
    monkeypatch.setattr(contents, "_state", coarse(int(TICK * 1e9)))
    path = tmp_path / "a.mp4"
    value = lambda: contents.remembered(path, "first byte", lambda: path.read_bytes()[0])
    for n in range(60):
        path.write_bytes(bytes([n]) * 100)
        assert (contents.digest(path), value(), contents.digests([path])) == (sha(path), n, [sha(path)])
        time.sleep(TICK / 10)
    time.sleep(3 * TICK)
    assert contents.digest(path) == sha(path) and contents.known([path]) == [sha(path)]


def test_two_seconds_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.mp4"
    path.write_bytes(b"young")
    contents.digest(path)
    assert contents.known([path]) == [None]
    time.sleep(2.2)
    contents.digest(path)
    assert contents.known([path]) == [sha(path)]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(cache, tmp_path, monkeypatch):
    some = files(tmp_path / "v", 2)
    whole = contents.sha256

    def changing(path):
        found = whole(path)
        Path(path).write_bytes(bytes(300))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(contents, "sha256", changing)
        contents.digest(some[0])
        contents.digests(some[1:])
    assert contents.known(some) == [None, None]
    assert contents.digests(some) == [sha(path) for path in some]


def test_what_cannot_be_read(cache, tmp_path):
    (path,) = files(tmp_path / "v", 1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("gone")
    bad = [tmp_path / "gone", tmp_path, tmp_path / "pipe", tmp_path / "nowhere", path / "below"]
    for each in bad:
        with pytest.raises(OSError):
            contents.digest(each)
        with pytest.raises(OSError):
            contents.remembered(each, "kind", lambda: 1)
    assert contents.digests([*bad, path]) == [None] * len(bad) + [sha(path)]
    assert contents.known([*bad, path])[-1] == sha(path)
    assert contents.digests([]) == contents.known([]) == []


def test_how_much_may_be_read(cache, tmp_path, reads):
    some = files(tmp_path / "v", 4, 100)
    assert contents.digests(some, most=399) == [None] * 4 and not reads
    contents.digest(some[2])
    assert contents.digests(some, most=299) == [None, None, sha(some[2]), None] and len(reads) == 1
    assert contents.digests(some, most=300) == [sha(path) for path in some]
    assert contents.digests(some, most=0) == [sha(path) for path in some]


def test_names_that_are_not_utf8(cache, tmp_path, reads):
    names = [os.fsdecode(b"caf\xe9.mp4"), os.fsdecode(b"\xff\xfe.mp4"), "café.mp4", "a\nb 'c\".mp4"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(b"video %d" % i)
    time.sleep(2 * TICK)
    some = [tmp_path / name for name in names]
    right = [hashlib.sha256(b"video %d" % i).hexdigest() for i in range(4)]
    assert contents.digests(some) == right
    forget()
    assert contents.known(some) == contents.known(map(os.fsencode, some)) == right
    assert contents.digest(some[0]) == right[0] and len(reads) == 4


# ---------------------------------------------------------------- what follows from contents


def test_a_value_is_computed_once_for_all_copies(cache, tmp_path):
    path, other = files(tmp_path / "v", 2)
    asked = []
    compute = lambda: asked.append(1) or {"frames": (90, 66), "why": None}
    for _ in range(2):
        assert contents.remembered(path, "count 1", compute) == {"frames": [90, 66], "why": None}
        forget()
    shutil.copy(path, copy := tmp_path / "copy.avi")
    contents.remembered(copy, "count 1", compute)
    assert len(asked) == 1
    contents.remembered(path, "count 2", compute)
    contents.remembered(other, "count 1", compute)
    assert len(asked) == 3


def test_none_is_a_value_and_an_error_is_not(cache, tmp_path):
    (path,) = files(tmp_path / "v", 1)
    with pytest.raises(ZeroDivisionError):
        contents.remembered(path, "kind", lambda: 1 / 0)
    assert contents.remembered(path, "kind", lambda: None) is None
    forget()
    assert contents.remembered(path, "kind", lambda: 1 / 0) is None


def test_a_value_of_a_file_that_changed_meanwhile_is_not_remembered(cache, tmp_path):
    (path,) = files(tmp_path / "v", 1)
    old = path.read_bytes()

    def compute():
        path.write_bytes(bytes(300))
        return "of zeros"

    contents.remembered(path, "kind", compute)
    path.write_bytes(old)
    time.sleep(2 * TICK)
    assert contents.remembered(path, "kind", lambda: "of the first") == "of the first"


# ---------------------------------------------------------------- the database


def damages(data):
    yield "text", b"this is no database\n" * 400
    yield "empty", b""
    for size in (10, 100, len(data) // 2, len(data) - 1000):
        yield f"cut at {size}", data[:size]
    for place in (0, 16, 28, 56, 100, 105, 110, len(data) // 2 // 4096 * 4096, len(data) - 4096):
        yield (
            f"changed at {place}",
            data[:place] + bytes(b ^ 0xFF for b in data[place : place + 8]) + data[place + 8 :],
        )


def test_a_damaged_database_is_never_believed(cache, tmp_path):
    some = files(tmp_path / "v", 120)
    right = [sha(path) for path in some]
    contents.digests(some)
    for what, data in damages(cache.read_bytes()):
        cache.write_bytes(data)
        forget()
        assert all(a in (None, b) for a, b in zip(contents.known(some), right)), what
        assert contents.digests(some) == right, what
        forget()
        assert all(a in (None, b) for a, b in zip(contents.known(some), right)), what
        assert contents.digest(some[7]) == right[7], what


def test_a_flipped_bit_is_never_believed(cache, tmp_path):
    (path,) = files(tmp_path / "v", 1)
    right = contents.digest(path)
    contents.remembered(path, "frames", lambda: 90)
    data = cache.read_bytes()
    first, last = data.index(b"fact frames"), data.rindex(right.encode()) + len(right)
    for bit in range((first - 100) * 8, last * 8, 29):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        cache.write_bytes(damaged)
        forget()
        assert contents.digest(path) == right and contents.remembered(path, "frames", lambda: 90) == 90


def test_a_locked_database_is_done_without(cache, tmp_path, monkeypatch):
    some = files(tmp_path / "v", 3)
    contents.digest(some[0])
    right = [sha(path) for path in some]
    connect = sqlite3.connect
    with contextlib.closing(connect(cache, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", lambda file, timeout, **more: connect(file, 0.1, **more))
        forget()
        assert contents.known(some) == [None] * 3 and contents.digests(some) == right
        assert contents.digest(some[1]) == right[1] and contents.remembered(some[1], "n", lambda: 5) == 5
        other.execute("ROLLBACK")
    assert contents.known(some) == [right[0], None, None]  # what was known is not lost
    assert contents.digests(some) == contents.known(some) == right


def as_nobody(work):
    "Exit status of a function in a process that may not write what root owns."
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
def test_a_read_only_cache_is_used(full, cache, monkeypatch):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        place = Path(name)
        some = files(place / "videos", 3)
        monkeypatch.setattr(settings, "cache", lambda: place / "cache")
        (place / "cache").mkdir()
        if full:
            contents.digests(some[:2])
        right = [sha(path) for path in some]
        for path in (place, place / "cache", *(place / "cache").iterdir()):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def work():
            forget()
            with pytest.raises(OSError):
                (place / "cache" / "note").write_text("")
            assert contents.known(some) == (right[:2] if full else [None, None]) + [None]
            assert contents.digests(some) == right and contents.digest(some[2]) == right[2]
            assert contents.remembered(some[2], "frames", lambda: 7) == 7

        before = sorted((p.name, p.stat().st_mtime_ns) for p in (place / "cache").iterdir())
        assert as_nobody(work) == 0
        assert before == sorted((p.name, p.stat().st_mtime_ns) for p in (place / "cache").iterdir())
        (place / "cache").chmod(0o755)
        place.chmod(0o755)


def test_a_cache_that_cannot_be_made_is_done_without(cache, tmp_path, monkeypatch):
    (path,) = files(tmp_path / "v", 1)
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(path / "below a file"))
    assert contents.digest(path) == sha(path) and contents.digests([path]) == [sha(path)]
    assert contents.remembered(path, "frames", lambda: 90) == 90


def at_work(some, turn, gate):
    "What a loader process does, together with others."
    gate.wait()
    random.Random(turn).shuffle(some)
    for path in some:
        frames = contents.remembered(path, "size", lambda: path.stat().st_size)
        assert frames == 300 and contents.digest(path) == sha(path)
    assert contents.digests(some, progress=False) == [sha(path) for path in some]


def test_many_processes_at_once(cache, tmp_path):
    some = files(tmp_path / "v", 60)
    contents.digest(some[0])  # the parent has used the database before it forks
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(6)
    team = [fork.Process(target=at_work, args=(list(some), turn, gate)) for turn in range(6)]
    for one in team:
        one.start()
    for one in team:
        one.join(120)
    assert [one.exitcode for one in team] == [0] * 6
    assert contents.known(some) == [sha(path) for path in some]
    with contextlib.closing(sqlite3.connect(cache)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT count(*) FROM contents").fetchone() == (60 + 60,)


def writing(number):
    "Writes without an end."
    for n in range(10**6):
        contents._keep({b"%d %d %d" % (number, n, i): "x" * 500 for i in range(40)})


def test_a_process_killed_while_it_writes(cache, tmp_path):
    (path,) = files(tmp_path / "v", 1)
    right = contents.digest(path)
    fork = multiprocessing.get_context("fork")
    for number in range(8):
        one = fork.Process(target=writing, args=(number,))
        one.start()
        time.sleep(0.1 + 0.013 * number)
        os.kill(one.pid, signal.SIGKILL)
        one.join()
        forget()
        assert contents.known([path]) == [right] == contents.digests([path])
    with contextlib.closing(sqlite3.connect(cache)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
