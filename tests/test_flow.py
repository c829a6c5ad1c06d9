"Optical flow against known shifts, the batched TV-L1 against OpenCV's, and flow in place of motion vectors."

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.optical_flow import raft_small

from mvnb import flow, video

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


# ---------------------------------------------------------------- with a GPU

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@cuda
def test_batched_tvl1_on_the_gpu():
    frames = shifted(2, 1, 3)
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).cuda()
    flow.flow(clip, "tvl1-torch", **LIGHT)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = flow.flow(clip, "tvl1-torch", **LIGHT)
    finally:
        torch.cuda.set_sync_debug_mode("default")
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
