"Optical flow against known shifts, the batched TV-L1 against OpenCV's, and flow in place of motion vectors."

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.optical_flow import raft_small

from mvnb import clips, datasets, flow, methods, puppets, video
from mvnb.clips import ClipDataset, batches
from mvnb.papers.mgm.method import MGM
from mvnb.train import Schedule, fit

cv2.setNumThreads(1)
LIGHT = dict(scales=3, warps=3, inner=10, outer=3)  # TV-L1 in less time


def texture(height, width, seed=0):
    "A smooth random picture uint8 [H,W,3] with detail everywhere."
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2)
    low, high = blurred.min(), blurred.max()
    return (255 * (blurred - low) / (high - low)).astype(np.uint8)


def shifted(dx, dy, frames=3, height=64, width=80, seed=0):
    "Frames uint8 [T,H,W,3] of a texture that moves by (dx, dy) whole pixels a frame."
    whole = texture(height + 40, width + 40, seed)
    places = [(20 - t * dy, 20 - t * dx) for t in range(frames)]
    return np.stack([whole[y : y + height, x : x + width] for y, x in places])


def middle(field):
    return field[..., 12:-12, 12:-12]


def off(one, other):
    "Mean distance of two flows."
    return torch.hypot(*(one - other).unbind(1)).mean().item()


class Shift(torch.nn.Module):
    "Stands for RAFT: the same flow everywhere; keeps what it was given."

    def __init__(self, dx, dy):
        super().__init__()
        self.shift = torch.tensor([dx, dy])[:, None, None]
        self.seen = []

    def forward(self, first, second, num_flow_updates):
        self.seen.append((tuple(first.shape), first.min().item(), first.max().item(), num_flow_updates))
        return [self.shift.expand(len(first), 2, *first.shape[2:])] * num_flow_updates


# ---------------------------------------------------------------- algorithms


@pytest.mark.parametrize("how", ["tvl1", "tvl1-torch", "dis"])
@pytest.mark.parametrize("shift", [(2, 0), (0, -2), (-3, 1)])
def test_a_shifted_texture_has_the_flow_of_its_shift(how, shift):
    found = flow.flow(shifted(*shift), how)
    assert found.shape == (2, 2, 64, 80) and found.dtype == torch.float32
    wanted = torch.tensor(shift, dtype=torch.float32)[:, None, None]
    assert (middle(found) - wanted).abs().mean() < 0.15


@pytest.mark.parametrize("how", ["tvl1", "tvl1-torch", "dis"])
def test_still_frames_have_none(how):
    assert flow.flow(shifted(0, 0, 2), how).abs().max() < 1e-3


@pytest.mark.parametrize("how", ["tvl1", "tvl1-torch", "dis"])
def test_a_flip_negates_dx_and_exchanging_frames_negates_both(how):
    frames = shifted(2, 1, 2)
    found = flow.flow(frames, how)
    mirrored = flow.flow(frames[:, :, ::-1], how).flip(-1)
    assert off(mirrored * torch.tensor([-1.0, 1.0])[:, None, None], found) < 0.1
    back = flow.between(frames[1:], frames[:1], how)
    assert off(middle(-back), middle(found)) < 0.15


@pytest.mark.parametrize("how", ["tvl1", "dis"])
def test_pairs_do_not_know_each_other(how):
    frames = shifted(2, 1, 4)
    together = flow.flow(frames, how)
    assert torch.equal(together[2:3], flow.flow(frames[2:4], how))


def test_threads_do_not_change_dis():
    frames = shifted(3, -2, 2)
    alone = flow.flow(frames, "dis")
    cv2.setNumThreads(4)
    try:
        assert torch.equal(flow.flow(frames, "dis"), alone)
    finally:
        cv2.setNumThreads(1)


def test_tvl1_is_opencv_s():
    "Called directly, with its own defaults, on its own gray."
    frames = shifted(2, 1, 2)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    theirs = torch.from_numpy(cv2.optflow.DualTVL1OpticalFlow_create().calc(*gray, None))
    assert off(flow.flow(frames)[0][None], theirs.permute(2, 0, 1)[None]) < 0.02
    rough = cv2.optflow.DualTVL1OpticalFlow_create()
    setters = dict(Lambda=0.05, Tau=0.2, Theta=0.2, ScalesNumber=2, WarpingsNumber=2)
    setters |= dict(Epsilon=0.02, InnerIterations=7, OuterIterations=2, ScaleStep=0.5)
    for name, value in setters.items():
        getattr(rough, f"set{name}")(value)
    ours = dict(lambda_=0.05, tau=0.2, theta=0.2, scales=2, warps=2, epsilon=0.02, inner=7, outer=2, step=0.5)
    theirs = torch.from_numpy(rough.calc(*gray, None)).permute(2, 0, 1)[None]
    assert off(flow.flow(frames, "tvl1", **ours), theirs) < 0.02
    assert off(flow.flow(frames, "tvl1-torch", **ours), theirs) < 0.05


@settings(max_examples=8, deadline=None)
@given(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 99))
def test_batched_tvl1_agrees_with_opencv(dx, dy, seed):
    frames = shifted(dx, dy, 2, 48, 56, seed)
    assert off(flow.flow(frames, "tvl1-torch", **LIGHT), flow.flow(frames, "tvl1", **LIGHT)) < 0.05


def test_batched_tvl1_does_not_depend_on_the_batch():
    moving, still = shifted(2, 1, 2), shifted(0, 0, 2)
    first, second = (np.stack([moving[k], still[k]]) for k in (0, 1))
    together = flow.between(first, second, "tvl1-torch", **LIGHT)
    alone = flow.flow(moving, "tvl1-torch", **LIGHT)
    torch.testing.assert_close(together[:1], alone, atol=1e-3, rtol=0)


def test_pairs_that_ended_are_computed_no_further(monkeypatch):
    "Three still pairs and one that moves: after the first look the one goes on, as far as it would alone."
    moving, still = shifted(2, 1, 2), shifted(0, 0, 2)
    pairs = [np.stack([still[k], moving[k], still[k], still[k]]) for k in (0, 1)]
    sizes, iteration = [], flow._iteration
    monkeypatch.setattr(flow, "_iteration", lambda f, *given: sizes.append(len(f)) or iteration(f, *given))
    together = flow.between(*pairs, "tvl1-torch", **LIGHT)
    first = list(sizes)
    alone = flow.flow(moving, "tvl1-torch", **LIGHT)
    assert set(first) == {1, 4} and first.count(4) == flow._LOOK * LIGHT["scales"] * LIGHT["warps"]
    assert len(sizes) == 2 * len(first)
    torch.testing.assert_close(together[1], alone[0])
    assert not together[[0, 2, 3]].any()


@pytest.mark.parametrize("n", [2, 5, 9, 11])
def test_the_network_puts_every_order_in_order(n):
    "Enough to try all rows of zeros and ones (Knuth's zero-one principle)."
    rows = list(torch.cartesian_prod(*[torch.tensor([0, 1])] * n).view(-1, n).unbind(1))
    wanted = torch.stack(rows).sort(0).values
    middle = list(rows)
    for values, exchanges in ((rows, flow._exchanges(n)), (middle, flow._to_the_middle(n))):
        for i, j in exchanges:
            values[i], values[j] = torch.minimum(values[i], values[j]), torch.maximum(values[i], values[j])
    assert torch.equal(torch.stack(rows), wanted)
    assert torch.equal(middle[n // 2], wanted[n // 2])


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 99))
def test_the_median_is_opencv_s(height, width, seed):
    field = torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(seed))
    field = (4 * field).round()  # ties
    wanted = [cv2.medianBlur(part.numpy(), 5) for part in field.flatten(0, 1)]
    assert np.array_equal(flow._median(field).flatten(0, 1).numpy(), np.stack(wanted))


def test_the_steps_of_a_gpu_are_traced_whole():
    "As they are compiled there, without breaks, for more sizes than one; the kernels are PyTorch's."
    median, iteration = (
        torch.compile(step, dynamic=True, fullgraph=True, backend="eager")
        for step in (flow._median, flow._iteration)
    )
    for height, width in ((20, 24), (16, 32)):
        field, gradient = torch.randn(2, 3, 2, height, width)
        dual, rest = torch.randn(3, 2, 2, height, width), torch.randn(3, height, width)
        active = torch.tensor([True, False, True])[:, None, None, None]
        given = (field, dual, active, gradient, rest, flow.TVL1)
        for ours, plain in zip(iteration(*given), flow._iteration(*given)):
            torch.testing.assert_close(ours, plain)
        assert torch.equal(median(field), flow._median(field))
        assert torch.equal(flow._iteration(*given)[0][1], field[1])


def test_without_python_s_headers_nothing_is_compiled(monkeypatch, tmp_path):
    "Triton builds its launchers against them."
    monkeypatch.setattr(flow.sysconfig, "get_path", lambda _: tmp_path)
    assert flow._on_gpu.__wrapped__(flow._median) is flow._median


@pytest.mark.real
def test_batched_tvl1_agrees_with_opencv_on_real_clips(shared_data):
    "Mean end-point difference below 0.1 px where flow is below 20 px, same parameters."
    paths = sorted((shared_data / "mini").glob("*/*_g03_c01.avi"))[:2]
    paths += sorted((shared_data / "clips" / "kinetics400").glob("*.mp4"))[:1]
    assert paths
    for path in paths:
        clip = video.read_clip(path, [8, 9], 112).rgb
        theirs, ours = (flow.flow(clip, how) for how in ("tvl1", "tvl1-torch"))
        apart = torch.hypot(*(theirs - ours).unbind(1))
        assert apart[torch.hypot(*theirs.unbind(1)) < 20].mean() < 0.1, path
        assert theirs.abs().max() > 0.1


# ---------------------------------------------------------------- RAFT


def test_raft_scales_its_flow_back():
    "Frames of 64×80 are seen larger; 4 pixels there are fewer here."
    network = Shift(4.0, 2.0)
    found = flow.flow(shifted(1, 0, 4), "raft", network=network, batch=2, updates=3)
    height, width = network.seen[0][0][2:]
    assert (height, width) == (128, 160)
    assert [seen[0][0] for seen in network.seen] == [2, 1]
    assert network.seen[0][1] >= -1 and network.seen[0][2] <= 1 and network.seen[0][3] == 3
    assert found.shape == (3, 2, 64, 80)
    torch.testing.assert_close(found[:, 0], torch.full((3, 64, 80), 4.0 * 80 / 160))
    torch.testing.assert_close(found[:, 1], torch.full((3, 64, 80), 2.0 * 64 / 128))


def test_raft_with_local_weights(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    path = tmp_path / "raft.pth"
    torch.save(network.state_dict(), path)
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(path))
    frames = texture(128, 128)[None].repeat(2, 0)
    named = flow.flow(frames, "raft", updates=1)
    torch.testing.assert_close(named, flow.flow(frames, "raft", network=network, updates=1))
    before = flow.described("raft")
    torch.save({name: value + 1 for name, value in network.state_dict().items()}, path)
    assert flow.described("raft") != before
    torch.save({"something": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="not the weights of torchvision's raft_small"):
        flow.flow(frames, "raft")


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(tmp_path / "none.pth"))
    said = r"none.pth: no such file of weights; download raft_small_C_T_V2-01064c6d.pth from https://"
    for call in (lambda: flow.flow(shifted(1, 0, 2), "raft"), lambda: flow.described("raft")):
        with pytest.raises(FileNotFoundError, match=said):
            call()


# ---------------------------------------------------------------- frames


def test_arrays_and_clips_are_the_same():
    frames = shifted(1, 1, 2)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)
    found = flow.flow(frames, "dis")
    for same in (clip, clip.float() / 255, clip.double() / 255):
        assert torch.equal(flow.flow(same, "dis"), found)
    gray = clip[:1]
    assert torch.equal(flow.flow(gray, "dis"), flow.flow(gray.repeat(3, 1, 1, 1), "dis"))


@pytest.mark.parametrize(
    "frames, said",
    [
        (np.zeros((3, 32, 32, 3), np.float32), "array uint8"),
        (np.zeros((3, 3, 32, 32), np.uint8), "array uint8"),
        (np.zeros((32, 32, 3), np.uint8), "array uint8"),
        (torch.zeros(3, 2, 32, 32, dtype=torch.int64), "array uint8"),
        (torch.zeros(2, 32, 32, 3), r"a tensor is a clip \[C,T,H,W\]"),
        (np.zeros((1, 32, 32, 3), np.uint8), "at least 2 frames, got 1"),
    ],
)
def test_frames_that_are_refused(frames, said):
    with pytest.raises(ValueError, match=said):
        flow.flow(frames)


def test_options_that_there_are_not():
    frames = shifted(1, 0, 2)
    for how, options, said in (
        ("tvl2", {}, "no optical flow 'tvl2'; did you mean 'tvl1"),
        ("tvl1", dict(alpha=1), "'tvl1' has no option alpha"),
        ("dis", dict(preset="slow"), "preset 'slow'"),
        ("dis", dict(lambda_=1), "'dis' has no option lambda_"),
    ):
        with pytest.raises(ValueError, match=said):
            flow.flow(frames, how, **options)
    with pytest.raises(ValueError, match="at least 16×16"):
        flow.flow(frames[:, :12, :12], "dis")
    with pytest.raises(ValueError, match="one shape"):
        flow.between(frames, frames[:1])
    with pytest.raises(ValueError, match="cannot stand for motion vectors"):
        flow.described("tvl1-torch")


# ---------------------------------------------------------------- the grid of motion vectors


def slow_grid(field, frame):
    "Cell means, one cell and one pixel after the other, each pixel by the area of it in the cell."
    field = field.double().numpy()
    height, width = field.shape[2:]
    rows, columns = -(-frame[0] // 8), -(-frame[1] // 8)
    out = np.zeros((len(field), 2, rows, columns))
    for row, column in np.ndindex(rows, columns):
        top, bottom = (min(edge, frame[0]) * height / frame[0] for edge in (8 * row, 8 * row + 8))
        left, right = (min(edge, frame[1]) * width / frame[1] for edge in (8 * column, 8 * column + 8))
        total = area = 0
        for y, x in np.ndindex(height, width):
            part = max(0, min(bottom, y + 1) - max(top, y)) * max(0, min(right, x + 1) - max(left, x))
            total, area = total + part * field[:, :, y, x], area + part
        out[:, :, row, column] = total / area
    return out * np.array([frame[1] / width, frame[0] / height])[:, None, None]


@settings(max_examples=15, deadline=None)
@given(*[st.integers(2, 20)] * 2, *[st.integers(2, 40)] * 2, st.integers(0, 99))
def test_cells_are_means(height, width, rows, columns, seed):
    field = torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(seed))
    found = flow.on_grid(field, (rows, columns))
    np.testing.assert_allclose(found, slow_grid(field, (rows, columns)), atol=1e-4)


def test_cells_of_a_flipped_field_are_flipped():
    field = torch.randn(1, 2, 32, 48)
    sign = torch.tensor([-1.0, 1.0])[:, None, None]
    torch.testing.assert_close(flow.on_grid(field.flip(-1) * sign), flow.on_grid(field).flip(-1) * sign)


@pytest.mark.parametrize("how", flow.SOURCES[:2])
def test_motion_lies_where_the_thing_is_now(how):
    "A square that moves right by 4 pixels a frame: its motion is at its place in the later frame."
    frames = np.stack([texture(96, 96, 1) // 4] * 3)
    patch = texture(32, 32, 2)
    for t in range(3):
        frames[t, 32:64, 20 + 4 * t : 52 + 4 * t] = patch
    mv, there = flow.frames_motion(frames, how)
    assert mv.shape == (3, 2, 12, 12) and there.shape == (3, 12, 12)
    assert not there[0].any() and there[1:].all() and not mv[0].any()
    assert (mv[2, 0, 5:7, 4:7] - 4).abs().mean() < 1  # columns 32 to 56; the square covers 28 to 60
    assert mv[2, 0, :2].abs().mean() < 0.3


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "A file of 10 frames, 96×128, of a texture that moves by (2, 1)."
    frames = shifted(2, 1, 10, 96, 128)
    path = tmp_path_factory.mktemp("flow") / "film.mp4"
    return video.write_video(path, frames)


def test_a_file_s_motion_is_that_since_the_frame_before(film):
    "In the unstrided video, whatever frames are asked for, in whatever order, with repeats."
    every, there = flow.video_motion(film)
    assert every.shape == (10, 2, 12, 16) and there[1:].all() and not there[0].any()
    wanted = torch.tensor([2.0, 1.0])[:, None, None]
    assert (every[1:, :, 2:-2, 2:-2] - wanted).abs().mean() < 0.25
    times = [7, 3, 0, 3, 9]
    some, known = flow.video_motion(film, times)
    assert torch.equal(some, every[times]) and torch.equal(known, there[times])
    none, known = flow.video_motion(film, [0])
    assert none.shape == (1, 2, 12, 16) and not known.any()


def test_a_smaller_side_keeps_the_units(film):
    small, _ = flow.video_motion(film, [5], side=48)
    assert small.shape == (1, 2, 12, 16)
    assert (small[0, :, 2:-2, 2:-2] - torch.tensor([2.0, 1.0])[:, None, None]).abs().mean() < 0.4


def test_bad_files_and_frames(film, tmp_path):
    with pytest.raises(video.VideoError, match="past the end"):
        flow.video_motion(film, [3, 10])
    with pytest.raises(video.VideoError):
        flow.video_motion(tmp_path / "none.mp4", [1])
    with pytest.raises(ValueError, match="no optical flow 'fast'"):
        flow.video_motion(film, [3], "fast")


# ---------------------------------------------------------------- batches


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    clips._held.clear()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "Three videos that move by (2, 1), (-1, 0) and (0, -2) pixels a frame."
    folder = tmp_path_factory.mktemp("files")
    names = []
    for number, shift in enumerate([(2, 1), (-1, 0), (0, -2)]):
        names.append(f"{number}.mp4")
        video.write_video(folder / names[-1], shifted(*shift, 10, 64, 80, number))
    return datasets.Index("files", "train", folder, names, np.arange(3), ("a", "b", "c"))


CLIP = dict(length=4, stride=2, size=32, views=2)


def loaded(index, epoch=0, workers=0, **options):
    data = ClipDataset(index, **CLIP | options)
    return next(iter(batches(data, len(index), epoch, shuffle=False, workers=workers))), data


def test_the_loader_knows_the_flows_of_this_room():
    assert clips.MOTION == ("vectors", *flow.SOURCES)


def test_flow_follows_crop_and_size(files, how="dis"):
    "Cut from the field of whole frames, at the times and the box of each view, like vectors."
    batch, data = loaded(files, motion=how, motion_grid=3)
    assert batch["mv"].shape == (3, 2, 4, 2, 3, 3) and batch["has_mv"].shape == (3, 2, 4, 3, 3)
    assert batch["mv"].dtype == torch.float32 and batch["has_mv"].dtype == torch.bool
    for i in range(3):
        whole = flow.video_motion(files.path(i), how=how)
        for view, times in enumerate(data.times(i, 0, 10)):
            box = data.box(i, 0, view, 64, 80)
            mv, there = video.crop_motion(*(part[times] for part in whole), box, (32, 32), (3, 3))
            torch.testing.assert_close(batch["mv"][i, view], mv)
            assert torch.equal(batch["has_mv"][i, view], there)
            assert there[times > 0].all() and not there[times == 0].any()


def test_units_are_pixels_of_the_clip(files):
    "The middle square of 64 pixels, at half its size: half as many pixels."
    options = dict(train=False, mode="uniform", views=1)
    batch, data = loaded(files, motion="dis", **options)
    seen = batch["mv"][:, 0, 1:, :, 1:-1, 1:-1].mean((1, 3, 4))
    wanted = torch.tensor([[2.0, 1.0], [-1.0, 0.0], [0.0, -2.0]]) / 2
    assert (seen - wanted).abs().max() < 0.15


def test_the_clip_itself_is_the_same(files):
    plain, _ = loaded(files)
    for how in ("vectors", "dis"):
        assert torch.equal(loaded(files, motion=how)[0]["clip"], plain["clip"])
    together = dict(same_time=True, scale=(0.5, 1.0))
    assert torch.equal(
        loaded(files, motion="dis", **together)[0]["clip"], loaded(files, **together)[0]["clip"]
    )


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("grid", [None, 5])
def test_cached_flow_is_that_of_the_files(files, cache, kind, grid):
    options = dict(motion="dis", motion_grid=grid)
    for epoch in range(2):
        direct, _ = loaded(files, epoch, **options)
        kept, _ = loaded(files, epoch, cache=kind, **options)
        torch.testing.assert_close(kept["mv"], direct["mv"])
        assert torch.equal(kept["has_mv"], direct["has_mv"])


def test_caches_of_different_motion_do_not_mix(files, cache):
    found = {}
    files = files.subset([0])
    for how in (False, "vectors", "dis", "tvl1"):
        found[how] = loaded(files, cache="disk", motion=how)[0].get("mv")
    assert found[False] is None and len(list((cache / "clips").glob("*/index.json"))) == 4
    assert not torch.equal(found["dis"], found["tvl1"]) and not torch.equal(found["dis"], found["vectors"])
    again = loaded(files, cache="disk", motion="dis")[0]["mv"]
    assert torch.equal(again, found["dis"])


def test_workers_read_the_same(files):
    alone, helped = (loaded(files, workers=workers, motion="dis")[0] for workers in (0, 2))
    assert torch.equal(alone["mv"], helped["mv"])


def test_several_crops_of_a_test_clip(files):
    options = dict(train=False, mode="uniform", views=6, crops=3, motion="dis")
    batch, data = loaded(files, **options)
    whole = flow.video_motion(files.path(0), how="dis")
    for view, times in enumerate(data.times(0, 0, 10)):
        box = data.box(0, 0, view, 64, 80)
        mv, _ = video.crop_motion(*(part[times] for part in whole), box, (32, 32), (4, 4))
        torch.testing.assert_close(batch["mv"][0, view], mv)


def test_drawn_videos_have_the_flow_of_their_frames(cache, monkeypatch):
    "Computed once for each video, kept, and cut as files are."
    index = datasets.load("puppets-s", "train", seed=3, videos=3)
    calls = []
    real = flow.frames_motion
    monkeypatch.setattr(flow, "frames_motion", lambda *a: calls.append(1) or real(*a))
    batch, data = loaded(index, motion="dis", motion_grid=12)
    assert len(calls) == 3
    again, _ = loaded(index, motion="dis", motion_grid=12)
    assert len(calls) == 3 and torch.equal(again["mv"], batch["mv"])
    for i in range(3):
        whole = real(index.drawing.video(i)[0], "dis")
        for view, times in enumerate(data.times(i, 0, puppets.FRAMES)):
            box = data.box(i, 0, view, puppets.SIZE, puppets.SIZE)
            mv, there = video.crop_motion(*(part[times] for part in whole), box, (32, 32), (12, 12))
            torch.testing.assert_close(batch["mv"][i, view], mv)
            assert torch.equal(batch["has_mv"][i, view], there)


def test_hashes(files):
    "True is vectors, as before; each flow is another data set."
    old = ClipDataset(files, **CLIP, motion=True)
    assert old.motion == "vectors" and old.hash == ClipDataset(files, **CLIP, motion="vectors").hash
    kinds = [ClipDataset(files, **CLIP, motion=how).hash for how in (False, True, "tvl1", "dis")]
    assert len(set(kinds)) == 4


def test_motion_that_there_is_not(files, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match="motion 'tvl1-torch' is not known: use False, vectors, tvl1, dis, raft"
    ):
        ClipDataset(files, **CLIP, motion="tvl1-torch")
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match="none.pth: no such file of weights"):
        ClipDataset(files, **CLIP, motion="raft")


def test_raft_in_the_loader(files, cache, tmp_path, monkeypatch):
    "With weights of a file, here random ones; from the cache within rounding."
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(tmp_path / "raft.pth"))
    monkeypatch.setitem(flow.RAFT, "updates", 1)
    options = dict(motion="raft", length=2, views=1)
    direct, kept = (loaded(files, **options, **more)[0] for more in ({}, dict(cache="memory")))
    assert direct["mv"].abs().max() > 0
    torch.testing.assert_close(kept["mv"], direct["mv"], atol=1e-3, rtol=1e-3)


def test_files_without_vectors_have_flow(tmp_path):
    "An intra-only file: vectors are refused, flow is not."
    path = tmp_path / "intra.mp4"
    video.write_video(path, shifted(2, 1, 8), options=dict(g=1, crf=10))
    index = datasets.Index("files", "train", tmp_path, [path.name], np.zeros(1, int), ("a",))
    with pytest.raises(video.NoMotionVectors, match="optical flow"):
        ClipDataset(index, **CLIP, motion="vectors").read(0)
    assert ClipDataset(index, **CLIP, motion="dis").read(0)["has_mv"].any()


# ---------------------------------------------------------------- MGM

TINY = dict(backbone="vit_tiny", width=24, depth=2, heads=2, decoder_depth=1, seed=5)
PLAIN = dict(gray=0.0, p_jitter=0.0, blur=0.0, flip=0.0)


def test_guidance_reaches_the_loader():
    assert MGM(**TINY, motion_grid=12).clip_options == dict(motion=True, motion_grid=12)
    for how in flow.SOURCES:
        assert MGM(**TINY, guidance=how).clip_options == dict(motion=how, motion_grid=None)
    assert MGM(mask="tube", **TINY, guidance="dis").clip_options == {}
    with pytest.raises(ValueError, match="guidance 'flow' is not known to MGM: choose one of vectors"):
        methods.build("mgm", **TINY, guidance="flow")


def test_a_flip_takes_the_flow_s_mask_along(files):
    batch, _ = loaded(files, motion="dis", views=1)
    batch |= dict(epoch=0, step=0)
    _, mask = MGM(**TINY, photometric=PLAIN, guidance="dis").inputs_of(batch)
    _, mirrored = MGM(**TINY, photometric=PLAIN | dict(flip=1.0), guidance="dis").inputs_of(batch)
    assert mirrored.equal(mask.flip(-1))


def test_the_mask_follows_the_flow():
    "A small square in a still scene: in every tubelet what the flow finds is hidden."
    scene, patch = texture(96, 96, 1) // 3, texture(24, 24, 2)
    frames = np.stack([scene] * 17)
    for t in range(17):
        frames[t, 20:44, 4 + 3 * t : 28 + 3 * t] = patch
    mv, there = (part[1:][None, None] for part in flow.frames_motion(frames, "dis"))
    clip = torch.from_numpy(frames[1:]).permute(3, 0, 1, 2)[None, None]
    batch = dict(clip=clip, mv=mv, has_mv=there, index=torch.arange(1), epoch=0, step=0)
    hidden = MGM(**TINY, ratio=0.4, jitter=0.0, photometric=PLAIN, guidance="dis").hide(batch)[0]
    for tubelet in range(8):
        middle_column = (16 + 3 * (2 * tubelet + 1)) // 8
        assert hidden[tubelet, 3:5, middle_column].all()


def test_pretraining_by_flow_is_the_same_alone_and_helped(files, tmp_path):
    plan = Schedule(epochs=9, batch_size=3, optimizer="adamw", lr=1e-3, max_steps=3)
    weights = []
    for name, workers in (("alone", 0), ("helped", 2)):
        method = MGM(**TINY, guidance="dis", motion_grid=4)
        data = ClipDataset(files, **CLIP | dict(views=1), **method.clip_options)
        options = dict(seed=0, device="cpu", progress=False, tensorboard=False, workers=workers)
        fit(method, data, plan, folder=tmp_path / name, **options)
        weights.append(method.state_dict())
    for one, other in zip(*(state.values() for state in weights)):
        assert one.equal(other)


# ---------------------------------------------------------------- with a GPU

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@cuda
def test_batched_tvl1_on_the_gpu():
    frames = shifted(2, 1, 3)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).cuda()
    found = flow.flow(clip, "tvl1-torch", **LIGHT)
    assert found.is_cuda and off(found.cpu(), flow.flow(frames, "tvl1-torch", **LIGHT)) < 0.02
    assert off(flow.flow(clip, "tvl1-torch").cpu(), flow.flow(frames, "tvl1")) < 0.05


@cuda
def test_raft_on_the_gpu():
    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    frames = torch.from_numpy(texture(128, 136))[None].repeat(2, 1, 1, 1).permute(3, 0, 1, 2)
    here = flow.flow(frames, "raft", network=network, updates=2)
    there = flow.flow(frames.cuda(), "raft", network=network.cuda(), updates=2)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, atol=0.05, rtol=0.05)
