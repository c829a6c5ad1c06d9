"Motion maps: pooling, sampling, cropping against loops; the cache, its faults, its builds; clips with maps."

import os
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hyp, strategies as st

from mvnb import cli, clips, contents, datasets, flow, maps, motion, puppets, video
from mvnb.clips import ClipDataset, batches, sample_rng
from mvnb.maps import Maps, MotionMap

quick = hyp(max_examples=40, deadline=None)
TINY = 0.02  # of the puppets


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    clips._held.clear()
    contents._held.clear()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "A folder of one class: a square that moves over a still scene, to the right, and a copy that is shorter."
    root = tmp_path_factory.mktemp("films")
    (root / "square").mkdir()
    for name, frames in (("long", 40), ("short", 12), ("other", 30)):
        video.write_video(root / "square" / f"{name}.mp4", square(frames, seed=len(name)), 25)
    return root


def square(frames=40, seed=0, height=96, width=128, step=2):
    "A textured square of 32 pixels at (32, 8 + step * t) before a still texture, uint8 [T,H,W,3]."
    rng = np.random.default_rng(seed)
    texture = lambda h, w: np.kron(rng.integers(0, 255, (h // 4, w // 4)), np.ones((4, 4))).astype(np.uint8)
    scene, front = texture(height, width), texture(32, 32)
    out = np.repeat(scene[None], frames, 0)
    for t in range(frames):
        left = 8 + step * t
        out[t, 32:64, left : left + 32] = front[: height - 32, : max(0, width - left)]
    return np.repeat(out[..., None], 3, -1)


def some_map(size, frame, seed=0):
    values = np.random.default_rng(seed).random(size).astype(np.float16)
    return MotionMap(values, frame, frame)


# --- from frames and vectors to cells


def slow_cells(one):
    "Means of a map [H,W] over cells of 8×8 pixels, smaller at the border."
    rows, columns = (-(-side // 8) for side in one.shape)
    out = np.zeros((rows, columns))
    for row, column in np.ndindex(rows, columns):
        out[row, column] = one[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean()
    return out


@pytest.mark.parametrize("size", [(40, 52), (48, 64)])
def test_maps_of_frames_are_those_of_their_flow(monkeypatch, size):
    "Flow of consecutive frames, clipped, its boundaries' length, means over cells; the last frame repeats."
    frames = square(7, height=48, width=64)[:, : size[0], : size[1]].copy()
    monkeypatch.setattr(maps, "_PIECE", 4)
    ours = maps.of_frames(frames, "dis")
    fields = 30 * flow.flow(frames, "dis")
    monkeypatch.setattr(flow, "flow", lambda clip, how: 30 * real(clip, how))
    far = maps.of_frames(frames, "dis")
    for found, field in ((ours, fields / 30), (far, fields.clamp(-20, 20))):
        whole = motion.motion_map(field).numpy()
        slow = np.stack([slow_cells(one) for one in [*whole, whole[-1]]])
        assert found.dtype == np.float16 and found.shape == slow.shape
        np.testing.assert_allclose(found, slow, rtol=2e-3, atol=1e-3)
    assert fields.abs().max() > 20


real = flow.flow


def test_a_video_of_one_frame_has_no_motion():
    assert (
        maps.of_frames(square(1), "dis").shape == (1, 12, 16) and not maps.of_frames(square(1), "dis").any()
    )


def slow_vectors(mv, has):
    "Prewitt derivatives of vectors 8 pixels apart where all nine cells have one, by loops."
    frames, _, rows, columns = mv.shape
    out = np.zeros((frames, rows, columns))
    for t, y, x in np.ndindex(out.shape):
        if not (0 < y < rows - 1 and 0 < x < columns - 1) or not has[t, y - 1 : y + 2, x - 1 : x + 2].all():
            continue
        near = np.clip(mv[t, :, y - 1 : y + 2, x - 1 : x + 2], -20, 20)
        along = [(near[:, :, 2] - near[:, :, 0]).sum(1), (near[:, 2] - near[:, 0]).sum(1)]
        out[t, y, x] = np.sqrt(np.square(along).sum()) / 6 / 8
    return out


def test_maps_of_vectors_by_loops_and_frames_without_any():
    rng = np.random.default_rng(1)
    mv = rng.normal(0, 9, (6, 2, 7, 9)).astype(np.float32)
    has = rng.random((6, 7, 9)) < 0.95
    has[[0, 3, 4]] = False
    mv *= has[:, None]
    slow = slow_vectors(mv, has)
    found = maps.of_vectors(torch.from_numpy(mv), torch.from_numpy(has))
    np.testing.assert_allclose(found, slow[[1, 1, 2, 2, 2, 5]], atol=2e-3)
    assert not maps.of_vectors(torch.zeros(3, 2, 5, 5), torch.zeros(3, 5, 5, dtype=torch.bool)).any()


@pytest.mark.parametrize("how", ["tvl1", "dis", "vectors"])
def test_the_map_of_a_moving_square_lies_on_it(films, how):
    "More than half of the motion in the quarter of the frame's height and width around the square."
    found = maps.compute(films / "square/long.mp4", Maps(how)) if how != "tvl1" else None
    frames = square(40, seed=4)
    st = maps.of_frames(frames[:12], how) if found is None else found.st[:12]
    for t in (2, 5, 9):
        left = (8 + 2 * t) // 8
        near = st[t, 3:9, max(0, left - 1) : left + 6].astype(float).sum()
        assert near > 0.8 * st[t].astype(float).sum() > 0, (t, near, st[t].sum())


def test_a_pan_floods_the_flow_and_not_the_map():
    "Of a puppet's motion map most lies on the puppet, of the flow's length much less, when the camera pans."
    frames, actor = puppets.render("puppets-u", "jumping_jack", seed=5, camera="pan")
    fields = flow.flow(frames[:16], "dis")
    where = torch.from_numpy(actor[:15])
    near = torch.nn.functional.max_pool2d(where[:, None].float(), 9, 1, 4)[:, 0]
    share = lambda field: ((field * near).sum() / field.sum()).item()
    moved, went = share(motion.motion_map(fields)), share(fields.norm(dim=1))
    assert moved > 0.75 and moved > went + 0.2, (moved, went, near.mean())


# --- one video's maps


def slow_crop(one, box, grid, fine=40):
    "The mean of a piecewise constant map over each cell of a box's grid, by fine sampling."
    top, left, height, width = box
    out = np.zeros((len(one), *grid))
    scale = [f / v for f, v in zip(one.frame, one.video)]
    for row, column in np.ndindex(*grid):
        y = (top + height * (row + (np.arange(fine) + 0.5) / fine) / grid[0]) * scale[0]
        x = (left + width * (column + (np.arange(fine) + 0.5) / fine) / grid[1]) * scale[1]
        out[:, row, column] = one.st[:, (y // 8).astype(int)][:, :, (x // 8).astype(int)].mean(
            (1, 2), dtype=float
        )
    return out


@quick
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9))
def test_a_crop_is_the_mean_over_its_cells(seed, rows, columns):
    rng = np.random.default_rng(seed)
    one = MotionMap(rng.random((3, 6, 8)).astype(np.float16), (44, 60), (132, 180))
    height, width = rng.integers(20, 132), rng.integers(20, 180)
    box = (rng.integers(0, 132 - height + 1), rng.integers(0, 180 - width + 1), height, width)
    found = maps.crop(one, np.arange(3), box, (rows, columns))
    np.testing.assert_allclose(found, slow_crop(one, box, (rows, columns)), atol=0.03)
    whole = maps.crop(one, np.arange(3), box, (1, 1))
    np.testing.assert_allclose(found.mean((1, 2)), whole[:, 0, 0], rtol=1e-4)


def test_means_count_pixels():
    "Cells of 4 pixels at the border count half; the whole frame's crop is the T-motion."
    one = some_map((5, 6, 8), (44, 60))
    pixels = one.st.astype(float).repeat(8, 1).repeat(8, 2)[:, :44, :60]
    np.testing.assert_allclose(one.t_motion(), pixels.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        maps.crop(one, np.arange(5), (0, 0, 44, 60), (1, 1))[:, 0, 0], one.t_motion(), rtol=1e-5
    )
    np.testing.assert_allclose(one.s_motion([0, 2, 2]), one.st[[0, 2, 2]].astype(float).mean(0), rtol=1e-5)


@quick
@given(st.integers(0, 999))
def test_a_flip_of_map_and_box_flips_the_crop(seed):
    rng = np.random.default_rng(seed)
    one = some_map((2, 6, 8), (48, 64), seed)
    left, width = int(rng.integers(0, 30)), int(rng.integers(10, 34))
    flipped = MotionMap(one.st[:, :, ::-1], one.frame, one.video)
    mine = maps.crop(one, np.arange(2), (5, left, 30, width), (4, 5))
    other = maps.crop(flipped, np.arange(2), (5, 64 - left - width, 30, width), (4, 5))
    torch.testing.assert_close(mine.flip(-1), other)


# --- when to start


@quick
@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), st.integers(0, 999))
def test_moving_starts_are_those_above_the_median(n, length, stride, seed):
    t_motion = np.random.default_rng(seed).random(n).astype(np.float32)
    span = (length - 1) * stride + 1
    every = [
        np.mean([t_motion[s + k * stride] for k in range(length)], dtype=float) for s in range(n - span + 1)
    ]
    wanted = [s for s, moved in enumerate(every) if moved > np.median(every) + 1e-12]
    assert maps.moving_starts(t_motion, length, stride).tolist() == wanted
    assert len(wanted) == len(every) // 2


def test_a_still_video_has_no_candidates():
    assert len(maps.moving_starts(np.full(50, 0.1), 4, 2)) == 0


def starts_of(dataset, epochs):
    return Counter(int(dataset.times(0, epoch, 40)[0, 0]) for epoch in range(epochs))


@pytest.mark.parametrize("p_motion", [1.0, 0.7, 0.0])
def test_starts_are_drawn_with_the_stated_probabilities(films, cache, p_motion):
    "Every start with (1 - p)/all, candidates with p/candidates more: chi-squared over 4,000 draws."
    index = datasets.folder(films, "all")
    dataset = ClipDataset(index, length=5, stride=3, size=32, maps="dis", guide_time=True, p_motion=p_motion)
    dataset.map_of(0)
    room, n = 40 - 13 + 1, 4000
    some = maps.moving_starts(dataset.map_of(0).t_motion(), 5, 3)
    chance = np.full(room, (1 - p_motion) / room)
    chance[some] += p_motion / len(some)
    seen = starts_of(dataset, n)
    assert set(seen) <= set(np.flatnonzero(chance))
    likely = np.flatnonzero(chance)
    excess = sum((seen[s] - n * chance[s]) ** 2 / (n * chance[s]) for s in likely)
    assert abs(excess - (len(likely) - 1)) < 5 * np.sqrt(2 * len(likely)), excess


def test_short_videos_are_guided_as_long_as_there_is_a_choice(films, cache):
    """12 frames hold less than two clips of 7, and half of the six starts move more than the median. With
    halves, as released, such a video has no guidance; clips that do not fit are looped."""
    index = datasets.folder(films, "all")
    position = next(i for i in range(len(index)) if index.path(i).name == "short.mp4")
    options = dict(length=4, stride=2, size=32, maps="dis", guide_time=True)
    guided = ClipDataset(index, **options)
    seen = Counter(int(guided.times(position, epoch, 12)[0, 0]) for epoch in range(600))
    wanted = maps.moving_starts(guided.map_of(position).t_motion(), 4, 2)
    assert set(seen) == set(wanted.tolist()) and len(wanted) == 3 and min(seen.values()) > 150
    halved = ClipDataset(index, **options, halves=True, views=4)
    seen = Counter(int(halved.times(position, epoch, 12)[0, 0]) for epoch in range(600))
    assert set(seen) == set(range(6)) and min(seen.values()) > 60
    long = ClipDataset(index, length=8, stride=3, size=32, maps="dis", guide_time=True)
    assert long.times(position, 3, 12).shape == (1, 8)


# --- what to cut


def slow_share(moving, edges, box):
    "Share of the moving pixels in a box, pixel by pixel."
    top, left, height, width = box
    rows, columns = (np.searchsorted(side, np.arange(round(side[-1])) + 0.5) - 1 for side in edges)
    pixels = moving[rows][:, columns]
    return pixels[top : top + height, left : left + width].sum() / pixels.sum()


def scattered(seed, kind):
    rng = np.random.default_rng(seed)
    s = rng.random((12, 16)) * 0.1
    if kind == "blob":
        y, x = rng.integers(0, 9), rng.integers(0, 13)
        s[y : y + 3, x : x + 3] += 1
    elif kind == "line":
        s[:, rng.integers(0, 16)] += 1
    return s


@quick
@given(
    st.integers(0, 99_999),
    st.sampled_from(["blob", "line", "noise"]),
    st.sampled_from([(96, 128), (240, 320)]),
)
def test_every_box_holds_the_share_inside_the_frame(seed, kind, size):
    s = scattered(seed, kind)
    one = MotionMap(s[None].astype(np.float16), (96, 128), size)
    box = maps.moving_box(s, one.edges, sample_rng(seed, 0, 0))
    top, left, height, width = box
    assert 0 <= top and 0 <= left and 0 < height and 0 < width
    assert top + height <= size[0] and left + width <= size[1]
    moving = s > np.percentile(s, 90)
    assert slow_share(moving, one.edges, box) >= 0.8 - 1e-9
    np.testing.assert_allclose(
        maps.covered(moving, one.edges, box), slow_share(moving, one.edges, box), atol=1e-9
    )


def slow_smallest(moving, cell, ratio, cover):
    "The area of the smallest box of whole cells, grown to the aspect, that holds the share: by trying all."
    height, width = (side * cell for side in moving.shape)
    best = np.inf
    for top in range(moving.shape[0]):
        for bottom in range(top + 1, moving.shape[0] + 1):
            for left in range(moving.shape[1]):
                for right in range(left + 1, moving.shape[1] + 1):
                    if moving[top:bottom, left:right].sum() < cover * moving.sum() - 1e-9:
                        continue
                    h, w = (bottom - top) * cell, (right - left) * cell
                    h, w = min(max(h, w / ratio[1]), height), min(max(w, h * ratio[0]), width)
                    best = min(best, h * w)
    return best


@hyp(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.5, 0.8, 1.0]))
def test_the_smallest_box_is_the_smallest(seed, cover):
    moving = np.random.default_rng(seed).random((6, 8)) < 0.15
    moving[2, 3] = True
    one = MotionMap(np.zeros((1, 6, 8), np.float16), (48, 64), (48, 64))
    box = maps.smallest_box(moving, one.edges, cover)
    area = slow_smallest(moving, 8, (3 / 4, 4 / 3), cover)
    assert slow_share(moving, one.edges, box) >= cover - 1e-9
    assert area <= box[2] * box[3] <= area + 48 + 64  # whole pixels
    assert 0 <= box[0] and box[0] + box[2] <= 48 and 0 <= box[1] and box[1] + box[3] <= 64


def test_boxes_are_accepted_as_an_enumeration_says():
    "Without failures the first good box of the stated distribution: its area's law by rejection with loops."
    s = scattered(3, "blob")
    one = MotionMap(s[None].astype(np.float16), (96, 128), (96, 128))
    moving = maps.moving_pixels(s)
    rng, slow = np.random.default_rng(0), []
    while len(slow) < 1500:
        area, aspect = rng.uniform(0.2, 1) * 96 * 128, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if h > 96 or w > 128:
            continue
        box = (rng.integers(0, 96 - h + 1), rng.integers(0, 128 - w + 1), h, w)
        if slow_share(moving, one.edges, box) >= 0.8:
            slow.append(h * w)
    ours = [np.prod(maps.moving_box(s, one.edges, sample_rng(0, 0, i))[2:]) for i in range(1500)]
    levels = np.linspace(0.2, 1, 9) * 96 * 128
    away = [abs(np.mean(np.array(ours) < level) - np.mean(np.array(slow) < level)) for level in levels]
    assert max(away) < 0.06, away


def test_boxes_by_lines_hold_rows_and_columns():
    s = scattered(5, "blob")
    edges = MotionMap(s[None].astype(np.float16), (96, 128), (96, 128)).edges
    moving = maps.moving_pixels(s)
    rows, columns = np.repeat(moving.any(1), 8), np.repeat(moving.any(0), 8)
    pixels = []
    for i in range(300):
        top, left, height, width = maps.moving_box(s, edges, sample_rng(0, 0, i), by="lines")
        held = [
            rows[top : top + height].sum() / rows.sum(),
            columns[left : left + width].sum() / columns.sum(),
        ]
        assert min(held) >= 0.8 or i  # noise may leave no such box: the best one then
        pixels.append(slow_share(moving, edges, (top, left, height, width)))
        assert top + height <= 96 and left + width <= 128
    assert min(pixels) < 0.8 < np.mean(pixels) + 0.3


def test_by_lines_gives_the_best_box_seen_where_none_will_do():
    "Motion in opposite corners: only nearly whole frames would do, and small ones are all that is drawn."
    s = np.zeros((12, 16))
    s[0, 0], s[-1, -1] = 1, 1
    edges = MotionMap(s[None].astype(np.float16), (96, 128), (96, 128)).edges
    _, _, height, width = maps.moving_box(s, edges, sample_rng(0, 0, 0), (0.2, 0.3), by="lines")
    assert height * width <= 0.31 * 96 * 128
    top, left, height, width = maps.moving_box(s, edges, sample_rng(0, 0, 0), (0.2, 0.3))
    assert slow_share(s > 0, edges, (top, left, height, width)) == 1  # 80 % of two cells are both


def test_nothing_moves():
    edges = some_map((1, 12, 16), (96, 128)).edges
    assert maps.moving_box(np.zeros((12, 16)), edges, sample_rng(0, 0, 0)) is None
    with pytest.raises(ValueError, match="use pixels or lines"):
        maps.moving_box(np.zeros((12, 16)), edges, sample_rng(0, 0, 0), by="area")


# --- the cache


def test_kept_maps_are_those_computed(films, cache):
    path = films / "square/long.mp4"
    first = maps.of_video(path, Maps("dis", 64))
    again, fresh = maps.of_video(path, Maps("dis", 64)), maps.compute(path, Maps("dis", 64))
    for other in (again, fresh):
        assert np.array_equal(first.st, other.st) and (first.frame, first.video) == (other.frame, other.video)
    assert first.st.dtype == np.float16 and first.frame == (64, 85) and first.st.shape == (40, 8, 11)


def forbid(monkeypatch):
    def fail(*args, **more):
        raise AssertionError("a map is computed that is in the cache")

    monkeypatch.setattr(maps, "compute", fail)


def test_a_kept_map_follows_the_video_not_its_name(films, cache, monkeypatch, tmp_path):
    "A copy under another name needs no flow, in a process that has seen nothing either; other bytes do."
    maps.of_video(films / "square/long.mp4", Maps("dis"))
    moved = tmp_path / "renamed.mp4"
    shutil.copy(films / "square/long.mp4", moved)
    with monkeypatch.context() as patch:
        forbid(patch)
        contents._held.clear()
        assert len(maps.of_video(moved, Maps("dis"))) == 40
    shutil.copy(films / "square/short.mp4", moved)
    os.utime(moved, ns=(1, 1))
    assert len(maps.of_video(moved, Maps("dis"))) == 12


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "head", "magic"])
def test_a_damaged_file_is_made_again(films, cache, damage):
    path = films / "square/short.mp4"
    first = maps.of_video(path, Maps("dis"))
    (file,) = (cache / "maps").rglob("*.map")
    data = bytearray(file.read_bytes())
    if damage in ("flip", "head", "magic"):
        data[{"flip": -1, "head": 9, "magic": 0}[damage]] ^= 1
    file.write_bytes({"cut": data[:-2], "empty": b""}.get(damage, bytes(data)))
    assert maps._stored(file) is None
    assert np.array_equal(maps.of_video(path, Maps("dis")).st, first.st)
    assert maps._stored(file) is not None


def test_a_video_replaced_while_its_map_is_made_is_not_taken_for_it(films, cache, monkeypatch, tmp_path):
    path = tmp_path / "film.mp4"
    shutil.copy(films / "square/long.mp4", path)
    real = maps.compute

    def compute(path, kind):
        shutil.copy(films / "square/short.mp4", path)
        return real(path, kind)

    with monkeypatch.context() as patch:
        patch.setattr(maps, "compute", compute)
        assert len(maps.of_video(path, Maps("dis"))) == 12
    assert len(maps.of_video(films / "square/long.mp4", Maps("dis"))) == 40


def test_keys_tell_all_that_decides_a_map(monkeypatch):
    keys = {Maps(how, side).key for how in ("tvl1", "dis", "vectors") for side in (112, 64, 0)}
    assert len(keys) == 9
    monkeypatch.setattr(maps, "LIMIT", 10)
    assert Maps("dis").key not in keys
    assert ClipDataset.map_side == flow.SIDE == maps.SIDE
    for bad, match in (
        (dict(how="flow"), "use one of tvl1"),
        (dict(side=3), "16 pixels"),
        (dict(side=1.5), "16"),
    ):
        with pytest.raises(ValueError, match=match):
            Maps(**bad)


def test_raft_without_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match="none.pth"):
        Maps("raft").key
    with pytest.raises(FileNotFoundError, match="none.pth"):
        ClipDataset(datasets.load("puppets-u", "train", videos=2), maps="raft")


# --- builds


@pytest.fixture
def broken(films, tmp_path):
    root = tmp_path / "with_broken"
    shutil.copytree(films, root)
    (root / "square/bad.mp4").write_text("no video")
    return datasets.folder(root, "all")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_build_makes_what_is_missing_and_names_what_fails(broken, cache, jobs):
    maps.of_video(broken.path(1), Maps("dis"))
    found = maps.build(broken, Maps("dis"), jobs=jobs, progress=False)
    assert (found.videos, found.made, found.of, found.frames) == (3, 2, 4, 82)
    assert list(found.failed) == [str(broken.root / "square/bad.mp4")] and "not a readable" in str(found)
    assert found.bytes == sum(f.stat().st_size for f in found.folder.rglob("*.map"))
    assert maps.failures(found.folder) == found.failed
    for i in range(len(broken)):
        if broken.path(i).name != "bad.mp4":
            fresh = maps.compute(broken.path(i), Maps("dis"))
            assert np.array_equal(maps.of_video(broken.path(i), Maps("dis")).st, fresh.st)
    assert torch.get_num_threads() == 1 or jobs == 1


def test_a_stopped_build_goes_on(broken, cache, monkeypatch):
    first = maps.build(broken, Maps("dis"), jobs=1, limit=2, progress=False)
    assert first.videos + len(first.failed) == 2 and "4 videos like these" in str(first)
    (cache / "maps" / ".left.map.1.part").write_bytes(b"of a process that was killed")
    second = maps.build(broken, Maps("dis"), jobs=1, progress=False)
    assert second.made == 3 - first.made
    whole = maps.compute
    monkeypatch.setattr(maps, "compute", lambda path, kind: whole(path, kind) if "bad" in path else 1 / 0)
    third = maps.build(broken, Maps("dis"), jobs=1, progress=False)
    assert third.made == 0 and third.videos == 3 and list(third.failed) == list(second.failed)


def test_a_mended_video_leaves_the_list_of_failures(broken, cache):
    maps.build(broken, Maps("dis"), jobs=1, progress=False)
    shutil.copy(broken.path(1), broken.root / "square/bad.mp4")
    found = maps.build(broken, Maps("dis"), jobs=1, progress=False)
    assert not found.failed and not maps.failures(found.folder)


def test_check_says_what_is_missing(broken, cache):
    with pytest.raises(ValueError, match=r"4 of 4 videos of .* have no motion maps by dis: .*motion build"):
        Maps("dis").check(broken)
    maps.build(broken, Maps("dis"), jobs=1, progress=False)
    Maps("dis").check(broken)  # the broken one is known to be
    with pytest.raises(ValueError, match="--how dis --side 64"):
        Maps("dis", 64).check(broken)
    Maps("dis").check(datasets.load("puppets-u", "train", videos=2))


def test_numbers_that_cannot_be(broken, cache):
    for wrong in (dict(limit=0), dict(jobs=-1)):
        with pytest.raises(ValueError, match="use 1 or more"):
            maps.build(broken, Maps("dis"), **wrong)
    with pytest.raises(ValueError, match="is drawn"):
        maps.build(datasets.load("puppets-u", "train", videos=2), Maps("dis"))


def test_estimates_are_in_proportion():
    built = maps.Built(Maps("dis"), None, 2, 10, videos=5, made=4, bytes=1_000_000, seconds=40.0)
    assert built.estimate(240_000) == "48 GB and 13.9 days with 2 workers"
    assert maps.Built(Maps("dis"), None, 1, 10).estimate() == "unknown"


def test_maps_of_ten_second_videos_stay_below_60_GB():
    "240,000 videos of 300 frames at 16:9, from the file that such a video gives."
    size = maps._small(256, 454, maps.SIDE)
    st = np.zeros((300, *(-(-side // 8) for side in size)), np.float16)
    assert 240_000 * len(maps._packed(MotionMap(st, size, (256, 454)))) < 60e9


# --- clips that carry maps


OPTIONS = dict(length=6, stride=2, size=40, views=2, maps="dis")


def same(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        assert all(torch.equal(x[k], y[k]) if isinstance(x[k], torch.Tensor) else x[k] == y[k] for k in x)


def test_a_batch_carries_the_maps_of_its_frames(films, cache):
    dataset = ClipDataset(datasets.folder(films, "all"), **OPTIONS)
    (batch,) = batches(dataset, 3, 1, shuffle=False)
    assert batch["map"].shape == (3, 2, 6, 5, 5) and batch["map"].dtype == torch.float32
    for i in range(3):
        one = maps.compute(dataset.index.path(i), Maps("dis"))
        for view, at in enumerate(dataset.times(i, 1, len(one))):
            box = dataset.box(i, 1, view, 96, 128)
            slow = slow_crop(MotionMap(one.st[at], one.frame, one.video), box, (5, 5))
            np.testing.assert_allclose(batch["map"][i, view], slow, atol=0.05 * max(slow.max(), 0.02))


@pytest.mark.parametrize(
    "guides", [{}, dict(guide_time=True, guide_crop=True), dict(guide_crop="lines", p_motion=0.7)]
)
def test_workers_and_caches_change_nothing(films, cache, guides):
    index = datasets.folder(films, "all")
    read = lambda workers=0, **more: list(
        batches(ClipDataset(index, **OPTIONS, **guides, **more), 1, 2, workers=workers)
    )
    alone = read()
    same(alone, read(workers=2))
    for kind in ("memory", "disk"):
        for one, other in zip(alone, read(cache=kind)):
            assert torch.equal(one["map"], other["map"]) and torch.equal(one["index"], other["index"])
            assert (one["clip"].float() - other["clip"].float()).abs().mean() < 12


def test_draws_are_a_function_of_seed_epoch_sample_and_view(films, cache):
    index = datasets.folder(films, "all")
    make = lambda seed=0: ClipDataset(index, **OPTIONS, guide_time=True, guide_crop=True, seed=seed)
    drawn = lambda data, position, epoch: (
        data.times(position, epoch, len(data.map_of(position))).tolist(),
        [data.box(position, epoch, view, 96, 128) for view in range(2)],
    )
    data, wanted = make(), {}
    for position, epoch in ((0, 0), (1, 0), (0, 1), (2, 5), (0, 0)):
        wanted.setdefault((position, epoch), drawn(data, position, epoch))
        assert wanted[position, epoch] == drawn(make(), position, epoch)
    assert len({str(found) for found in wanted.values()}) == 4
    assert drawn(make(1), 0, 0) != wanted[0, 0] and wanted[0, 0][1][0] != wanted[0, 0][1][1]


def test_guided_crops_of_a_set_hold_the_motion_of_their_clip(films, cache):
    data = ClipDataset(datasets.folder(films, "all"), **OPTIONS, guide_crop=True)
    for position in range(3):
        one = data.map_of(position)
        for epoch in range(20):
            for view, at in enumerate(data.times(position, epoch, len(one))):
                s = one.s_motion(at)
                box = data.box(position, epoch, view, 96, 128)
                assert slow_share(s > np.percentile(s, 90), one.edges, box) >= 0.8 - 1e-9


def test_time_and_crop_are_guided_apart(films, cache):
    index = datasets.folder(films, "all")
    plain, time, crop = (
        ClipDataset(index, **OPTIONS, **guides)
        for guides in ({}, dict(guide_time=True), dict(guide_crop=True))
    )
    boxes = lambda data: [data.box(0, epoch, 0, 96, 128) for epoch in range(8)]
    times = lambda data: [data.times(0, epoch, 40).tolist() for epoch in range(8)]
    assert boxes(time) == boxes(plain) != boxes(crop) and times(crop) == times(plain) != times(time)


def test_the_map_follows_the_crop(films, cache):
    "Where the square is in the cut clip, there is its map."
    data = ClipDataset(datasets.folder(films, "all"), 4, 1, 64, views=1, maps="dis", scale=(0.5, 1.0))
    position = next(i for i in range(3) if data.index.path(i).name == "long.mp4")
    checked = 0
    for epoch in range(12):
        at, (top, left, height, width) = (
            data.times(position, epoch, 40)[0],
            data.box(position, epoch, 0, 96, 128),
        )
        found = data.read(position, epoch)["map"][0]
        for t, one in zip(at, found):
            y, x = (
                np.clip(np.array(side), 0, 8)
                for side in (
                    ((32 - top) * 8 / height - 0.6, (64 - top) * 8 / height + 0.6),
                    ((8 + 2 * t - left) * 8 / width - 0.6, (40 + 2 * t - left) * 8 / width + 0.6),
                )
            )
            if y[1] - y[0] < 2 or x[1] - x[0] < 2 or t > 34:
                continue
            inside = one[int(y[0]) : int(np.ceil(y[1])), int(x[0]) : int(np.ceil(x[1]))].sum()
            assert inside > 0.75 * one.sum() > 0
            checked += 1
    assert checked > 20


def test_evaluation_carries_maps_of_centre_crops(films, cache):
    data = ClipDataset(
        datasets.folder(films, "all"), 4, 2, 48, 2, "uniform", train=False, maps="dis", map_grid=3
    )
    (batch,) = batches(data, 3, 0, shuffle=False)
    one = maps.compute(data.index.path(0), Maps("dis"))
    wanted = maps.crop(one, data.times(0, 0, len(one))[1], (0, 16, 96, 96), (3, 3))
    torch.testing.assert_close(batch["map"][0, 1], wanted)


@pytest.mark.parametrize("cached", [None, "memory"])
def test_a_video_without_maps_is_replaced_and_counted(films, cache, tmp_path, cached):
    "A file that decodes but has no vectors, among many that have some."
    root = tmp_path / "mixed/square"
    root.mkdir(parents=True)
    for i in range(101):
        os.link(films / "square/short.mp4", root / f"{i:03}.mp4")
    video.write_video(root / "none.mp4", square(12), 25, options=dict(g=1))
    data = ClipDataset(datasets.folder(tmp_path / "mixed", "all"), 3, 2, 32, maps="vectors", cache=cached)
    bad = next(i for i in range(len(data)) if data.index.path(i).name == "none.mp4")
    found = list(batches(data, 6, 0))
    assert len(data.failed) <= 1 and all(batch["ok"].all() for batch in found)
    assert bad not in torch.cat([batch["index"] for batch in found])
    assert data.failed == {} or "key frame" in next(iter(data.failed.values()))
    test = ClipDataset(data.index, 3, 2, 32, mode="uniform", train=False, maps="vectors", cache=cached)
    (batch,) = batches(test, 102, 0, shuffle=False)
    assert not batch["ok"][bad] and batch["ok"].sum() == 101 and batch["map"][bad].abs().max() == 0


@pytest.mark.parametrize("how", ["dis", "vectors"])
def test_drawn_puppets_have_the_maps_of_their_files(cache, tmp_path, how):
    index = datasets.load("puppets-u", "train", seed=3, videos=4)
    data = ClipDataset(
        index, length=6, stride=2, size=32, views=2, maps=how, guide_time=True, guide_crop=True
    )
    (batch,) = batches(data, 4, 1, shuffle=False)
    assert batch["map"].shape == (4, 2, 6, 4, 4) and batch["map"].flatten(1).amax(1).min() > 0
    for i in (0, 3):
        frames = index.drawing.video(i)[0]
        if how == "dis":
            wanted = maps.of_frames(frames, how)
        else:
            options = puppets._H264 | dict(bf=puppets.LOOKS["puppets-u"]["bframes"])
            path = video.write_video(tmp_path / f"{i}.mp4", frames, puppets.FPS, options=options)
            wanted = maps.compute(path, Maps(how)).st
        assert np.array_equal(data.map_of(i).st, wanted)
    again = ClipDataset(
        index, length=6, stride=2, size=32, views=2, maps=how, guide_time=True, guide_crop=True
    )
    same([batch], list(batches(again, 4, 1, shuffle=False)))


def test_a_small_side_makes_small_maps_of_drawn_videos(cache):
    drawing = puppets.Drawing("puppets-u", "train", 2)
    for how in ("dis", "vectors"):
        small, whole = (maps.of_drawing(drawing, Maps(how, side))[1] for side in (48, 0))
        assert small.st.shape == (40, 6, 6) and whole.st.shape == (40, 12, 12)
        like = whole.s_motion(np.arange(40)).reshape(6, 2, 6, 2).mean((1, 3))
        assert np.corrcoef(like.ravel(), small.s_motion(np.arange(40)).ravel())[0, 1] > 0.8


def test_the_hash_tells_maps_apart_and_leaves_others_alone(films, cache):
    index = datasets.folder(films, "all")
    make = lambda **more: ClipDataset(index, **{**OPTIONS, "maps": False, **more}).hash
    several = [
        dict(),
        dict(maps="dis"),
        dict(maps="tvl1"),
        dict(maps="dis", map_side=64),
        dict(maps="dis", map_grid=3),
    ]
    several += [dict(maps="dis", guide_time=True), dict(maps="dis", guide_time=True, p_motion=0.7)]
    several += [dict(maps="dis", guide_crop=True), dict(maps="dis", guide_crop="lines")]
    assert len({make(**more) for more in several}) == len(several)
    assert make(map_grid=3, p_motion=0.5) == make() and make(maps="dis", p_motion=0.5) == make(maps="dis")


@pytest.mark.parametrize(
    "wrong,match",
    [
        (dict(maps="flow"), "no motion maps from 'flow'"),
        (dict(maps="dis", map_side=4), "16 pixels or more"),
        (dict(maps="dis", map_grid=-1), "map_grid -1"),
        (dict(guide_time=True), "need motion maps"),
        (dict(guide_crop=True), "need motion maps"),
        (dict(maps="dis", guide_time=True, p_motion=2), "probability"),
        (dict(maps="dis", guide_time="mean"), "use False, True or 'median'"),
        (dict(maps="dis", guide_time=True, mode="uniform"), "mode 'random'"),
        (dict(maps="dis", guide_time=True, sampling="segments"), "sampling 'stride'"),
        (dict(maps="dis", guide_crop=True, train=False, mode="uniform"), "needs train"),
        (dict(maps="dis", guide_crop=True, scales=(1.0, 0.8)), "no resize or scales"),
        (dict(maps="dis", guide_crop="area"), "use False, True, pixels, lines"),
    ],
)
def test_impossible_options_are_refused(films, wrong, match):
    with pytest.raises(ValueError, match=match):
        ClipDataset(datasets.folder(films, "all"), length=4, stride=2, size=32, **wrong)


# --- the command


def test_the_command_on_a_folder_and_its_errors(broken, cache, capsys):
    words = ["motion", "build", str(broken.root), "--how", "dis", "--jobs", "1"]
    assert cli.main([*words, "--limit", "2"]) in (0, 1)
    said = capsys.readouterr().out
    assert "4 videos like these" in said and "240,000 videos like these" in said and " with 1 worker" in said
    assert cli.main(words) == 1
    said = capsys.readouterr().out
    assert "3 videos with 82 frames" in said and "bad.mp4: not a readable video" in said
    for wrong, text in (
        (["ucf102"], "ucf102"),
        ([str(broken.root), "--how", "flow"], "use one of tvl1, dis, raft, vectors"),
        ([str(broken.root), "--side", "3"], "16 pixels or more"),
        ([str(broken.root), "--limit", "0"], "use 1 or more"),
        ([str(broken.root), "--jobs", "none"], "jobs is 'none': use auto or a whole number"),
    ):
        assert cli.main(["motion", "build", *wrong]) == 1
        said = capsys.readouterr().err
        assert text in said and said.startswith("mvnb: ") and len(said.strip().splitlines()) == 1, said


def test_the_command_on_puppets(cache, puppets_root, monkeypatch, capsys):
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda name, split, fold: load(name, split, scale=TINY))
    assert cli.main(["motion", "build", "puppets-u", "--how", "vectors", "--jobs", "1", "--limit", "6"]) == 0
    assert "6 videos with 240 frames: 6 made now" in capsys.readouterr().out


# --- real files


@pytest.mark.real
@pytest.mark.parametrize("how", ["dis", "vectors"])
def test_real_videos(shared_data, cache, how, tmp_path):
    "A few of UCF101: maps of their shape, built by two workers, read by clips with and without a cache."
    root = tmp_path / "some"
    for path in sorted((shared_data / "mini/HorseRace").glob("*.avi"))[:3]:
        (root / "HorseRace").mkdir(parents=True, exist_ok=True)
        os.symlink(path, root / "HorseRace" / path.name)
    index = datasets.folder(root, "all")
    found = maps.build(index, Maps(how), jobs=2, progress=False)
    assert (found.videos, found.made, found.failed) == (3, 3, {})
    assert found.bytes == sum(f.stat().st_size for f in found.folder.rglob("*.map"))
    one = maps.of_video(index.path(0), Maps(how))
    assert len(one) == video.num_frames(index.path(0)) and one.frame == (112, 149) and one.video == (240, 320)
    assert one.st.shape[1:] == (14, 19) and np.isfinite(one.st).all() and one.st.min() >= 0 < one.st.max()
    data = ClipDataset(
        index, length=8, stride=4, size=64, views=2, maps=how, guide_time=True, guide_crop=True
    )
    (batch,) = batches(data, 3, 0)
    (other,) = batches(
        ClipDataset(
            index,
            **OPTIONS | dict(length=8, stride=4, size=64, maps=how, cache="memory"),
            guide_time=True,
            guide_crop=True,
        ),
        3,
        0,
    )
    assert torch.equal(batch["map"], other["map"]) and batch["map"].flatten(1).amax(1).min() > 0


@pytest.mark.real
def test_tvl1_of_a_real_clip_is_the_formula(shared_data):
    "Twelve frames of a horse race: OpenCV's flow, scipy's Prewitt derivatives, means by loops."
    import cv2
    from scipy import ndimage

    path = next((shared_data / "mini" / "HorseRace").glob("*.avi"))
    frames = video.read_clip(path, range(3), 56).rgb.permute(1, 2, 3, 0).numpy()
    ours = maps.of_frames(frames, "tvl1")
    gray = (frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).round().astype(np.uint8)
    for t in range(2):
        uv = cv2.optflow.DualTVL1OpticalFlow_create().calc(gray[t], gray[t + 1], None).clip(-20, 20)
        parts = [ndimage.prewitt(uv[..., k], axis, mode="nearest") / 6 for k in (0, 1) for axis in (0, 1)]
        whole = np.sqrt(np.square(parts).sum(0))
        inner = np.zeros_like(whole)
        inner[8:-8, 8:-8] = whole[8:-8, 8:-8]
        np.testing.assert_allclose(ours[t], slow_cells(inner), rtol=2e-3, atol=2e-3)
    assert np.array_equal(ours[2], ours[1])
