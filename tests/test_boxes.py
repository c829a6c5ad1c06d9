"""Boxes of people: read, cut with the clip, found by a detector.

Also almost still clips, and views that share their frames."""

import csv
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mvnb import boxes, clips, datasets, masks, methods, models, puppets, settings
from mvnb.papers.mac.method import MAC

TINY = dict(backbone="r2plus1d_tiny", queue=24, seed=5, widths=(8, 8, 16))


class Index:
    "Just paths."

    def __init__(self, *paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)


@pytest.fixture(scope="module")
def puppet_index(puppets_root):
    return datasets.load("puppets-u", "train", root=puppets_root, scale=0.06)


def write(path, *rows):
    path.write_text("\n".join(["path,frame,x0,y0,x1,y1", *rows]) + "\n")
    return path


# ---------------------------------------------------------------- files


def test_a_file_is_read_in_any_order(tmp_path):
    read = boxes.read_boxes(
        write(
            tmp_path / "b.csv",
            "b/x.mp4,7,1,2,3,4",
            "a.mp4,3,0,0,5,5",
            "b/x.mp4,2,9.5,8,10,9",
            "b/x.mp4,7,5,6,7,8",
        )
    )
    frames, found = read.of(Index("a.mp4", "b/x.mp4"), 1)
    assert frames.tolist() == [2, 7, 7] and found.tolist() == [[9.5, 8, 10, 9], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert read.of(Index("c.mp4"), 0)[1].shape == (0, 4)


def test_columns_may_stand_anywhere_and_others_beside_them(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("\ufeffscore,y1,x1,y0,x0,frame,path\n0.9,4,3,2,1,0,a.mp4\n")
    assert boxes.read_boxes(path).of(Index("a.mp4"), 0)[1].tolist() == [[1, 2, 3, 4]]


def test_written_is_read_again_and_nothing_half_written_stays(tmp_path):
    table = {"a.mp4": ([0, 4], [[1, 2, 3.25, 4], [5, 6, 7, 8]]), 'b, "c".mp4': ([1], [[0, 0, 1, 1]])}
    path = boxes.write_boxes(table, tmp_path / "sub" / "b.csv")
    again = boxes.read_boxes(path)
    assert again.hash == boxes.Boxes(table).hash and set(again.table) == set(table)
    with pytest.raises(TypeError):
        boxes.write_boxes({"a": ([0], [[None]])}, path)
    assert list(path.parent.iterdir()) == [path] and boxes.read_boxes(path).hash == again.hash


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("path,frame,x0,y0,x1\n", "no column y1"),
        ("", "no column path"),
        ("path,frame,x0,y0,x1,y1\na,0,1,2,3,x\n", "line 2"),
        ("path,frame,x0,y0,x1,y1\na,0,1,2,3\n", "line 2"),
        ("path,frame,x0,y0,x1,y1\na,0,1,2,3,4\na,-1,1,2,3,4\n", "line 3"),
        ("# reach=4\npath,frame,x0,y0,x1,y1\na,0,1,2,3,4\na,1,1,2,3,x\n", "line 4"),
        ("path,frame,x0,y0,x1,y1\na,0,3,2,1,4\n", "line 2.*larger"),
        ("path,frame,x0,y0,x1,y1\na,0,1,4,3,2\n", "line 2.*larger"),
        ("path,frame,x0,y0,x1,y1\na,0,1,2,1,4\n", "line 2.*larger"),
        ("path,frame,x0,y0,x1,y1\na,0,0,0,0,0\n", "line 2.*larger"),
        ("path,frame,x0,y0,x1,y1\na,0,1,,3,4\n", "line 2"),
        ("# reach=4\n", "no column path"),
        ("path,frame,x0,y0,x1,y1\na,0,1,2,3,nan\n", "line 2"),
        ("path,frame,x0,y0,x1,y1\na,0.5,1,2,3,4\n", "line 2"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, sentence):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(boxes.BoxesError, match=sentence) as told:
        boxes.read_boxes(path)
    assert str(path) in str(told.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
    path = tmp_path / "no.csv"
    with pytest.raises(boxes.BoxesError, match="no.csv.*columns path"):
        boxes.read_boxes(path)
    path.write_bytes(b"path,frame,x0,y0,x1,y1\n\xff\xfe\x00,1,2\n")
    with pytest.raises(boxes.BoxesError, match="no.csv"):
        boxes.read_boxes(path)


def test_the_file_says_how_far_its_boxes_reach_unless_told_otherwise(tmp_path):
    plain = write(tmp_path / "plain.csv", "a.mp4,0,1,2,3,4")
    stating = tmp_path / "stating.csv"
    stating.write_text("# found by hand, reach=5\n" + plain.read_text())
    assert [
        boxes.read_boxes(plain).reach,
        boxes.read_boxes(stating).reach,
        boxes.read_boxes(stating, reach=0).reach,
        boxes.read_boxes(stating, reach=2).reach,
    ] == [0, 5, 0, 2]
    assert (
        boxes.find_boxes(stating).reach == 5 and boxes.find_boxes(stating, 2).reach == 2
    )  # 0, a recipe's default, is not a wish
    assert (
        boxes.read_boxes(stating, reach=0).hash
        == boxes.read_boxes(plain).hash
        != boxes.read_boxes(stating).hash
    )
    assert (
        boxes.read_boxes(
            boxes.write_boxes({"a.mp4": ([0], [[1, 2, 3, 4]])}, tmp_path / "again.csv", reach=5)
        ).hash
        == boxes.read_boxes(stating).hash
    )


def test_nobody_there_is_not_nobody_looked(tmp_path):
    path = write(tmp_path / "b.csv", "a.mp4,0,0,0,4,4", "a.mp4,6,,,,", "b.mp4,0,,,,")
    read = boxes.read_boxes(path, reach=6)
    seen = lambda video: (
        read.clip(Index(video), 0, np.arange(8), (0, 0, 10, 10), 10)[..., 2].max(1, initial=0) > 0
    ).tolist()
    assert (
        seen("a.mp4") == [True] * 4 + [False] * 4 and seen("b.mp4") == [False] * 8
    )  # nearest looked-at frame, not nearest box
    assert "1 box in 2 videos" in repr(read)
    read.check(Index("a.mp4", "b.mp4"))  # nobody in b.mp4, but it was looked at
    assert boxes.read_boxes(boxes.write_boxes(read.table, tmp_path / "c.csv", reach=6)).hash == read.hash


def test_a_rewritten_file_is_read_again(tmp_path):
    path = write(tmp_path / "b.csv", "a.mp4,0,1,2,3,4")
    first = boxes.read_boxes(path)
    write(path, "a.mp4,0,1,2,3,4", "a.mp4,1,1,2,3,4")
    assert boxes.read_boxes(path).hash != first.hash and len(first.table["a.mp4"][0]) == 1


def test_the_hash_follows_every_box():
    one = lambda x, reach=0: boxes.Boxes({"a": ([0], [[x, 0, 5, 5]])}, reach=reach).hash
    assert one(1) == one(1) and len({one(1), one(2), one(1, reach=2)}) == 3


# ---------------------------------------------------------------- cutting


def test_a_cut_box_covers_the_cut_pixels():
    "A crop and its mask, against the mask of the whole frame cropped and enlarged pixel by pixel."
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = np.sort(rng.integers(0, 41, 2)), np.sort(rng.integers(0, 31, 2))
        box = np.float32([[x[0], y[0], x[1], y[1]]])
        top, left, side = rng.integers(0, 10), rng.integers(0, 20), rng.integers(5, 20)
        whole = masks.box_mask(torch.from_numpy(box), 30, 40)[0]
        expected = whole[top : top + side, left : left + side].repeat_interleave(3, 0).repeat_interleave(3, 1)
        cut = boxes.cut_boxes(box, (top, left, side, side), 3 * side)
        found = boxes.people_mask(torch.from_numpy(cut)[None, None], 3 * side, 3 * side)[0, 0]
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "reach, seen", [(0, [0, 0, 1, 0, 0, 0, 1]), (1, [0, 1, 1, 1, 0, 1, 1]), (9, [1] * 7)]
)
def test_reach(reach, seen):
    some = boxes.Boxes({"a": ([2, 6], [[0, 0, 4, 4], [0, 0, 8, 8]])}, reach=reach)
    found = some.clip(Index("a"), 0, np.arange(7), (0, 0, 10, 10), 10)
    assert (found[..., 2].max(1) > 0).tolist() == [bool(s) for s in seen]
    with pytest.raises(boxes.BoxesError, match="reach"):
        boxes.Boxes({}, reach=-1)


@pytest.mark.parametrize("cache", [None, "memory"])
@pytest.mark.parametrize("train", [True, False])
def test_boxes_follow_the_crop(puppet_index, cache, train):
    "The boxes of the whole frame as a mask, cropped and enlarged like the clip; the true pixels lie inside."
    data = clips.ClipDataset(
        puppet_index,
        4,
        3,
        96,
        views=2,
        mode="random" if train else "uniform",
        train=train,
        cache=cache,
        boxes=boxes.TrueBoxes(),
    )
    for batch in clips.batches(data, 4, epoch=1, shuffle=False):
        for row, position in enumerate(batch["index"].tolist()):
            truth, _ = puppets.ground_truth(puppet_index.path(position))
            for view in range(2):
                times, cut = data.times(position, 1, len(truth))[view], data.box(position, 1, view, 96, 96)
                found = boxes.people_mask(batch["boxes"][row : row + 1, view], 96, 96)[0]
                top, left, height, width = cut
                for t, mask in zip(times, found):
                    box = puppets.boxes_of(truth[t : t + 1])
                    whole = torch.stack(
                        [masks.box_mask(torch.from_numpy(box), 96, 96)[0], torch.from_numpy(truth[t])]
                    )
                    part = whole[None, :, top : top + height, left : left + width].float()
                    expected, actor = (
                        torch.nn.functional.interpolate(part, (96, 96), mode="nearest-exact")[0] > 0
                    )
                    assert (
                        expected != mask
                    ).sum() <= 96  # where an edge meets a pixel's centre, rounding may move it
                    assert (actor & ~mask).sum() <= 96


def test_workers_and_cache_bring_the_same_boxes(puppet_index):
    options = dict(length=4, stride=2, size=48, views=2, boxes=boxes.TrueBoxes())
    alone, helped, cached = (
        list(clips.batches(clips.ClipDataset(puppet_index, cache=c, **options), 4, 0, workers=w))
        for c, w in ((None, 0), (None, 2), ("memory", 0))
    )
    for a, b, c in zip(alone, helped, cached):
        assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["boxes"], c["boxes"])


def test_videos_with_more_and_fewer_people_share_a_batch(puppet_index):
    paths = [str(p) for p in puppet_index.paths]
    nobody = {path: ([0], [[0, 0, 0, 0]]) for path in paths}
    some = boxes.Boxes(
        nobody | {paths[0]: ([0] * 3, [[0, 0, 96, 96]] * 3), paths[1]: ([0], [[0, 0, 96, 96]])}, reach=99
    )
    for cache in (None, "memory"):
        batch = next(
            iter(
                clips.batches(
                    clips.ClipDataset(puppet_index, 4, 2, 32, cache=cache, boxes=some), 4, 0, shuffle=False
                )
            )
        )
        assert batch["boxes"].shape[3:] == (3, 4) and (
            (batch["boxes"][..., 2] > 0).sum(-1).amax((1, 2)).tolist() == [3, 1, 0, 0]
        )


def test_boxes_of_other_videos_are_refused(puppet_index, tmp_path):
    with pytest.raises(boxes.BoxesError, match="none of the"):
        clips.ClipDataset(puppet_index, boxes=boxes.Boxes({"x.mp4": ([0], [[0, 0, 1, 1]])}))
    (tmp_path / "c").mkdir(), (tmp_path / "c" / "v.mp4").write_bytes(b"")
    with pytest.raises(boxes.BoxesError, match="only puppets"):
        clips.ClipDataset(datasets.folder(tmp_path), boxes=boxes.TrueBoxes())


@pytest.mark.parametrize(
    "known, outcome",
    [
        (0, "none of the 40"),
        (1, "1 of the 40 .*2.5%.*50% are needed.*'1.mp4'"),
        (19, "47.5%"),
        (20, "warns"),
        (37, "warns"),
        (38, ""),
        (40, ""),
    ],
)
def test_too_few_videos_with_boxes_are_refused_and_few_told(known, outcome):
    index, some = (
        Index(*(f"{i}.mp4" for i in range(40))),
        boxes.Boxes({f"{i}.mp4": ([0], [[0, 0, 1, 1]]) for i in range(known)}, "people.csv"),
    )
    if outcome == "warns":
        with pytest.warns(UserWarning, match=f"people.csv has boxes of {known} of the 40"):
            some.check(index)
    elif outcome:
        with pytest.raises(boxes.BoxesError, match=outcome):
            some.check(index)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            some.check(index)


def test_true_boxes_say_which_they_are(puppet_index, tmp_path, monkeypatch):
    own = boxes.TrueBoxes()
    assert "the data set's own" in repr(own) and "0 boxes" not in repr(own)
    (tmp_path / "c").mkdir(), (tmp_path / "c" / "v.mp4").write_bytes(b"")
    monkeypatch.setenv("MVNB_DATA_FOLDER_BOXES", str(write(tmp_path / "people.csv", "c/v.mp4,0,1,2,3,4")))
    (tmp_path / "people.csv").write_text("# reach=3\n" + (tmp_path / "people.csv").read_text())
    own.check(datasets.folder(tmp_path))
    assert "people.csv: 1 box in 1 video, reach 3" in repr(own) and own.reach == 3 and own.hash is not None
    own.check(puppet_index)  # and back
    assert own.hash is None and "people.csv" not in repr(own) and len(own.of(puppet_index, 0)[0])


def test_ordinary_clips_keep_their_hash(puppet_index):
    plain = clips.ClipDataset(puppet_index, 4, 2, 32)
    changed = [
        clips.ClipDataset(puppet_index, 4, 2, 32, **more)
        for more in (dict(still=2), dict(same_time=True), dict(boxes=boxes.TrueBoxes()))
    ]
    assert len({plain.hash, *(d.hash for d in changed)}) == 4


def test_mac_masks_people(puppet_index):
    task = MAC(objective="sc", source="box", **TINY)
    data = clips.ClipDataset(puppet_index, 4, 3, 32, views=2, **task.clip_options)
    batch = next(iter(clips.batches(data, 4, 0)))
    query, key = task.pair(batch)
    plain, (_, alpha) = methods.views_of(batch, task.views), task.draw(batch)
    inside = boxes.people_mask(batch["boxes"][:, 0], 32, 32)[:, None].expand_as(query)
    factor = alpha.repeat_interleave(2, 1)[:, None, :, None, None].expand_as(query)
    assert torch.equal(query[~inside], plain[:, 0][~inside]) and torch.equal(key, plain[:, 1])
    torch.testing.assert_close(query[inside], (plain[:, 0] * factor)[inside])
    assert torch.isfinite(task(batch)["loss"])


# ---------------------------------------------------------------- a detector


class Bright(torch.nn.Module):
    "Calls everything bright a person, and something else."

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, frames):
        assert all(f.dtype == torch.float32 and f.ndim == 3 for f in frames) and not torch.is_grad_enabled()
        boxes_ = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 9, 10, 10]])
        return [
            dict(boxes=boxes_, labels=torch.tensor([1, 17, 1]), scores=torch.tensor([0.9, 0.9, 0.2]))
            for _ in frames
        ]


def test_detect_writes_what_it_found(puppet_index, tmp_path):
    some = puppet_index.subset(range(3))
    lost = datasets.Index(
        "folder", "train", some.root, [*some.paths, "no/such.mp4"], [*some.labels, 0], some.classes
    )
    found = boxes.detect(
        lost, tmp_path / "people.csv", Bright(), every=4, score=0.5, device="cpu", progress=False
    )
    assert list(found.failed) == ["no/such.mp4"]
    with open(tmp_path / "people.csv", newline="") as file:
        first, rows = next(file), list(csv.DictReader(file))
    assert first == "# mvnb boxes: every=4 score=0.5 reach=2\n"
    assert [int(r["frame"]) for r in rows if r["path"] == str(some.paths[1])] == [
        *range(0, puppets.FRAMES, 4),
        puppets.FRAMES - 1,
    ]  # the last one was too far from the one before
    assert {(r["x0"], r["y1"]) for r in rows} == {("1.00", "4.00")}
    assert boxes.read_boxes(tmp_path / "people.csv").hash == found.hash and found.reach == 2
    with open(tmp_path / "people.failed.csv", newline="") as file:
        assert [(r["path"], r["why"]) for r in csv.DictReader(file)] == list(found.failed.items())


class Nobody(Bright):
    def forward(self, frames):
        return [
            dict(boxes=torch.tensor([[5.0, 5, 5.001, 9]]), labels=torch.ones(1), scores=torch.ones(1))
            for _ in frames
        ]


def test_every_frame_has_one_near_enough_that_was_looked_at():
    for total in range(1, 60):
        for every in range(1, 12):
            at = boxes._looked_at(total, every)
            assert (
                np.abs(np.arange(total)[:, None] - at).min(1).max() <= every // 2
                and len(set(at.tolist())) == len(at) <= -(-total // every) + 1
                and at[-1] < total
            )
    assert (
        boxes._looked_at(9, 4).tolist() == [0, 4, 8]
        and boxes._looked_at(8, 4).tolist() == [0, 4, 7]
        and boxes._looked_at(3, 1).tolist() == [0, 1, 2]
    )


def test_seldom_looked_at_fills_every_frame(puppet_index, tmp_path):
    "What a recipe reads without saying more: no empty masks between the frames that were looked at."
    boxes.detect(
        puppet_index.subset(range(2)), tmp_path / "b.csv", Bright(), every=7, device="cpu", progress=False
    )
    found = boxes.find_boxes(tmp_path / "b.csv").clip(
        puppet_index, 0, np.arange(puppets.FRAMES), (0, 0, 96, 96), 96
    )
    assert (found[..., 2] > 0).any(1).all()


def test_nobody_found_is_written_down(puppet_index, tmp_path):
    "A box without area (after rounding) is nobody, and a video of nobody is not a video that is missing."
    some = puppet_index.subset(range(2))
    found = boxes.detect(some, tmp_path / "b.csv", Nobody(), every=20, device="cpu", progress=False)
    found.check(some)
    assert (tmp_path / "b.csv").read_text().splitlines()[2:5] == [
        f"{some.paths[0]},{t},,,," for t in (0, 20, 39)
    ]
    assert "0 boxes in 2 videos" in repr(found)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_boxes import Bright, boxes, datasets
index = datasets.load("puppets-u", "train", root=sys.argv[2], scale=0.06).subset(range(6))
left = int(sys.argv[4])
class Dies(Bright):
    def forward(self, frames):
        global left
        left -= len(frames)
        if left < 0: os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(frames)
boxes.detect(index, sys.argv[3], Dies(), every=8, device="cpu", progress=False)
"""


@pytest.mark.parametrize("looks", [0, 12])
def test_killed_it_goes_on_to_the_same_file(puppet_index, puppets_root, tmp_path, looks):
    six, whole, out = puppet_index.subset(range(6)), tmp_path / "whole.csv", tmp_path / "cut.csv"
    boxes.detect(six, whole, Bright(), every=8, device="cpu", progress=False)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(puppets_root), str(out), str(looks)],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == -signal.SIGKILL and not out.exists() and (tmp_path / "cut.csv.part").is_file()
    ), done.stderr
    looked, again = [], Bright()
    again.register_forward_hook(lambda model, frames, out: looked.append(len(out)))
    boxes.detect(six, out, again, every=8, device="cpu", progress=False)
    assert out.read_bytes() == whole.read_bytes() and not (tmp_path / "cut.csv.part").exists()
    assert sum(looked) == (6 if looks == 0 else 5) * 6  # two were whole, of which the last is looked at again


def test_cut_short_it_goes_on_to_the_same_file(puppet_index, tmp_path):
    three, whole, part = puppet_index.subset(range(3)), tmp_path / "b.csv", tmp_path / "b.csv.part"
    boxes.detect(three, whole, Bright(), every=16, device="cpu", progress=False)
    content = whole.read_bytes()
    for size in (*range(0, len(content), 7), len(content)):
        whole.unlink()
        part.write_bytes(content[:size])
        boxes.detect(three, whole, Bright(), every=16, device="cpu", progress=False)
        assert whole.read_bytes() == content and not part.exists(), size


def test_cut_inside_an_odd_path(puppet_index, tmp_path):
    "Commas, quotes and line ends in paths; the file stops after each byte."
    paths = ['a, "b".mp4', "a.mp4", "a.mp4.mp4", "a\nb.mp4"]
    head, table = (
        "# mvnb boxes: every=1 score=0.5 reach=0\n" + ",".join(boxes.COLUMNS) + "\n",
        {p: ([0, 0, 1], [[0, 0, 1, 1], [1, 1, 2, 2], [0, 0, 0, 0]]) for p in paths},
    )
    blocks = [boxes._lines(p, *v) for p, v in table.items()]
    ends = np.cumsum([len(head), *map(len, blocks)])
    for size in range(len(head), ends[-1] + 1):
        (tmp_path / "part").write_text((head + "".join(blocks))[:size])
        done, kept = boxes._done(tmp_path / "part", head, False)
        whole = int((ends[1:] <= size).sum())
        assert len(done) in (whole, whole - 1) and done == set(paths[: len(done)]) and kept == ends[len(done)]


def test_a_finished_file_is_completed_and_one_made_otherwise_refused(puppet_index, tmp_path):
    out, run = tmp_path / "b.csv", dict(every=8, device="cpu", progress=False)
    boxes.detect(puppet_index.subset(range(2)), out, Bright(), **run)
    stamp = out.stat().st_mtime_ns
    boxes.detect(
        puppet_index.subset(range(2)), out, object(), **run
    )  # nothing to do: the detector is not touched
    assert out.stat().st_mtime_ns == stamp
    assert len(boxes.detect(puppet_index.subset(range(4)), out, Bright(), **run).table) == 4
    content = out.read_bytes()
    for other in (dict(every=4), dict(score=0.7)):
        with pytest.raises(boxes.BoxesError, match="made otherwise"):
            boxes.detect(puppet_index.subset(range(5)), out, Bright(), **run | other)
    write(tmp_path / "plain.csv", "a.mp4,0,1,2,3,4")
    with pytest.raises(boxes.BoxesError, match="made otherwise"):
        boxes.detect(puppet_index, tmp_path / "plain.csv", Bright(), **run)
    with pytest.raises(boxes.BoxesError, match="every is 0"):
        boxes.detect(puppet_index, out, Bright(), every=0)
    assert out.read_bytes() == content


def test_two_do_not_write_one_file(puppet_index, tmp_path):
    with settings.locked(tmp_path / ".b.csv.lock"):
        with pytest.raises(boxes.BoxesError, match="another process"):
            boxes.detect(puppet_index, tmp_path / "b.csv", Bright(), device="cpu", progress=False)
    assert (
        len(
            boxes.detect(
                puppet_index.subset([0]), tmp_path / "b.csv", Bright(), device="cpu", progress=False
            ).table
        )
        == 1
    )


def test_the_command_finds_people_and_goes_on(puppets_root, tmp_path, monkeypatch, capsys):
    from mvnb import cli

    some = datasets.load("puppets-u", "train", root=puppets_root, scale=0.06).subset(range(3))
    monkeypatch.setattr(
        datasets, "load", lambda name, split: some if (name, split) == ("ucf101", "train") else None
    )
    monkeypatch.setattr(boxes, "detector", Bright)
    words = ["boxes", "ucf101", "--every", "20", "--out", str(tmp_path / "b.csv"), "--device", "cpu"]
    assert (
        cli.main(words) == 0
        and "9 boxes in 3 videos" in (said := capsys.readouterr().out)
        and "ucf101_boxes" in said
    )
    monkeypatch.setattr(boxes, "detector", None)  # all is there: not called
    assert cli.main(words) == 0 and boxes.read_boxes(tmp_path / "b.csv").reach == 10
    some = datasets.Index(
        "folder", "train", some.root, [*some.paths, "no/such.mp4"], [*some.labels, 0], some.classes
    )
    monkeypatch.setattr(boxes, "detector", Bright)
    assert cli.main(words) == 1 and "no/such.mp4" in capsys.readouterr().err
    assert cli.main([*words, "--every", "5"]) == 1 and "made otherwise" in capsys.readouterr().err


def test_the_detectors_weights_are_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_WEIGHTS_MASKRCNN", str(tmp_path / "absent.pth"))
    with pytest.raises(
        models.WeightsError,
        match=r"absent.pth: no such file of weights; download https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco",
    ):
        boxes.detector()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(models.WeightsError, match="other.pth: not the weights"):
        boxes.detector(tmp_path / "other.pth")


def test_mask_rcnn_runs_from_a_local_file(tmp_path):
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.save(
        maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), tmp_path / "weights.pth"
    )
    model = boxes.detector(tmp_path / "weights.pth", min_size=64, max_size=64)
    found = boxes.people_in(model, torch.randint(0, 256, (3, 2, 48, 64), dtype=torch.uint8), score=0.0)
    assert len(found) == 2 and all(f.ndim == 2 and f.shape[1] == 4 and (f[:, 2] <= 64).all() for f in found)


def test_supervised_weights_are_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_WEIGHTS_R3D_18", str(tmp_path / "absent.pth"))
    with pytest.raises(
        models.WeightsError,
        match=r"absent.pth: no such file of weights; download https://download.pytorch.org/models/r3d_18-",
    ):
        models.build("r3d_18", weights="kinetics400")
    with pytest.raises(models.WeightsError, match="no Kinetics-400 weights"):
        models.build("i3d", weights="kinetics400")
    assert models.describe("r3d_18", 4, 32, weights="kinetics400") == models.describe("r3d_18", 4, 32)


def test_weights_are_loaded_from_a_file(tmp_path):
    first = models.build("r2plus1d_tiny", num_classes=4)
    path = models.save_weights(first, tmp_path / "w.safetensors")
    again = models.build("r2plus1d_tiny", weights=str(path))
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in again.state_dict().items())


# ---------------------------------------------------------------- still clips, shared frames, drawn strides


@pytest.mark.parametrize(
    "frames, length, still", [(60, 16, 4), (7, 16, 4), (1, 16, 4), (2, 8, 2), (300, 64, 4), (31, 8, 8)]
)
def test_still_clips(frames, length, still):
    third = max(1, frames // 3)
    for rng in (None, np.random.default_rng(0)):
        at = clips.still_indices(frames, length, still, 10, rng)
        assert at.shape == (10, length) and at.dtype == np.int64
        assert at.min() >= 0 and at.max() < third and (np.diff(at) >= 0).all()
        parts = at.reshape(10, still, length // still)
        assert (parts == parts[:, :, :1]).all()
        edges = np.arange(still + 1) * third / still
        assert ((parts[:, :, 0] >= np.floor(edges[:-1])) & (parts[:, :, 0] <= edges[1:])).all()


def test_still_clips_in_evaluation_are_fixed_and_different():
    at = clips.still_indices(240, 16, 4, 4)
    assert len({tuple(a) for a in at}) == 4 and np.array_equal(at, clips.still_indices(240, 16, 4, 4))


@pytest.mark.parametrize("options", [dict(still=3), dict(still=4, mode="dense")])
def test_still_refuses(puppet_index, options):
    with pytest.raises(ValueError, match="still="):
        clips.ClipDataset(puppet_index, 8, 2, 32, **options)


def test_a_still_data_set_has_so_many_pictures(puppet_index):
    for train in (True, False):
        data = clips.ClipDataset(
            puppet_index, 8, 2, 32, still=2, views=3, mode="random" if train else "uniform", train=train
        )
        clip = data.read(0, 3)["clip"].transpose(1, 2)
        assert (
            (clip[:, :4] == clip[:, :1]).all()
            and (clip[:, 4:] == clip[:, 4:5]).all()
            and data.times(0, 3, 40).max() < 13
        )
        assert not train or not np.array_equal(data.times(0, 3, 400), data.times(0, 4, 400))


def test_views_may_share_their_frames(puppet_index):
    data = clips.ClipDataset(puppet_index, 4, (1, 2, 3, 4), 32, views=3, same_time=True)
    for i in range(8):
        times = data.times(i, 2, 400)
        assert (times == times[0]).all() and np.array_equal(
            times[0], clips.ClipDataset(puppet_index, 4, (1, 2, 3, 4), 32).times(i, 2, 400)[0]
        )
        assert data.box(i, 2, 0, 96, 96) != data.box(i, 2, 1, 96, 96)


def test_a_drawn_stride_is_one_for_the_clip_and_each_equally_likely(puppet_index):
    data = clips.ClipDataset(puppet_index, 8, (1, 2, 3, 4), 32)
    steps = np.array([np.diff(data.times(0, e, 400)[0]) for e in range(400)])
    assert (steps == steps[:, :1]).all()
    assert np.abs(np.bincount(steps[:, 0], minlength=5)[1:] / 400 - 0.25).max() < 0.1
