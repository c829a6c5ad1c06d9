"The fault campaigns: a handful of cases of each, and that they would notice a fault."

import faulthandler
import io
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `faults` is beside the tests, as `bench` is
from faults import __main__ as command, _cases, lists, pickles, stored, videos  # noqa: E402
from faults._cases import Place, each  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def place(tmp_path):
    return Place.below(tmp_path, "tried")


def test_every_campaign_ends_as_it_should():
    "In a process of its own, since forking needs one without threads; videos are below."
    names = ["disks", "doubles", "kills", "lists", "pickles", "stored"]
    words = [sys.executable, "-m", "faults", *names, "--minutes", "0.2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for what in ("full disk", "ask for", "killed", "mutated lists", "pickles", "checkpoints"):
        assert any(what in line and line.endswith("| 0 |") for line in done.stdout.splitlines()), what


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    videos.make(folder)
    return folder


def test_encoders_leave_the_process_its_scheduling(encoded):
    "With SVT-AV1's real-time priority, what a test starts later may keep both cores from everybody else."
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


ONCE_WRONG = [
    (0, 93, "mpeg4_b.avi", "a doubled span"),  # times that go back: two B-frames do not come out
    (3, 273, "mpeg2_b.mpg", "a dropped span"),  # gaps were filled with what was decoded before
    (4, 616, "av1.mp4", "a zeroed span"),  # packets of zeros give no frames, and no error
    (0, 102, "vp8.webm", "a span of noise"),  # it leans on what was decoded before the key frame
    (0, 2520, "vp8.webm", "flipped bits in the header"),  # a second stream without a codec
    (4, 282, "flv.flv", "a doubled span"),  # a second stream without a codec
    (5, 497, "h264_b.mkv", "swapped fields"),  # a B-frame before a damaged reference
]


@pytest.mark.parametrize("seed, number, name, mutation", ONCE_WRONG)
def test_what_was_wrong_once(encoded, tmp_path, seed, number, name, mutation):
    if not (encoded / name).is_file():
        pytest.skip(f"no encoder for {name} here")
    right, how = videos.attempt((number, name, mutation), tmp_path, seed, encoded)
    assert right, how


def test_mutated_videos_are_refused_or_sound(encoded, tmp_path):
    ends = Counter()
    for number, mutation in enumerate(videos.MUTATIONS):
        for name in ("h264.mp4", "h264_b.mkv", "vp9.webm"):
            right, how = videos.attempt((number, name, mutation), folder(tmp_path / "tried"), 0, encoded)
            assert right, how
            ends[how] += 1
    assert ends["sound"] and ends["VideoError"] and ends["VideoError on the way"]


def folder(path):
    path.mkdir(exist_ok=True)
    return path


# ---------------------------------------------------------------- how cases are tried


def ends_somehow(case, folder):
    (folder / "input").write_text(case)
    if case == "crash":
        faulthandler.disable()  # pytest's, which would print where
        os.abort()
    if case == "leave":
        os._exit(0)
    if case == "hang":
        time.sleep(60)
    if case == "raise":
        raise KeyError("a fault")
    if case == "much":
        np.ones(1 << 30, np.uint8)
    return case != "wrong", case


def test_whatever_ends_a_case_is_counted_and_kept(place):
    cases = ["right", "crash", "right", "raise", "hang", "much", "wrong", "leave", "right"]
    found = list(each(ends_somehow, cases, "", place, seconds=3, memory=1 << 29, share=4))
    assert sorted(case for case, *_ in found) == sorted(cases)
    ends = {case: (right, how) for case, right, how in found}
    assert ends.pop("right") == (True, "right")
    assert not any(right for right, _ in ends.values())
    assert ends["crash"][1] == "ended by SIGABRT" and ends["leave"][1] == "exit 0"
    assert ends["raise"][1] == "KeyError: 'a fault'" and "no end after 3 s" == ends["hang"][1]
    assert "Memory" in ends["much"][1]
    kept = {path.read_text() for path in place.kept.glob("*/input")}
    assert kept == {"crash", "raise", "hang", "much", "wrong", "leave"}
    assert not list(place.work.iterdir())


def starts_another(case, folder):
    subprocess.Popen(["sleep", "60"])
    return _cases.alone(0.5), "alone"


def test_processes_that_go_on_are_seen_and_ended(place):
    before = time.monotonic()
    assert list(each(starts_another, [0], "", place)) == [(0, False, "alone")]
    assert time.monotonic() - before < 50  # the other one was not waited for


def test_a_seed_gives_the_same_cases():
    data = bytes(range(256)) * 8
    for mutation in (*videos.MUTATIONS.values(), *lists.MUTATIONS[:-2]):
        one, same, other = (mutation(data, _cases.generator(seed, 7)) for seed in (3, 3, 4))
        assert one == same and not one == other == data


# ---------------------------------------------------------------- faults that they would notice


@pytest.mark.parametrize("number", range(10))
def test_the_pickles_would_do_harm(tmp_path, number):
    pickle.load(io.BytesIO(pickle.dumps(pickles.evils(tmp_path / "called")[number], 4)))
    assert list(tmp_path.glob("called*"))


def test_a_reader_that_obeys_is_noticed(place, monkeypatch):
    obey = lambda path: pickle.load(open(path, "rb"))
    monkeypatch.setitem(pickles.READERS, "files of weights", lambda *a: obeying(*a, obey))
    rows = pickles.run(12, 0, place)
    assert rows[0].wrong.total() == rows[0].tried == 2 and not any(row.wrong for row in rows[1:])


def obeying(folder, value, rng, obey):
    (folder / "a.pt").write_bytes(pickle.dumps(value, 4))
    obey(folder / "a.pt")


def test_a_flipped_bit_that_is_taken_is_noticed(place, monkeypatch):
    from mvnb import maps

    monkeypatch.setattr(maps, "_unpacked", unverified)
    kinds = [kind for kind in stored.KINDS if kind.name == "motion maps"]
    monkeypatch.setattr(stored, "KINDS", kinds)
    (row,) = stored.run(1, 0, place)
    monkeypatch.setattr(stored, "flipped", lambda data, *_: data[:-1] + bytes([data[-1] ^ 1]))
    found = [stored.attempt((k, 0), folder, 0, place) for k, folder in enumerate(folders(place, 8))]
    assert any(not right and "another value" in how for right, how in found)


def folders(place, count):
    for k in range(count):
        folder = place.work / str(k)
        folder.mkdir()
        yield folder


def unverified(data):
    from mvnb.maps import _HEAD, MotionMap

    _, *numbers, _ = _HEAD.unpack_from(data)
    st = np.frombuffer(data, np.float16, offset=_HEAD.size).reshape(numbers[:3])
    return MotionMap(st, tuple(numbers[3:5]), tuple(numbers[5:]))


def test_pictures_that_differ_are_noticed(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    path = videos.video.write_video(tmp_path / "a.mp4", frames)
    assert videos.look(path, _cases.generator(0)) == (True, "sound")
    read, count = videos.video.read_clip, videos.video.num_frames
    with monkeypatch.context() as patch:
        patch.setattr(videos.video, "read_clip", lambda p, frames, **k: read(p, [0 for _ in frames], **k))
        assert "another picture" in videos.look(path, _cases.generator(0))[1]
    with monkeypatch.context() as patch:
        patch.setattr(videos.video, "num_frames", lambda p: count(p) - 1)
        assert videos.look(path, _cases.generator(0)) == (False, "num_frames 7, pictures 8")


# ---------------------------------------------------------------- the page


def test_the_counts_are_put_between_their_marks(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{command.BEGIN}\nold\n{command.END}\nafter\n")
    monkeypatch.setattr(command, "PAGE", page)
    row = _cases.Row("things")
    for right, how in [(True, "sound")] * 1200 + [(False, "/a/path: another value")]:
        row.count(right, how)
    for _ in range(2):
        command.write([row], 0, 61)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| things | 1,201 | sound 1,200 | 1 |" in text and "- 1× … another value" in text
    assert text.count("Last run") == 1 and "/a/path" not in text
