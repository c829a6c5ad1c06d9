"Transcoding: same frames, same names, uniform encoding; stops, faults and what the encoding gives away."

import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch

from mvnb import cli, datasets, transcode
from mvnb.transcode import Encoding
from mvnb.video import VideoError, probe, read_clip, write_video


def numbered(count, height=64, width=80):
    "Frames whose brightness tells their number, with a square that moves."
    frames = np.zeros((count, height, width, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:] = 20 + 3 * t
        frame[8:24, t % 48 : t % 48 + 16] = 250 - 2 * t
    return frames


@pytest.fixture
def originals(tmp_path):
    root = tmp_path / "originals"
    (root / "deep/er").mkdir(parents=True)
    write_video(root / "a.webm", numbered(20), codec="libvpx-vp9")
    write_video(root / "deep/b.avi", numbered(30), codec="mpeg4", options=dict(bf=2, g=300))
    write_video(root / "deep/er/c.mp4", numbered(13), options=dict(g=300))
    (root / "notes.txt").write_text("no video")
    return root


def test_copies_have_the_frames_of_the_originals(originals, tmp_path):
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in originals.rglob("*.*")
        if path.is_file()
    }
    done = transcode.transcode(originals, tmp_path / "copies", Encoding(gop=5), jobs=1, progress=False)
    assert not done.failed and done.fresh == 3
    names = {"a.webm": "a.mp4", "deep/b.avi": "deep/b.avi", "deep/er/c.mp4": "deep/er/c.mp4"}
    assert {path: facts["copy"] for path, facts in done.done.items()} == names
    for path, copy in names.items():
        old, new = probe(originals / path), probe(tmp_path / "copies" / copy)
        assert (new.codec, new.frames, new.fps) == ("h264", old.frames, old.fps)
        times = [0, old.frames // 2, old.frames - 1]
        one, other = (read_clip(p, times).rgb.float() for p in (old.path, new.path))
        assert (one - other).abs().mean() < 4
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}


@pytest.mark.parametrize("gop,bframes", [(1, 0), (4, 0), (12, 2)])
def test_key_frames_and_b_frames_are_where_they_were_asked_for(tmp_path, gop, bframes):
    frames = numbered(29)
    frames[13:] = 255 - frames[13:]  # a cut, where x264 would put a key frame of its own
    source = write_video(tmp_path / "in.mp4", frames, options=dict(g=300))
    transcode.recode(source, tmp_path / "out.mp4", Encoding(gop=gop, bframes=bframes))
    with av.open(str(tmp_path / "out.mp4")) as container:
        kinds = [
            frame.pict_type.name if hasattr(frame.pict_type, "name") else frame.pict_type
            for frame in container.decode(video=0)
        ]
    keys = [t for t, kind in enumerate(kinds) if kind in ("I", 1)]
    assert keys == list(range(0, 29, gop))
    assert any(kind in ("B", 3) for kind in kinds) == (bframes > 0)


def test_pictures_are_upright_even_and_no_larger_than_asked(tmp_path):
    source = write_video(tmp_path / "in.mp4", numbered(6, 90, 162))
    facts = transcode.recode(source, tmp_path / "out.mp4", Encoding(short=45))
    assert (facts["height"], facts["width"]) == (44, 80)
    facts = transcode.recode(source, tmp_path / "kept.mp4", Encoding(short=None))
    assert (facts["height"], facts["width"]) == (90, 162)


def test_what_is_done_is_not_done_again_and_what_changed_is(originals, tmp_path):
    def run():
        return transcode.transcode(originals, tmp_path / "copies", jobs=1, progress=False)

    assert run().fresh == 3 and run().fresh == 0
    (tmp_path / "copies/a.mp4").write_bytes(b"cut off")
    os.utime(originals / "deep/b.avi", (1, 1))
    with open(tmp_path / "copies/transcode.jsonl", "a") as lines:
        lines.write('{"path": "deep/er/c.mp4", "cop')  # a line that was cut off
    assert run().fresh == 2
    write_video(originals / "new.mp4", numbered(4))
    assert run().fresh == 1
    assert len(run().done) == 4 and all(
        probe(tmp_path / "copies" / f["copy"]).codec == "h264" for f in run().done.values()
    )


@pytest.mark.parametrize("which", ["originals/deep/b.avi", "copies/deep/b.avi"])
def test_a_byte_that_changed_is_noticed_whatever_size_and_time_say(originals, tmp_path, which):
    run = lambda: transcode.transcode(originals, tmp_path / "copies", jobs=1, progress=False)
    assert run().fresh == 3
    path = tmp_path / which
    about, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert run().fresh == 1 and run().fresh == 0


def test_a_folder_of_before_originals_were_hashed_goes_on(originals, tmp_path):
    transcode.transcode(originals, tmp_path / "copies", jobs=1, progress=False)
    lines = tmp_path / "copies/transcode.jsonl"
    facts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert all(fact.pop("original") for fact in facts)
    lines.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    assert transcode.transcode(originals, tmp_path / "copies", jobs=1, progress=False).fresh == 0


def test_a_file_that_cannot_be_read_is_named_and_leaves_nothing(originals, tmp_path):
    (originals / "bad.mp4").write_bytes(b"x" * 100)
    done = transcode.transcode(originals, tmp_path / "copies", jobs=1, progress=False)
    assert set(done.failed) == {"bad.mp4"} and len(done.done) == 3
    assert not list((tmp_path / "copies").rglob("*bad*")) and "bad.mp4" in str(done)


def test_a_copy_that_lost_frames_is_refused(tmp_path, monkeypatch):
    source = write_video(tmp_path / "in.mp4", numbered(12))
    whole = transcode.pictures
    monkeypatch.setattr(transcode, "pictures", lambda path: iter(list(whole(path))[:-1]))
    with pytest.raises(VideoError, match="11 frames instead of 12"):
        transcode.recode(source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_mistakes_get_a_sentence(originals, tmp_path):
    for target in (originals, originals / "copies", tmp_path):
        with pytest.raises(ValueError, match="folder of their own"):
            transcode.transcode(originals, target)
    transcode.transcode(originals, tmp_path / "copies", limit=1, jobs=1, progress=False)
    with pytest.raises(ValueError, match="was begun with"):
        transcode.transcode(originals, tmp_path / "copies", Encoding(crf=30))
    with pytest.raises(ValueError, match="AVI"):
        transcode.transcode(originals, tmp_path / "other", Encoding(bframes=2))
    write_video(originals / "a.mp4", numbered(3))
    with pytest.raises(ValueError, match="would both become a.mp4"):
        transcode.transcode(originals, tmp_path / "third")
    with pytest.raises(ValueError, match="no folder"):
        transcode.transcode(tmp_path / "nowhere", tmp_path / "fourth")
    assert not (tmp_path / "other").exists() and not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    "bad", [dict(short=4), dict(gop=0), dict(bframes=17), dict(crf=60), dict(preset="quick")]
)
def test_impossible_encodings_are_refused(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        Encoding(**bad)


def test_killed_at_any_moment_it_goes_on(tmp_path):
    root = tmp_path / "originals"
    root.mkdir()
    for i in range(12):
        write_video(root / f"{i:02}.mp4", numbered(40, 128, 160), options=dict(g=300))
    words = ["data", "transcode", str(root), str(tmp_path / "copies"), "--jobs", "2"]
    command = [sys.executable, "-c", f"from mvnb import cli; cli.main({words})"]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    lines = tmp_path / "copies/transcode.jsonl"
    end = time.time() + 60
    while time.time() < end and not (lines.is_file() and len(lines.read_text().splitlines()) >= 2):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = [json.loads(line) for line in lines.read_text().splitlines() if line.endswith("}")]
    assert len(written) >= 2
    for facts in written:  # what was noted is whole
        assert probe(tmp_path / "copies" / facts["copy"]).frames == 40
    done = transcode.transcode(root, tmp_path / "copies", jobs=1, progress=False)
    assert len(done.done) == 12 and done.fresh == 12 - len(written) and not done.failed
    assert sorted(p.name for p in (tmp_path / "copies").iterdir() if p.suffix == ".mp4") == sorted(
        p.name for p in root.iterdir()
    )
    assert not list((tmp_path / "copies").glob(".*part*"))


def test_the_command_and_the_manifest(originals, tmp_path, capsys):
    assert (
        cli.main(["data", "transcode", str(originals), str(tmp_path / "copies"), "--gop", "8", "--jobs", "1"])
        == 0
    )
    assert "3 videos with 63 frames" in capsys.readouterr().out
    index = datasets.Index("mine", "train", tmp_path / "copies", ["a.mp4"], [0], ["one"])
    assert index.manifest()["encoding"]["gop"] == 8
    assert "encoding" not in datasets.Index("mine", "train", originals, ["a.webm"], [0], ["one"]).manifest()
    (originals / "bad.mp4").write_bytes(b"x")
    assert (
        cli.main(["data", "transcode", str(originals), str(tmp_path / "copies"), "--gop", "8", "--jobs", "1"])
        == 1
    )


def test_vectors_of_a_transcoded_vp9_file_follow_the_square(originals, tmp_path):
    transcode.recode(originals / "a.webm", tmp_path / "a.mp4", Encoding(gop=100))
    clip = read_clip(tmp_path / "a.mp4", range(2, 18), motion=True)
    inside = torch.zeros_like(clip.has_mv)
    for k, t in enumerate(range(2, 18)):
        inside[k, 1:3, (t % 48) // 8 : (t % 48) // 8 + 2] = True
    moved = clip.mv.permute(1, 0, 2, 3)[0][inside & clip.has_mv]
    assert moved.median() == pytest.approx(1.0, abs=0.3)


def test_traces_are_those_of_the_file(originals):
    found = dict(zip(transcode.TRACES, transcode.traces(originals / "deep/b.avi")))
    assert found["I-frames"] == pytest.approx(1 / 30) and found["B-frames"] > 0.5
    assert found["fps"] == 25 and found["frames with vectors"] > 0.8
    with pytest.raises(VideoError):
        transcode.traces(originals / "notes.txt")


def test_real_files(shared_data, tmp_path):
    vp9 = next((shared_data / "clips/something-something-v2").glob("*"))
    facts = transcode.recode(vp9, tmp_path / "ssv2.mp4")
    assert facts["was"] == "vp9" and facts["frames"] == probe(vp9).frames
    assert probe(tmp_path / "ssv2.mp4").coverage > 0.85
