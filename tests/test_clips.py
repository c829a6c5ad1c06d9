"Clips: sampling against brute force, loaders against direct reads, cache, bad files, resume and ranks."

import json
import multiprocessing
import os
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings as hyp, strategies as st

from mvnb import clips, datasets, puppets, video
from mvnb.clips import (
    ClipDataset,
    TooManyBadFiles,
    batches,
    centre_box,
    order,
    random_box,
    sample_rng,
    scaled_box,
    steps_per_epoch,
    still_clip_indices,
    temporal_indices,
)

FRAMES = {"a": 40, "b": 33, "c": 12, "d": 40, "e": 25}  # c is shorter than a clip
HEIGHT, WIDTH = 48, 64


def level(frame):
    return 20 + 5 * frame  # the luma of a frame tells its number


def write_video(path, frames, start=0):
    "Frame k is flat gray `level(k)` with a darker left edge; an exactly known number of frames."
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=12, options={"crf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(frames):
            rgb = np.full((HEIGHT, WIDTH, 3), level(start + k), np.uint8)
            rgb[:, : WIDTH // 2] -= 20
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        out.mux(stream.encode())


@dataclass
class Videos:
    "The part of `datasets.Index` that clips use."

    root: Path
    paths: list
    labels: np.ndarray
    hash: str = "videos"

    def __len__(self):
        return len(self.paths)

    def path(self, i):
        return self.root / self.paths[i]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in FRAMES.items():
        write_video(folder / f"{name}.mp4", frames)
    (folder / "bad.mp4").write_text("not a video")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    clips._held.clear()
    return tmp_path / "cache" / "clips"


def videos(root, names="abcde"):
    return Videos(root, [f"{n}.mp4" for n in names], np.arange(len(names)) + 10)


def with_bad(root, n=150, bad=(7,)):
    return Videos(root, ["bad.mp4" if i in bad else f"{'abde'[i % 4]}.mp4" for i in range(n)], np.arange(n))


def small(index, **kw):
    return ClipDataset(index, **(dict(length=8, stride=2, size=16) | kw))


def whole(index, batch_size=2, epoch=0, drop_last=False, **kw):
    dataset_kw = {
        k: kw.pop(k) for k in list(kw) if k not in ("workers", "shuffle", "start", "rank", "world", "seed")
    }
    return list(batches(small(index, **dataset_kw), batch_size, epoch, drop_last=drop_last, **kw))


def same(a, b):
    assert len(a) == len(b) and len(a) > 0
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for k in x:
            assert torch.equal(x[k], y[k]) if isinstance(x[k], torch.Tensor) else x[k] == y[k], k


# --- draws


def test_rng_is_a_function_of_all_its_arguments():
    first = lambda *a: sample_rng(*a).integers(0, 2**62)
    assert first(1, 2, 3, "x") == first(np.int64(1), torch.tensor(2), 3, "x")
    names = [
        (s, e, i, n)
        for s in range(4)
        for e in range(4)
        for i in range(12)
        for n in ("", "x", "time/0", "time/1")
    ]
    names += [(1, 11, 1), (11, 1, 1), (111, 1, 1), (1, 1, 111), (-1, 1, 1), (1, 2**40, 1)]
    assert len({first(*a) for a in names}) == len(names)


def test_neighbouring_samples_are_not_correlated():
    u = np.stack([sample_rng(0, 0, i).random(4) for i in range(3000)])
    for a, b in ((u[:-1, 0], u[1:, 0]), (u[:, 0], u[:, 1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.07
    assert abs(u.mean() - 0.5) < 0.02


# --- which frames

SIZES = dict(n=st.integers(1, 120), length=st.integers(1, 20), stride=st.integers(1, 6))


@given(
    **SIZES,
    seed=st.integers(0, 99),
    count=st.integers(1, 12),
    mode=st.sampled_from(["random", "uniform", "dense"]),
)
@hyp(max_examples=200, deadline=None)
def test_clips_are_strided_runs_inside_the_video(n, length, stride, seed, count, mode):
    got = temporal_indices(n, length, stride, mode, count, sample_rng(seed, 0, 0))
    assert got.shape == (count, length) and got.dtype == np.int64 and got.min() >= 0 and got.max() < n
    span = (length - 1) * stride + 1
    for clip in got:
        if n >= span:
            np.testing.assert_array_equal(np.diff(clip), stride)  # never looped when it fits
        np.testing.assert_array_equal(clip, [(clip[0] + k * stride) % n for k in range(length)])


@given(**SIZES, count=st.integers(2, 12))
@hyp(max_examples=100, deadline=None)
def test_uniform_goes_from_the_first_frame_to_the_last(n, length, stride, count):
    got = temporal_indices(n, length, stride, "uniform", count)
    span = (length - 1) * stride + 1
    assert got[0, 0] == 0
    if n >= span:
        assert got[-1, -1] == n - 1
        steps = np.diff(got[:, 0])
        assert steps.max() - steps.min() <= 1
    else:
        assert (got[:, 0] == 0).all()


@given(**SIZES)
@hyp(max_examples=100, deadline=None)
def test_dense_is_every_stridth_start(n, length, stride):
    span = (length - 1) * stride + 1
    want = [[s + k * stride for k in range(length)] for s in range(0, n, stride) if s + span <= n] or [
        [k * stride % n for k in range(length)]
    ]
    np.testing.assert_array_equal(temporal_indices(n, length, stride, "dense", None), want)


def test_random_reaches_every_start_equally():
    starts = Counter(
        int(temporal_indices(20, 4, 3, "random", 1, sample_rng(0, 0, i))[0, 0]) for i in range(5500)
    )
    assert set(starts) == set(range(11))  # 20 frames, span 10
    assert all(abs(v - 500) < 5 * 500**0.5 for v in starts.values())


def test_one_uniform_clip_is_the_middle_one():
    assert temporal_indices(21, 5, 1, "uniform").tolist() == [[8, 9, 10, 11, 12]]


@pytest.mark.parametrize(
    "args,match",
    [
        ((0, 4, 1), "num_frames 0"),
        ((9, 0, 1), "length 0"),
        ((9, 4, 0), "stride 0"),
        ((9, 4, 1, "uniform", 0), "count 0"),
        ((9, 4, 1, "uniform", None), "count None"),
        ((9, 4, 1, "sideways"), "sideways"),
        ((9, 4, 1, "random"), "rng"),
    ],
)
def test_impossible_sampling_is_refused(args, match):
    with pytest.raises(ValueError, match=match):
        temporal_indices(*args)


# --- which part of the frame


@given(h=st.integers(1, 400), w=st.integers(1, 400), seed=st.integers(0, 10**6))
@hyp(max_examples=200, deadline=None)
def test_boxes_lie_inside_the_frame(h, w, seed):
    for t, l, bh, bw in (random_box(h, w, sample_rng(seed, 0, 0)), centre_box(h, w), centre_box(h, w, 0.5)):
        assert 0 <= t and 0 <= l and bh >= 1 and bw >= 1 and t + bh <= h and l + bw <= w
        assert all(isinstance(v, int) for v in (t, l, bh, bw))
    assert centre_box(h, w)[2:] == (min(h, w),) * 2


def test_random_boxes_have_the_stated_area_and_aspect():
    boxes = np.array([random_box(2000, 2000, sample_rng(0, 0, i), (0.2, 0.6)) for i in range(3000)], float)
    area, aspect = boxes[:, 2] * boxes[:, 3] / 2000**2, boxes[:, 3] / boxes[:, 2]
    assert 0.199 < area.min() < 0.205 and 0.595 < area.max() < 0.601 and abs(area.mean() - 0.4) < 0.01
    assert 0.749 < aspect.min() and aspect.max() < 1.334 and abs(np.log(aspect).mean()) < 0.02
    room = 2000 - boxes[:, 2]
    place = boxes[:, 0] / room
    assert abs(place.mean() - 0.5) < 0.02 and place.min() < 0.01 and place.max() > 0.99


def test_a_frame_too_narrow_for_any_draw_gives_its_middle():
    assert random_box(10, 1000, sample_rng(0, 0, 0), (0.9, 1.0)) == (0, 493, 10, 13)
    assert random_box(1000, 10, sample_rng(0, 0, 0), (0.9, 1.0)) == (493, 0, 13, 10)


# --- which samples


@given(
    n=st.integers(1, 60),
    b=st.integers(1, 8),
    world=st.integers(1, 4),
    drop=st.booleans(),
    epoch=st.integers(0, 3),
)
@hyp(max_examples=150, deadline=None)
def test_ranks_share_out_one_global_order(n, b, world, drop, epoch):
    data = range(n)
    if drop and n < b * world:
        with pytest.raises(ValueError, match="smaller batch_size"):
            order(data, b, epoch) if n < b else steps_per_epoch(data, b, world)
        return
    one = [i for step in order(data, b * world, epoch, 5, True, drop) for i in step]
    ranks = [order(data, b, epoch, 5, True, drop, r, world) for r in range(world)]
    assert len(ranks[0]) == steps_per_epoch(data, b, world, drop)
    assert one == [i for k in range(len(ranks[0])) for r in ranks if k < len(r) for i in r[k]]
    assert sorted(one) == sorted(set(one)) and len(one) == (n // (b * world) * b * world if drop else n)
    if drop:
        assert all(len(step) == b for r in ranks for step in r)


def test_order_changes_with_seed_and_epoch_only():
    data = range(50)
    base = order(data, 5, 1, 7)
    assert base == order(data, 5, 1, 7) and sum(base, []) == sum(order(data, 10, 1, 7), [])
    assert base != order(data, 5, 2, 7) and base != order(data, 5, 1, 8)
    assert sum(order(data, 5, 1, 7, shuffle=False), []) == list(range(50))
    with pytest.raises(ValueError, match="rank 2"):
        order(data, 5, 0, rank=2, world=2)


# --- reading


def frame_numbers(clip):
    "Frame numbers of a clip [C,T,H,W], read from its brightest column."
    return [round((float(f.float().mean(0).mean(0).max()) - 20) / 5) for f in clip.unbind(1)]


@pytest.mark.parametrize("cached", [None, "memory", "disk"])
def test_evaluation_clips_are_the_uniform_ones_centre_cropped(root, cache, cached):
    (batch,) = whole(videos(root), 5, shuffle=False, views=3, mode="uniform", train=False, cache=cached)
    assert batch["clip"].shape == (5, 3, 3, 8, 16, 16) and batch["clip"].dtype == torch.uint8
    assert batch["label"].tolist() == [10, 11, 12, 13, 14] and batch["label"].dtype == torch.int64
    assert (
        batch["index"].tolist() == [0, 1, 2, 3, 4]
        and batch["ok"].all()
        and (batch["epoch"], batch["step"]) == (0, 0)
    )
    for sample, n in zip(batch["clip"], FRAMES.values()):
        for clip, start in zip(sample, np.rint(np.linspace(0, max(0, n - 15), 3)).astype(int)):
            assert frame_numbers(clip) == [(start + 2 * k) % n for k in range(8)]
            edge = (
                clip[:, :, :, 7:9].float().mean((0, 2)) - clip[:, :, :, 12:].float().mean((0, 2, 3))[:, None]
            )
            assert (edge[:, 0] < -15).all() and (
                edge[:, 1] > -5
            ).all()  # the middle of the frame is the middle of the clip


@pytest.mark.parametrize("cached", [None, "memory"])
def test_training_clips_follow_the_stated_draws(root, cache, cached):
    data = small(videos(root), views=2, seed=3, cache=cached)
    batch = next(batches(data, 5, 4, shuffle=False))
    direct = []
    for i, n in enumerate(FRAMES.values()):
        for v in range(2):
            times = temporal_indices(n, 8, 2, "random", 1, sample_rng(3, 4, i, f"time/{v}"))[0]
            box = random_box(HEIGHT, WIDTH, sample_rng(3, 4, i, f"crop/{v}"))
            assert data.box(4 * 0 + i, 4, v, HEIGHT, WIDTH) == box
            direct.append(video.read_clip(root / data.index.paths[i], times, (16, 16), box).rgb)
            if box[1] + box[3] > WIDTH * 0.6:
                assert frame_numbers(batch["clip"][i, v]) == times.tolist()
    direct = torch.stack(direct).view(5, 2, 3, 8, 16, 16)
    if cached is None:
        assert torch.equal(batch["clip"], direct)
    else:
        assert (batch["clip"].int() - direct).abs().float().mean() < 1.5


def test_views_and_epochs_differ_and_batch_size_does_not_matter(root):
    one, two = whole(videos(root), 1, views=2), whole(videos(root), 5, views=2)
    by_index = {int(b["index"]): b["clip"][0] for b in one}
    for i, clip in zip(two[0]["index"].tolist(), two[0]["clip"]):
        assert torch.equal(clip, by_index[i])
    assert not torch.equal(two[0]["clip"][:, 0], two[0]["clip"][:, 1])
    later = {int(b["index"]): b["clip"][0] for b in whole(videos(root), 1, 1, views=2)}
    assert all(not torch.equal(later[i], by_index[i]) for i in by_index)


@pytest.mark.parametrize("cached", [None, "memory"])
def test_workers_change_nothing(root, cache, cached):
    for kw in (dict(views=2), dict(views=2, mode="uniform", train=False)):
        same(
            whole(videos(root), workers=0, cache=cached, **kw),
            whole(videos(root), workers=2, cache=cached, **kw),
        )


@pytest.mark.parametrize("cached", [None, "memory"])
def test_start_skips_without_reading(root, cache, cached, monkeypatch):
    every = whole(videos(root), 1, 3, cache=cached)
    read = []
    for name in ("read", "_read_cached"):
        real = getattr(ClipDataset, name)
        monkeypatch.setattr(
            ClipDataset,
            name,
            lambda self, position, *a, real=real: (read.append(position), real(self, position, *a))[1],
        )
    rest = whole(videos(root), 1, 3, cache=cached, start=3)
    same(every[3:], rest)
    assert [b["step"] for b in rest] == [3, 4] and read == [int(b["index"]) for b in rest]
    assert whole_none(root, cached) == []


def whole_none(root, cached):
    return list(batches(small(videos(root), cache=cached), 1, 0, start=5))


def test_ranks_see_the_slices_of_one_process(root):
    one = whole(videos(root, "abde"), 4)
    parts = [whole(videos(root, "abde"), 2, rank=r, world=2) for r in range(2)]
    assert torch.equal(one[0]["clip"], torch.cat([p[0]["clip"] for p in parts]))
    assert torch.equal(one[0]["label"], torch.cat([p[0]["label"] for p in parts]))


def test_a_stride_may_be_drawn(root):
    data = small(videos(root, "a" * 30), stride=(1, 2, 3, 4), views=2)
    steps = [set(np.diff(t).tolist()) for i in range(30) for t in data.times(i, 0, 40)]
    assert all(len(s) == 1 for s in steps) and set().union(*steps) == {1, 2, 3, 4}


def test_motion_follows_the_crop(root):
    data = small(videos(root, "ab"), size=16, views=2, motion=True)
    batch = next(batches(data, 2, 0, shuffle=False))
    assert batch["mv"].shape == (2, 2, 8, 2, 2, 2) and batch["has_mv"].shape == (2, 2, 8, 2, 2)
    assert batch["mv"].dtype == torch.float32 and batch["has_mv"].dtype == torch.bool
    for i in range(2):
        for v, times in enumerate(data.times(i, 0, list(FRAMES.values())[i])):
            direct = video.read_clip(
                data.index.path(i), times, (16, 16), data.box(i, 0, v, HEIGHT, WIDTH), True
            )
            for a, b in (
                (batch["clip"], direct.rgb),
                (batch["mv"], direct.mv),
                (batch["has_mv"], direct.has_mv),
            ):
                assert torch.equal(a[i, v], b)


# --- bad files


@pytest.mark.parametrize("cached", [None, "memory"])
def test_a_bad_file_in_training_is_replaced_and_counted(root, cache, cached):
    index = with_bad(root)
    data = small(index, cache=cached)
    line = [i for step in order(data, 10, 0) for i in step]
    shown = torch.cat([b["index"] for b in batches(data, 10, 0)]).tolist()
    changed = [(a, b) for a, b in zip(line, shown) if a != b]
    stand_in = int(sample_rng(0, 0, 7, "replacement/1").integers(150))
    assert changed == [(7, stand_in)] and stand_in != 7
    assert set(data.failed) == {str(index.path(7))} and all(data.failed.values())


def test_replacement_does_not_depend_on_workers_and_failures_reach_the_main_process(root):
    runs = []
    for workers in (0, 2):
        data = small(with_bad(root, 120), length=2, size=8)
        runs.append((list(batches(data, 40, 2, workers=workers)), data.failed))
    same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and len(runs[0][1]) == 1


@pytest.mark.parametrize("cached", [None, "memory"])
@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_in_a_hundred_stops_the_run(root, cache, cached, workers):
    data = small(with_bad(root, 90, (7,)), length=2, size=8, cache=cached)
    with pytest.raises(TooManyBadFiles, match=r"1 of 90 videos cannot be read, more than 1 %: .*bad\.mp4: ."):
        list(batches(data, 10, 0, workers=workers))


@pytest.mark.parametrize("cached", [None, "memory", "disk"])
def test_nothing_but_bad_files_stops_too(root, cache, cached):
    with pytest.raises(TooManyBadFiles):
        list(batches(small(with_bad(root, 4, range(4)), cache=cached), 2, 0))


@pytest.mark.parametrize("cached", [None, "memory", "disk"])
def test_evaluation_never_replaces(root, cache, cached):
    data = small(with_bad(root, 6, (1, 4)), views=2, mode="uniform", train=False, cache=cached)
    got = list(batches(data, 4, 0, shuffle=False, drop_last=False))
    ok, clip = torch.cat([b["ok"] for b in got]), torch.cat([b["clip"] for b in got])
    assert ok.tolist() == [True, False, True, True, False, True]
    assert (
        torch.cat([b["index"] for b in got]).tolist()
        == torch.cat([b["label"] for b in got]).tolist()
        == list(range(6))
    )
    assert not clip[~ok].any() and all(c.any() for c in clip[ok]) and len(data.failed) == 1


# --- the cache


def test_memory_and_disk_agree_and_are_close_to_the_files(root, cache):
    kw = dict(views=2, mode="random", size=32)
    files, memory, disk = (whole(videos(root), cache=c, **kw) for c in (None, "memory", "disk"))
    same(memory, disk)
    for a, b in zip(files, memory):
        assert torch.equal(a["index"], b["index"])
        assert (a["clip"].int() - b["clip"]).abs().float().mean() < 1.5


def forbid(monkeypatch):
    def fail(*a):
        raise AssertionError("decoded again")

    monkeypatch.setattr(clips, "_decode", fail)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_decoded_once_for_all_epochs_and_data_sets(root, cache, kind, monkeypatch):
    first = whole(videos(root), cache=kind)
    forbid(monkeypatch)
    same(first, whole(videos(root), cache=kind))
    whole(videos(root), epoch=1, length=4, views=2, cache=kind, cache_size=round(1.3 * 16))
    with pytest.raises(AssertionError, match="decoded again"):
        whole(videos(root), cache=kind, cache_size=30)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_changed_file_is_decoded_again(tmp_path, cache, kind):
    write_video(tmp_path / "x.mp4", 20)
    index = Videos(tmp_path, ["x.mp4"], np.zeros(1, int))
    kw = dict(mode="uniform", train=False, cache=kind)
    before = whole(index, **kw)[0]["clip"]
    write_video(tmp_path / "x.mp4", 20, start=15)
    os.utime(tmp_path / "x.mp4", ns=(1, 1))
    after = whole(index, **kw)[0]["clip"]
    assert [b - a for a, b in zip(frame_numbers(before[0, 0]), frame_numbers(after[0, 0]))] == [15] * 8
    assert len(list(cache.glob("*/frames.bin"))) == (kind == "disk")  # the stale set is gone


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_a_file_holds_decides_and_not_its_size_and_time(tmp_path, cache, kind, monkeypatch):
    path, other = tmp_path / "x.mp4", tmp_path / "other.mp4"
    write_video(path, 20)
    write_video(other, 20, start=15)
    first, second = path.read_bytes(), other.read_bytes()
    size = max(len(first), len(second))
    path.write_bytes(first.ljust(size, b"\0"))
    index = Videos(tmp_path, ["x.mp4"], np.zeros(1, int))
    kw = dict(mode="uniform", train=False, cache=kind)
    before, about = whole(index, **kw)[0]["clip"], path.stat()
    path.write_bytes(second.ljust(size, b"\0"))  # in place
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    after = whole(index, **kw)[0]["clip"]
    assert [b - a for a, b in zip(frame_numbers(before[0, 0]), frame_numbers(after[0, 0]))] == [15] * 8
    os.utime(path, (1e9, 1e9))
    forbid(monkeypatch)
    assert torch.equal(whole(index, **kw)[0]["clip"], after)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "index.json").unlink(),
        lambda f: (f / "frames.bin").unlink(),
        lambda f: (f / "frames.bin").write_bytes((f / "frames.bin").read_bytes()[:-100]),
        lambda f: (f / "index.json").write_text((f / "index.json").read_text()[:-20]),
        lambda f: (f / "index.json").write_text(
            json.dumps(json.loads((f / "index.json").read_text()[8:]) | {"format": 0})
        ),
        lambda f: (f / "index.json").write_text("[]"),
    ],
)
def test_a_damaged_disk_cache_is_made_again(root, cache, damage):
    first = whole(videos(root, "ab"), cache="disk")
    (folder,) = [p for p in cache.iterdir() if p.is_dir()]
    damage(folder)
    same(first, whole(videos(root, "ab"), cache="disk"))


def test_a_failed_build_leaves_nothing_behind(root, cache, monkeypatch):
    def fail(path, short, motion):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(clips, "_decode", fail)
        with pytest.raises(KeyboardInterrupt):
            whole(videos(root), cache="disk")
    assert [p for p in cache.iterdir() if p.is_dir()] == []
    assert len(whole(videos(root), cache="disk")) == 3


def _open_in_process(root, log, queue):
    real = clips._write

    def counted(*a):
        with open(log, "a") as f:
            f.write("x")
        real(*a)

    clips._write = counted
    data = small(videos(root), cache="disk")
    queue.put([int(b["clip"].sum()) for b in batches(data, 5, 0)])


def test_two_processes_decode_once(root, cache, tmp_path):
    ctx, log = multiprocessing.get_context("fork"), tmp_path / "log"
    queue = ctx.Queue()
    both = [ctx.Process(target=_open_in_process, args=(root, log, queue)) for _ in range(2)]
    for p in both:
        p.start()
    sums = [queue.get(timeout=60) for _ in both]
    for p in both:
        p.join(60)
    assert log.read_text() == "x" and sums[0] == sums[1] and [p.exitcode for p in both] == [0, 0]


def test_memory_is_bounded(root, cache, monkeypatch):
    monkeypatch.setattr(clips, "_HELD_BYTES", 1)
    for size in (16, 20, 24):
        whole(videos(root, "ab"), size=size, cache="memory")
    assert len(clips._held) == 1


# --- the data set's own


def test_hash_tells_what_a_batch_holds(root):
    base = small(videos(root)).hash
    assert base == small(videos(root)).hash
    changes = [
        dict(length=4),
        dict(stride=1),
        dict(size=8),
        dict(views=2),
        dict(mode="uniform"),
        dict(scale=(0.5, 1.0)),
        dict(seed=1),
        dict(train=False),
        dict(centre=0.9),
        dict(cache="memory"),
        dict(stride=(1, 2)),
        dict(motion=True),
    ]
    assert len({small(videos(root), **c).hash for c in changes} | {base}) == len(changes) + 1
    assert small(videos(root), cache="memory").hash == small(videos(root), cache="disk").hash


@pytest.mark.parametrize(
    "bad,match",
    [
        (dict(cache="tape"), "tape"),
        (dict(motion=True, motion_grid=-1), "motion_grid"),
        (dict(mode="odd"), "odd"),
        (dict(stride=(1, 2), mode="uniform"), "strides"),
        (dict(size=0), "size 0"),
        (dict(views=0), "views 0"),
    ],
)
def test_impossible_data_sets_are_refused(root, bad, match):
    with pytest.raises(ValueError, match=match):
        small(videos(root), **bad)


def test_empty_index_and_too_large_batch(root):
    with pytest.raises(ValueError, match="no video"):
        small(videos(root, ""))
    with pytest.raises(ValueError, match="needs 12 videos, the index has 5"):
        batches(small(videos(root)), 6, 0, world=2)
    with pytest.raises(ValueError, match="start -1"):
        batches(small(videos(root)), 1, 0, start=-1)


@pytest.mark.real
def test_real_videos_through_files_and_cache(shared_data, cache):
    "Real files of several codecs and sizes: the cached clip is the clip read from the file, a little softer."
    paths = (
        sorted((shared_data / "mini").glob("*/*_g03_c01.avi"))[:4]
        + sorted((shared_data / "clips" / "kinetics400").glob("*.mp4"))[:2]
    )
    index = Videos(shared_data, [str(p.relative_to(shared_data)) for p in paths], np.arange(len(paths)))
    for kw in (dict(views=2), dict(views=3, mode="uniform", train=False)):
        (files,), (cached,) = (
            whole(index, len(paths), length=4, stride=4, size=48, shuffle=False, cache=c, **kw)
            for c in (None, "memory")
        )
        gap = (files["clip"].int() - cached["clip"]).abs().float().mean((2, 3, 4, 5))
        spread = files["clip"].float().std((2, 3, 4, 5))
        assert files["ok"].all() and cached["ok"].all() and (gap < 0.2 * spread).all(), (gap, spread)


@pytest.mark.parametrize("stride", [0, -1, 1.5, (), (0,), (1, 2.5), "2"])
def test_a_stride_is_a_whole_number_or_several(tmp_path, stride):
    with pytest.raises(ValueError, match="stride is"):
        ClipDataset(Videos(tmp_path, ["a.mp4"], np.zeros(1)), stride=stride)


def test_a_negative_number_of_still_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="still=-4"):
        ClipDataset(Videos(tmp_path, ["a.mp4"], np.zeros(1)), length=8, still=-4)


# --- as MAC was released: short videos, still clips, scaled frames. The oracles here follow its description


def repeated(n, length, stride, start):
    "A clip frame by frame: past the end, the last frame is shown again."
    clip = []
    for k in range(length):
        t = start + k * stride
        clip.append(t if t < n else n - 1)
    return clip


@given(**SIZES, seed=st.integers(0, 99), count=st.integers(1, 5))
@hyp(max_examples=200, deadline=None)
def test_repeat_shows_the_last_frame_of_a_short_video(n, length, stride, seed, count):
    span = (length - 1) * stride + 1
    for mode in ("random", "uniform", "dense"):
        rng = sample_rng(seed, 0, 0)
        got = temporal_indices(n, length, stride, mode, count, rng, short="repeat")
        assert got.shape == (count, length) and got.dtype == np.int64
        for clip in got:
            assert clip.tolist() == repeated(n, length, stride, int(clip[0]))
            assert n >= span or clip[0] == 0
        if n >= span:  # nothing to repeat: the clips of the other rule
            wrapped = temporal_indices(n, length, stride, mode, count, sample_rng(seed, 0, 0), short="wrap")
            np.testing.assert_array_equal(got, wrapped)


def test_wrap_is_what_it_was():
    for mode in ("random", "uniform"):
        by_default = temporal_indices(9, 8, 3, mode, 4, sample_rng(0, 0, 0))
        wrapped = temporal_indices(9, 8, 3, mode, 4, sample_rng(0, 0, 0), "wrap")
        np.testing.assert_array_equal(by_default, wrapped)
        np.testing.assert_array_equal(np.diff(by_default) % 9, 3)
    with pytest.raises(ValueError, match="mirror"):
        temporal_indices(9, 8, 3, "uniform", short="mirror")


@pytest.mark.parametrize("cached", [None, "memory"])
def test_a_short_video_in_training_and_evaluation(root, cache, cached):
    want = {"wrap": [2 * k % 12 for k in range(8)], "repeat": [0, 2, 4, 6, 8, 10, 11, 11]}
    for short, frames in want.items():
        data = small(videos(root, "c"), views=3, mode="uniform", train=False, short=short, cache=cached)
        batch = next(batches(data, 1, 0, shuffle=False))
        assert [frame_numbers(clip) for clip in batch["clip"][0]] == [frames] * 3  # one place: one clip
    data = small(videos(root, "c"), views=2, short="repeat", cache=cached, scale=(1.0, 1.0))
    for epoch in range(3):
        assert data.times(0, epoch, 12).tolist() == [want["repeat"]] * 2
        batch = next(batches(data, 1, epoch))
        assert [frame_numbers(clip) for clip in batch["clip"][0]] == [want["repeat"]] * 2


def slow_still(n, length, stride, still, start, short):
    "An ordinary clip of the first third; of every length/still frames only the first, shown instead of all."
    third = max(1, n // 3)
    ordinary = [start + k * stride for k in range(length)]
    inside = [t % third if short == "wrap" else min(t, third - 1) for t in ordinary]
    each = length // still
    return [inside[k - k % each] for k in range(length)]


@given(
    n=st.integers(1, 300),
    stride=st.integers(1, 4),
    sizes=st.sampled_from([(16, 4), (8, 2), (64, 4), (8, 8), (6, 1)]),
    short=st.sampled_from(["wrap", "repeat"]),
    seed=st.integers(0, 99),
)
@hyp(max_examples=200, deadline=None)
def test_still_clips_of_an_ordinary_clip(n, stride, sizes, short, seed):
    length, still = sizes
    third, span = max(1, n // 3), (length - 1) * stride + 1
    for rng in (None, sample_rng(seed, 0, 0)):
        got = still_clip_indices(n, length, stride, still, 3, rng, short)
        assert got.shape == (3, length) and got.dtype == np.int64 and got.min() >= 0 and got.max() < third
        for clip in got:
            assert clip.tolist() == slow_still(n, length, stride, still, int(clip[0]), short)
        if third >= span and rng is None:
            assert got[0, 0] == 0 and got[-1, 0] == third - span


def test_released_still_frames_are_0_4_8_12():
    assert still_clip_indices(120, 16, 2, 4).tolist() == [[t for t in (4, 12, 20, 28) for _ in range(4)]]
    with pytest.raises(ValueError, match="length 16"):
        still_clip_indices(120, 16, 2, 5)


def test_a_data_set_of_released_still_clips(root):
    options = dict(length=8, stride=(1, 2), still=2, views=2)
    data = small(videos(root), **options, still_from="clip")
    seen = set()
    for epoch in range(40):
        for view, clip in enumerate(data.times(0, epoch, 90)):
            rng = sample_rng(0, epoch, 0, f"time/{view}")
            stride = int(rng.choice((1, 2)))
            start = int(rng.integers(0, 30 - 7 * stride))
            assert clip.tolist() == [start] * 4 + [start + 4 * stride] * 4
            seen.add(stride)
    assert seen == {1, 2}
    evaluation = small(videos(root), still=2, views=3, mode="uniform", train=False, still_from="clip")
    starts = evaluation.times(0, 0, 90)[:, 0].tolist()
    assert starts == [0, 8, 15] and evaluation.times(0, 0, 90)[1].tolist() == [8] * 4 + [16] * 4
    usual = small(videos(root), **options)
    rng = sample_rng(0, 3, 1, "time/1")
    np.testing.assert_array_equal(usual.times(1, 3, 90)[1:], clips.still_indices(90, 8, 2, 1, rng))


RELEASED = ((149, 112), (171, 128), (192, 144))


def slow_window(height, width, to, size, y, x):
    "A window taken back from the scaled frame to the original, in exact fractions."
    scaled_width, scaled_height = to if width >= height else (to[1], to[0])
    down, across = Fraction(height, scaled_height), Fraction(width, scaled_width)
    return y * down, x * across, size * down, size * across


@given(
    height=st.integers(60, 500),
    width=st.integers(60, 500),
    to=st.sampled_from(RELEASED),
    seed=st.integers(0, 10**6),
)
@hyp(max_examples=300, deadline=None)
def test_windows_of_scaled_frames(height, width, to, seed):
    w, h = to if width >= height else (to[1], to[0])
    rng = sample_rng(seed, 0, 0)
    y, x = (int(rng.integers(0, room)) for room in (h - 111, w - 111))
    draws = {(y, x): scaled_box(height, width, to, 112, sample_rng(seed, 0, 0))}
    draws[(h - 112) // 2, (w - 112) // 2] = scaled_box(height, width, to, 112)
    for (y, x), box in draws.items():
        want = slow_window(height, width, to, 112, y, x)
        assert max(abs(a - b) for a, b in zip(box[2:], want[2:])) <= Fraction(1, 2) + Fraction(1, 10**9)
        assert max(abs(a - b) for a, b in zip(box[:2], want[:2])) <= 1  # kept inside the frame
        assert all(isinstance(v, int) for v in box)
        assert box[0] >= 0 and box[1] >= 0 and box[0] + box[2] <= height and box[1] + box[3] <= width


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
@hyp(max_examples=100, deadline=None)
def test_windows_of_tiny_frames_keep_a_pixel(height, width, seed):
    top, left, h, w = scaled_box(height, width, (192, 144), 112, sample_rng(seed, 0, 0))
    assert h >= 1 and w >= 1 and top >= 0 and left >= 0 and top + h <= height and left + w <= width


def test_windows_of_portrait_frames_are_those_of_landscape_ones_turned():
    assert scaled_box(240, 320, (171, 128), 112) == (15, 54, 210, 210)
    assert scaled_box(320, 240, (171, 128), 112) == (54, 15, 210, 210)
    assert scaled_box(640, 360, (149, 112), 112)[3] == 360  # short side 112: all of the width


def test_windows_reach_every_place_and_size_equally():
    data = small(videos(root=Path("."), names="a"), size=112, resize=RELEASED)
    boxes = [data.box(0, epoch, 0, 288, 384) for epoch in range(1500)]
    heights = Counter(box[2] for box in boxes)
    assert set(heights) == {288, 252, 224} and all(abs(v - 500) < 100 for v in heights.values())
    large = [box for box in boxes if box[2] == 224]  # scaled to 192 × 144, two original pixels each
    assert {box[0] for box in large} == set(range(0, 65, 2))
    assert {box[1] for box in large} == set(range(0, 161, 2))


def test_windows_are_a_function_of_seed_epoch_index_and_view(root):
    def make(**more):
        return small(videos(root), views=2, size=112, resize=RELEASED, **more)

    boxes = {}
    for seed in range(2):
        for epoch in range(2):
            for view in range(2):
                boxes[seed, epoch, view] = tuple(
                    make(seed=seed).box(i, epoch, view, 1440, 1920) for i in range(5)
                )
    assert len(set(boxes.values())) == len(boxes)
    again = tuple(make(seed=1, length=4, short="repeat").box(i, 1, 1, 1440, 1920) for i in range(5))
    assert again == boxes[1, 1, 1]


def textured(path, height, width, frames=6):
    "A video of smooth colours that move, detailed enough for a wrong crop to show."
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=12, options={"crf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(frames):
            waves = [np.sin(rows / 9 + k / 3), np.cos(columns / 13), np.sin((rows + columns) / 17 - k)]
            rgb = np.stack([128 + 100 * wave for wave in waves], 2).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        out.mux(stream.encode())


def scaled_then_cropped(path, frames, to, size, y, x):
    "Every whole frame scaled, then the window cut from it: the order of the description."
    import cv2

    whole = video.read_clip(path, frames).rgb
    height, width = whole.shape[2:]
    to = to if width >= height else to[::-1]
    pictures = []
    for frame in whole.unbind(1):
        scaled = cv2.resize(frame.permute(1, 2, 0).numpy(), to, interpolation=cv2.INTER_AREA)
        pictures.append(scaled[y : y + size, x : x + size])
    return torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)


@pytest.mark.parametrize("height,width", [(240, 320), (180, 320), (320, 240)])
@pytest.mark.parametrize("cached", [None, "memory"])
def test_pixels_are_those_of_frames_scaled_then_cropped(tmp_path, cache, height, width, cached):
    textured(tmp_path / "x.mp4", height, width)
    index = Videos(tmp_path, ["x.mp4"], np.zeros(1, int))
    common = dict(length=3, stride=2, size=112, cache=cached)
    data = small(index, **common, resize=RELEASED)
    for epoch in range(6):
        rng = sample_rng(0, epoch, 0, "crop/0")
        to = RELEASED[rng.integers(3)]
        w, h = to if width >= height else to[::-1]
        y, x = (int(rng.integers(0, room)) for room in (h - 111, w - 111))
        times = data.times(0, epoch, 6)[0]
        want = scaled_then_cropped(tmp_path / "x.mp4", times, to, 112, y, x)
        got = next(batches(data, 1, epoch))["clip"][0, 0]
        assert (got.int() - want).abs().float().mean() < 4  # a window one pixel off: over 5
    tests = small(index, **common, mode="uniform", train=False, test_resize=(171, 128))
    w, h = (171, 128) if width >= height else (128, 171)
    want = scaled_then_cropped(tmp_path / "x.mp4", [0, 2, 4], (171, 128), 112, (h - 112) // 2, (w - 112) // 2)
    got = next(batches(tests, 1, 0))["clip"][0, 0]
    assert (got.int() - want).abs().float().mean() < 4  # a window one pixel off: over 5


@pytest.mark.parametrize(("height", "width"), [(240, 320), (720, 1280), (1280, 720)])
def test_a_short_side_keeps_the_aspect(root, height, width):
    "Scaled to a short side of 256, a centred square of 224 covers seven eighths of it."
    tests = small(videos(root), size=224, train=False, mode="uniform", test_resize=256)
    top, left, rows, columns = tests.box(0, 0, 0, height, width)
    assert rows == columns == 224 * min(height, width) // 256
    assert abs(2 * top + rows - height) <= 1 and abs(2 * left + columns - width) <= 1


def test_the_cache_keeps_what_the_largest_size_needs(root):
    index = videos(root)
    assert small(index, size=112).cache_size == 146
    assert small(index, size=112, resize=RELEASED).cache_size == 144
    assert small(index, size=112, resize=RELEASED, cache_size=99).cache_size == 99
    evaluation = dict(size=112, train=False, mode="uniform", resize=RELEASED)
    assert small(index, **evaluation).cache_size == 146
    assert small(index, **evaluation, test_resize=(171, 128)).cache_size == 128
    assert small(index, **evaluation, test_resize=128).cache_size == 128
    assert small(index, size=112, test_resize=(171, 128)).cache_size == 146


def test_new_options_leave_the_hash_until_they_are_used(root):
    index = videos(root)
    base = small(index).hash
    assert base == "367843402980317a"  # as it was before there were these options
    assert small(index, still=4).hash == "d0fe315b77dbf3c2"
    assert small(index, short="wrap", resize=(), test_resize=None, still_from="third").hash == base
    changes = [
        dict(short="repeat"),
        dict(resize=((16, 16),)),
        dict(resize=((20, 16),)),
        dict(test_resize=(20, 16)),
        dict(still=4),
        dict(still=4, still_from="clip"),
    ]
    assert len({small(index, **c).hash for c in changes} | {base}) == len(changes) + 1
    lists = small(index, resize=[[20, 16]], test_resize=[20, 16])
    assert lists.hash == small(index, resize=((20, 16),), test_resize=(20, 16)).hash


@pytest.mark.parametrize(
    "bad,match",
    [
        (dict(short="mirror"), "mirror"),
        (dict(still_from="half"), "half"),
        (dict(resize=((15, 15),)), r"\(15, 15\)"),
        (dict(resize=((16, 20),)), r"\(16, 20\)"),
        (dict(resize=(20, 16)), "20"),
        (dict(test_resize=(20, 12)), r"\(20, 12\)"),
        (dict(test_resize=(20, 16), centre=0.9), "centre 0.9"),
        (dict(test_resize=20, centre=0.9), "centre 0.9"),
        (dict(test_resize=12), "a short side of at least 16"),
    ],
)
def test_impossible_sizes_and_rules_are_refused(root, bad, match):
    with pytest.raises(ValueError, match=match):
        small(videos(root), **bad)


def test_recipes_carry_the_new_options_and_keep_their_hashes(root):
    from mvnb import recipes

    data, schedule = recipes.Data("ucf101"), recipes.Schedule(epochs=1, batch_size=2)
    usual, new = (
        recipes.Recipe("pretrain", data, "r3d18", cut, schedule, method="moco")
        for cut in (
            recipes.Clips(),
            recipes.Clips(short="repeat", resize=RELEASED, test_resize=(171, 128), still_from="clip"),
        )
    )
    assert not {"short", "resize", "test_resize", "still_from"} & set(json.loads(usual.json())["clips"])
    again = recipes.from_json(new.json())
    assert again == new and again.hash == new.hash != usual.hash and again.clips.resize == RELEASED
    built = ClipDataset(videos(root), **vars(again.clips))
    assert (built.short, built.resize, built.test_resize) == ("repeat", RELEASED, (171, 128))


# Videos that are drawn, and gray clips.


def drawn(split="train", n=6, **options):
    index = datasets.load("puppets-u", split, seed=3, videos=n)
    return ClipDataset(index, **(dict(length=4, stride=3, size=24) | options))


def test_drawn_clips_are_cut_like_those_of_files(cache):
    "A random box of the drawn frames, at the times of the sample, in both ways of reading."
    dataset = drawn(views=2, scale=(0.4, 1.0))
    (batch,) = batches(dataset, 6, 1, shuffle=False)
    for i in range(6):
        frames = dataset.index.drawing.video(i, size=dataset.cache_size)[0]
        assert (batch["clip"][i] == dataset.read(i, 1)["clip"]).all()
        for view, at in enumerate(dataset.times(i, 1, puppets.FRAMES)):
            top, left, height, width = dataset.box(i, 1, view, 96, 96)
            factor = dataset.cache_size / 96
            y, x = factor * (top + height / 2), factor * (left + width / 2)
            middle = frames[at, int(y), int(x)].astype(float)
            around = frames[at, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(4, 9, 3)
            seen = batch["clip"][i, view, :, :, 11:13, 11:13].float().mean((-1, -2)).T.numpy()
            low, high = around.min(1) - 12, around.max(1) + 12
            assert ((low <= seen) & (seen <= high)).all(), (middle, seen)


def test_a_drawn_evaluation_draws_the_frames_it_needs(cache):
    dataset = drawn("test-unbiased", views=2, mode="uniform", train=False)
    assert dataset.cache_size == 24
    (batch,) = batches(dataset, 6, 0, shuffle=False, drop_last=False)
    assert dataset.decoded().frames[0].shape[0] == len(np.unique(dataset.times(0, 0, puppets.FRAMES)))
    for i in range(6):
        frames = dataset.index.drawing.video(i, size=24)[0]
        wanted = torch.from_numpy(frames[dataset.times(i, 0, puppets.FRAMES)]).permute(0, 4, 1, 2, 3)
        assert (batch["clip"][i] == wanted).all()
    assert (batch["label"] == torch.tensor(dataset.index.labels)).all()


def test_boxes_of_drawn_videos_go_with_the_crop(cache):
    from mvnb.boxes import find_boxes

    dataset = drawn(boxes=find_boxes("truth"), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    sample = dataset.read(0, 0)
    truth = puppets.boxes_of(dataset.index.drawing.video(0)[1])[dataset.times(0, 0, puppets.FRAMES)[0]]
    assert torch.allclose(sample["boxes"][0, :, 0], torch.from_numpy(truth) * 24 / 96, atol=0.01)


@pytest.mark.parametrize("cached", [None, "memory"])
def test_gray_clips_are_the_luma_of_colour_clips(root, cache, cached):
    colour = whole(videos(root), cache=cached)
    gray = whole(videos(root), cache=cached, gray=True)
    for a, b in zip(colour, gray):
        assert b["clip"].shape[2] == 1
        luma = (a["clip"].float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 1, 3, 1, 1, 1)).sum(2)
        assert (b["clip"][:, :, 0].float() - luma).abs().max() <= 1.01


def test_drawn_videos_have_the_vectors_of_their_files(cache, tmp_path):
    kw = dict(length=8, stride=2, size=32, views=2, motion=True, motion_grid=12)
    data = drawn(n=6, **kw)
    options = puppets._H264 | dict(bf=puppets.LOOKS["puppets-u"]["bframes"])
    names = [f"{i}.mp4" for i in range(6)]
    for i, name in enumerate(names):
        video.write_video(tmp_path / name, data.index.drawing.video(i)[0], puppets.FPS, options=options)
    files = ClipDataset(Videos(tmp_path, names, data.labels), **kw)
    for position in (0, 5):
        one, other = data.read(position), files.read(position)
        assert torch.equal(one["has_mv"], other["has_mv"]) and one["has_mv"].any()
        assert torch.allclose(one["mv"], other["mv"], atol=1e-5)
    tests = [ClipDataset(d.index, **kw, mode="uniform", train=False).read(2) for d in (data, files)]
    assert torch.allclose(tests[0]["mv"], tests[1]["mv"], atol=1e-5)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("grid", [None, 12, 5])
def test_cached_vectors_are_those_of_the_files(root, cache, kind, grid):
    kw = dict(views=2, mode="random", size=32, motion=True, motion_grid=grid)
    for a, b in zip(whole(videos(root), **kw), whole(videos(root), cache=kind, **kw)):
        assert a["mv"].shape == b["mv"].shape == (len(a["index"]), 2, 8, 2, grid or 4, grid or 4)
        assert torch.equal(a["has_mv"], b["has_mv"]) and a["has_mv"].any()
        assert torch.allclose(a["mv"], b["mv"], atol=1e-4)


def test_some_drawn_videos_are_those_of_the_whole(cache):
    index = drawn(n=20).index
    some = index.subset([11, 3]).subset([1])
    assert list(some.paths) == [index.paths[3]] and some.labels.tolist() == [index.labels[3]]
    assert (some.drawing.video(0, size=24)[0] == index.drawing.video(3, size=24)[0]).all()
    assert len({index.hash, some.hash, index.subset([3, 11]).hash}) == 3
    assert len(index.limit(1)) == 8
    read = ClipDataset(some, length=4, stride=3, size=24, train=False, mode="uniform").read(0)["clip"]
    assert read.shape == (1, 3, 4, 24, 24)


# --- one frame of each segment


@hyp(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 32), st.integers(1, 5), st.integers(0, 10**6))
def test_a_segment_gives_a_frame_of_its_own(n, length, count, seed):
    "Frame k lies in [k n/L, (k+1) n/L), in exact fractions, drawn or fixed; a short video too."
    for rng in (None, sample_rng(seed, 0, 0)):
        found = clips.segment_indices(n, length, count, rng)
        assert found.shape == (count, length) and found.dtype == np.int64
        for clip in found.tolist():
            for k, t in enumerate(clip):
                first, end = Fraction(k * n, length), Fraction((k + 1) * n, length)
                assert int(first) <= t < end and t < n


@pytest.mark.parametrize("n,length,count", [(40, 8, 2), (40, 16, 3), (7, 16, 2), (1, 4, 3), (300, 16, 5)])
def test_the_fixed_place_in_a_segment(n, length, count):
    found = clips.segment_indices(n, length, count)
    for v in range(count):
        for k in range(length):
            assert found[v, k] == int((k + (v + Fraction(1, 2)) / count) * Fraction(n, length))
    if n >= length * count:
        assert len(np.unique(found, axis=0)) == count


def test_every_frame_of_a_segment_is_drawn_alike():
    drawn = np.concatenate([clips.segment_indices(40, 8, 1, sample_rng(0, e, 0)) for e in range(2000)])
    counts = np.bincount(drawn.flatten(), minlength=40)
    assert (abs(counts - 2000 / 5) < 5 * (2000 / 5 * 0.8) ** 0.5).all()


@pytest.mark.parametrize("cached", [None, "memory"])
def test_segments_of_files_show_their_frames(root, cache, cached):
    "The gray of each frame of a clip tells its number; c has 12 frames for 16 segments."
    for train in (True, False):
        kw = dict(length=16, sampling="segments", views=2, cache=cached, train=train, scale=(1.0, 1.0))
        dataset = small(videos(root), mode="random" if train else "uniform", **kw)
        for batch in batches(dataset, 5, 1, shuffle=False):
            for position, name in enumerate("abcde"):
                times = dataset.times(position, 1, FRAMES[name])
                assert (np.diff(times) >= 0).all()
                gray = batch["clip"][position, :, 1, :, :, -1].float().mean(-1).numpy()
                assert (np.abs(gray - level(times)) <= 4).all()


def test_random_segments_follow_the_rule_of_chance(root):
    dataset = small(videos(root), sampling="segments", views=2)
    want = [clips.segment_indices(40, 8, 1, sample_rng(0, 3, 2, f"time/{view}"))[0] for view in range(2)]
    assert (dataset.times(2, 3, 40) == want).all() and (want[0] != want[1]).any()
    assert "one frame of each segment" in repr(dataset)


# --- multi-scale crops


def all_multiscale(height, width, scales):
    "Every box by enumeration: places as fractions of the free space, rounded down."
    found = Counter()
    thirteen = "00 02 04 20 22 24 40 42 44 11 13 31 33".split()
    for i, a in enumerate(scales):
        for j, b in enumerate(scales):
            if j in (i - 1, i, i + 1):
                h, w = round(a * min(height, width)), round(b * min(height, width))
                for y, x in thirteen:
                    top, left = Fraction(int(y), 4) * (height - h), Fraction(int(x), 4) * (width - w)
                    found[int(top), int(left), h, w] += 1
    return found


@pytest.mark.parametrize("height,width", [(48, 64), (64, 48), (50, 50), (3, 200)])
def test_multi_scale_crops_are_all_of_the_enumeration_and_alike(height, width):
    want = all_multiscale(height, width, (1, 0.875, 0.75, 0.66))
    assert sum(want.values()) == 130
    n = 13000
    drawn = Counter(clips.multiscale_box(height, width, sample_rng(0, i, 0)) for i in range(n))
    assert drawn.keys() == want.keys()
    for box, times in want.items():
        share = n * times / 130
        assert abs(drawn[box] - share) < 5.5 * share**0.5


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 10**6))
def test_multi_scale_crops_lie_in_the_frame(height, width, seed):
    top, left, h, w = clips.multiscale_box(height, width, sample_rng(seed, 0, 0))
    assert 0 <= top and 0 <= left and h >= 1 and w >= 1 and top + h <= height and left + w <= width


def test_multi_scale_crops_are_training_crops_drawn_by_name(root):
    index = videos(root)
    dataset = small(index, scales=[1, 0.5], views=2)
    want = clips.multiscale_box(48, 64, sample_rng(0, 4, 3, "crop/1"), (1, 0.5))
    assert dataset.box(3, 4, 1, 48, 64) == want
    assert small(index, scales=(1, 0.5), train=False).box(3, 4, 1, 48, 64) == centre_box(48, 64)


# --- several crops at test


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 6))
def test_squares_along_the_longer_side(height, width, count):
    boxes = [clips.side_box(height, width, place, count) for place in range(count)]
    short, long = min(height, width), max(height, width)
    starts = [max(top, left) for top, left, _, _ in boxes]
    assert all(box[2:] == (short, short) for box in boxes)
    assert all(min(top, left) == 0 for top, left, _, _ in boxes)
    for k, start in enumerate(starts):
        even = Fraction(k * (long - short), count - 1) if count > 1 else Fraction(long - short, 2)
        assert abs(start - even) <= Fraction(1, 2)
    if height > width:
        assert all(left == 0 for _, left, _, _ in boxes)


def test_a_place_that_is_not_there_is_refused():
    for place in (-1, 3):
        with pytest.raises(ValueError, match=f"place {place} of 3"):
            clips.side_box(48, 64, place)


FIFTEEN = dict(views=15, crops=3, mode="uniform", train=False)


@pytest.mark.parametrize("sampling", ["stride", "segments"])
def test_five_clips_in_three_crops_stay_in_video_and_frame(root, sampling):
    "Also in c, which is shorter than a clip; views 3 k to 3 k + 2 show the same frames."
    dataset = small(videos(root), length=8, stride=2, sampling=sampling, **FIFTEEN)
    for position, name in enumerate("abcde"):
        times = dataset.times(position, 0, FRAMES[name])
        assert times.shape == (15, 8) and times.min() >= 0 and times.max() < FRAMES[name]
        assert (times.reshape(5, 3, 8) == times.reshape(5, 3, 8)[:, :1]).all()
        if sampling == "stride":
            assert (times[::3] == temporal_indices(FRAMES[name], 8, 2, "uniform", 5)).all()
        boxes = [dataset.box(position, 0, view, HEIGHT, WIDTH) for view in range(15)]
        assert boxes == [(0, 0, 48, 48), (0, 8, 48, 48), (0, 16, 48, 48)] * 5


@pytest.mark.parametrize("motion", [False, True])
def test_views_in_several_crops_are_those_read_alone(root, motion):
    dataset = small(videos(root), size=24, motion=motion, **FIFTEEN)
    for position, name in ((0, "a"), (2, "c")):
        sample = dataset.read(position)
        times = dataset.times(position, 0, FRAMES[name])
        for view in range(15):
            box = dataset.box(position, 0, view, HEIGHT, WIDTH)
            options = dict(crop=box, motion=motion, grid=dataset.cells)
            alone = video.read_clip(root / f"{name}.mp4", times[view], (24, 24), **options)
            assert torch.equal(sample["clip"][view], alone.rgb)
            if motion:
                assert torch.equal(sample["mv"][view], alone.mv)
                assert torch.equal(sample["has_mv"][view], alone.has_mv)


def test_crops_from_a_cache_are_those_of_the_files(root, cache):
    for a, b in zip(whole(videos(root), **FIFTEEN), whole(videos(root), cache="memory", **FIFTEEN)):
        assert a["clip"].shape == b["clip"].shape == (len(a["index"]), 15, 3, 8, 16, 16)
        assert (a["clip"].int() - b["clip"].int()).abs().float().mean() < 3


# --- repeated augmentation: the same frames, cropped in several ways


def test_views_of_the_same_frames_are_decoded_once_to_the_same_pixels(root, monkeypatch):
    dataset = small(videos(root), views=3, same_time=True, stride=(1, 2))
    asked = []
    monkeypatch.setattr(clips, "read_clip", lambda *a, **kw: asked.append(a) or video.read_clip(*a, **kw))
    for position, name in enumerate("abcde"):
        asked.clear()
        sample = dataset.read(position, 2)["clip"]
        assert len(asked) == 1
        times = dataset.times(position, 2, FRAMES[name])
        assert (times == times[0]).all()
        boxes = [dataset.box(position, 2, view, HEIGHT, WIDTH) for view in range(3)]
        assert len(set(boxes)) == 3
        for view, box in enumerate(boxes):
            alone = video.read_clip(root / f"{name}.mp4", times[view], (16, 16), box)
            assert torch.equal(sample[view], alone.rgb)


# --- all of them together


NEW = dict(
    spread=dict(sampling="segments", scales=(1, 0.875, 0.75, 0.66)),
    repeated=dict(views=3, same_time=True, scales=(1, 0.75)),
    tested=FIFTEEN,
    spread_tested=FIFTEEN | dict(sampling="segments", views=6, crops=2),
)


@pytest.mark.parametrize("name", NEW)
def test_new_ways_to_cut_do_not_depend_on_who_reads(root, cache, name):
    kw = dict(length=8, size=16) | NEW[name]
    alone = whole(videos(root), epoch=1, **kw)
    same(alone, whole(videos(root), epoch=1, workers=2, **kw))
    same(alone[1:], whole(videos(root), epoch=1, start=1, **kw))


def test_new_options_change_the_hash_and_defaults_do_not(root):
    index = videos(root)
    usual = small(index, views=6, mode="uniform", train=False)
    same_as_usual = small(index, views=6, mode="uniform", train=False, sampling="stride", scales=[], crops=1)
    assert same_as_usual.hash == usual.hash
    changes = (dict(sampling="segments"), dict(scales=(1, 0.5)), dict(crops=3), dict(crops=2))
    hashes = {small(index, views=6, mode="uniform", train=False, **c).hash for c in changes}
    assert len(hashes | {usual.hash}) == 5


@pytest.mark.parametrize(
    "bad,match",
    [
        (dict(sampling="even"), "sampling 'even'"),
        (dict(sampling="segments", still=4), "segments"),
        (dict(sampling="segments", mode="dense", train=False), "segments"),
        (dict(scales=(1, 0)), "scales"),
        (dict(scales=(1.2,)), "scales"),
        (dict(scales=(1, 0.5), resize=((20, 16),)), "without resize"),
        (dict(crops=0), "crops is 0"),
        (dict(crops=1.5), "crops is 1.5"),
        (dict(FIFTEEN, views=10), "10 views"),
        (dict(FIFTEEN, centre=0.9), "crops=3"),
        (dict(FIFTEEN, test_resize=(20, 16)), "crops=3"),
    ],
)
def test_impossible_samplings_and_crops_are_refused(root, bad, match):
    with pytest.raises(ValueError, match=match):
        small(videos(root), **bad)
