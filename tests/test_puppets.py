"The puppets: deterministic, balanced, biased as promised, with a true ground truth, and mended when damaged."

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from mvnb import puppets
from mvnb.puppets import ACTIONS, CAMERAS, CLASSES, FILED, FRAMES, JOINTS, NAMES, Drawing

SCALE = 0.05


def decode(path):
    with av.open(str(path)) as c:
        return np.stack([f.to_ndarray(format="rgb24") for f in c.decode(video=0)])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "One small set on disk; tests that damage it leave it whole."
    root = tmp_path_factory.mktemp("sets")
    return root, puppets.make("puppets-u", root, scale=SCALE, workers=1, progress=False)


# ---- the skeleton and the actions

names, seeds = st.sampled_from(sorted(ACTIONS)), st.integers(0, 2**32 - 1)


@given(names, seeds)
@hypothesis_settings(max_examples=60, deadline=None)
def test_bones_keep_their_length_and_stand_on_the_ground(name, seed):
    pose = puppets.perform(name, np.random.default_rng(seed), 24)
    points = puppets.skeleton(pose)
    bones = [("hip", "chest"), ("chest", "head")] + [
        (f"{a}_{s}", f"{b}_{s}")
        for s in "lr"
        for a, b in (("shoulder", "elbow"), ("elbow", "hand"), ("thigh", "knee"), ("knee", "foot"))
    ]
    for a, b in bones:
        length = np.hypot(*(points[a] - points[b]).T)
        assert np.allclose(length, length[0], atol=1e-9) and length[0] > 0.1
    if "height" not in pose:  # the lowest joint is half a foot above the ground, plus the hop
        lowest = np.min([p[:, 1] for p in points.values()], axis=0)
        assert np.allclose(lowest, 0.045 + pose["hop"], atol=1e-9)


def test_forward_kinematics_against_complex_numbers():
    "An independent skeleton: every bone is a complex number turned by the sum of the angles above it."
    rng = np.random.default_rng(0)
    for _ in range(20):
        pose = {j: np.array([rng.uniform(-90, 90)]) for j in JOINTS} | {"dx": np.zeros(1), "hop": np.zeros(1)}
        got = {k: complex(*p[0]) for k, p in puppets.skeleton(pose).items()}
        d = {j: np.deg2rad(float(v[0])) for j, v in pose.items()}
        turned = np.exp(-1j * d["spin"])  # clockwise, forward is to the right
        down = lambda angle: -1j * np.exp(1j * angle)
        spine = turned * 1j * np.exp(-1j * d["lean"])  # up, tipped forward
        assert np.isclose((got["chest"] - got["hip"]) / abs(got["chest"] - got["hip"]), spine)
        for s in "lr":
            arm = turned * down(d[f"arm_{s}"] - d["lean"])
            forearm = turned * down(d[f"arm_{s}"] - d["lean"] + d[f"elbow_{s}"])
            shin = turned * down(d[f"leg_{s}"] + d[f"knee_{s}"])
            for a, b, want in (
                (f"shoulder_{s}", f"elbow_{s}", arm),
                (f"elbow_{s}", f"hand_{s}", forearm),
                (f"knee_{s}", f"foot_{s}", shin),
            ):
                assert np.isclose((got[b] - got[a]) / abs(got[b] - got[a]), want)


def test_every_class_has_an_action_and_sets_overlap():
    assert set(sum(CLASSES.values(), ())) == set(ACTIONS)
    assert all(len(set(c)) == len(c) for c in CLASSES.values())
    u, h, k, d, s = (set(CLASSES[n]) for n in NAMES)
    assert len(u) >= 8 and len(h) >= 8 and len(k) > len(u) and len(d) >= 6
    assert 3 <= len(u & h) < 8 and u & k and h & k and not (d | s) & (u | h | k)


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_an_action_moves_and_is_periodic(name):
    p, rest = np.linspace(0, 1, 9)[:-1], {j: 3.0 for j in JOINTS}
    one, two = ACTIONS[name](p, "l", rest), ACTIONS[name](p + 1, "l", rest)
    assert any(np.ptp(np.broadcast_to(v, p.shape)) > 0.05 for v in one.values())
    for j in one:  # angles repeat modulo full turns
        turn = (np.asarray(two[j]) - one[j]) % 360
        assert np.allclose(np.minimum(turn, 360 - turn), 0, atol=1e-6), j


@pytest.mark.parametrize("act,sign", [("go_left", -1), ("go_right", 1)])
@pytest.mark.parametrize("seed", range(6))
def test_small_actors_go_one_way_slowly_and_are_anywhere(act, sign, seed):
    _, mask = puppets.render("puppets-s", act, seed=[seed, 8])
    x = np.array([np.nonzero(frame.any(0))[0].mean() for frame in mask])
    steps = sign * np.diff(x)
    assert (steps > 0.05).mean() > 0.55  # most of the time it goes where its name says
    assert steps.min() < -2 * np.median(steps[steps > 0])  # and comes back faster
    assert 0.02 < mask.mean() < 0.12


def test_where_small_actors_stand():
    feet = [np.nonzero(puppets.render("puppets-s", "rise", seed=i, frames=1)[1][0]) for i in range(60)]
    x = np.array([columns.mean() for _, columns in feet]) / 96
    y = np.array([rows.max() for rows, _ in feet]) / 96
    assert x.min() < 0.35 and x.max() > 0.65 and y.min() < 0.65 and y.max() > 0.9


@pytest.mark.parametrize(
    "one,other", [("rise", "sink"), ("raise_arms", "lower_arms"), ("tip_left", "tip_right")]
)
def test_a_pair_of_classes_shows_the_same_poses_in_another_order(one, other):
    phase = np.linspace(0, 1, 2001)
    first, second = (ACTIONS[act](phase, "l", {}) for act in (one, other))
    for joint in first:
        assert (
            abs(
                np.quantile(first[joint], [0.1, 0.5, 0.9]) - np.quantile(second[joint], [0.1, 0.5, 0.9])
            ).max()
            < 3
        )
        if np.ptp(first[joint]) > 1:  # the one rises in most frames, the other falls
            ups = [(np.diff(pose[joint]) > 0).mean() for pose in (first, second)]
            assert min(ups) < 0.25 and max(ups) > 0.75


def test_unknown_action_names_the_choices():
    with pytest.raises(ValueError, match="no puppet action 'moonwalk'.*wave"):
        puppets.perform("moonwalk", np.random.default_rng(0))


# ---- frames and ground truth


@given(st.sampled_from(NAMES), seeds, st.sampled_from(CAMERAS), st.data())
@hypothesis_settings(max_examples=16, deadline=None)
def test_render_is_a_function_of_its_arguments(name, seed, camera, data):
    act = data.draw(st.sampled_from(CLASSES[name]))
    one, two = (puppets.render(name, act, seed=seed, camera=camera, frames=6) for _ in range(2))
    assert (
        one[0].dtype == np.uint8
        and one[0].shape == (6, 96, 96, 3)
        and one[1].dtype == bool
        and one[1].shape == (6, 96, 96)
    )
    assert (one[0] == two[0]).all() and (one[1] == two[1]).all()
    assert one[1].any((1, 2)).all()
    assert (puppets.render(name, act, seed=seed + 1, camera=camera, frames=6)[0] != one[0]).any()


@given(seeds, st.sampled_from(CAMERAS))
@hypothesis_settings(max_examples=12, deadline=None)
def test_the_mask_is_where_the_scene_does_not_show(seed, camera):
    "Exchange the scene: what changes is background, what stays is puppet."
    (a, mask), (b, same) = (
        puppets.render("puppets-u", "wave", scene, seed=seed, camera=camera, frames=8) for scene in (0, 10)
    )
    assert (mask == same).all()
    kernel = np.ones((3, 3), np.uint8)
    inside = (
        np.stack([cv2.erode(m.astype(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE) for m in mask]) > 0
    )
    outside = np.stack([cv2.dilate(m.astype(np.uint8), kernel) for m in mask]) == 0
    changed = (a.astype(int) - b).__abs__().sum(-1) > 12
    assert changed[inside].mean() < 0.02 and changed[outside].mean() > 0.95


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 11)), max_size=6), min_size=1, max_size=4)
)
@hypothesis_settings(deadline=None)
def test_boxes_against_brute_force(frames):
    masks = np.zeros((len(frames), 9, 12), bool)
    for t, points in enumerate(frames):
        for y, x in points:
            masks[t, y, x] = True
    for box, points in zip(puppets.boxes_of(masks), frames):
        want = (
            [
                min(x for _, x in points),
                min(y for y, _ in points),
                max(x for _, x in points) + 1,
                max(y for y, _ in points) + 1,
            ]
            if points
            else [0] * 4
        )
        assert box.tolist() == want


def test_ground_truth_follows_the_camera():
    still, pan = (
        puppets.render("puppets-u", "slide", 4, seed=8, camera=c, frames=20)[1] for c in ("still", "pan")
    )
    centre = lambda m: np.array([np.nonzero(f)[1].mean() for f in m])
    drift = centre(pan) - centre(still)
    steps = np.diff(drift)
    assert abs(drift[-1] - drift[0]) > 8 and (np.sign(steps) == np.sign(drift[-1] - drift[0])).mean() > 0.8


@pytest.mark.parametrize("name", NAMES[:3])
def test_actors_are_large(name):
    share = [puppets.render(name, a, seed=[s], frames=6)[1].mean() for a in CLASSES[name] for s in range(2)]
    assert 0.2 < np.mean(share) < 0.4


@pytest.mark.parametrize("kind", CAMERAS)
def test_camera_paths(kind):
    path = puppets.camera_path(kind, np.random.default_rng(3), 40)
    moves = np.ptp(path, 0) > 1e-9
    assert (
        moves.tolist()
        == {
            "still": [False] * 3,
            "pan": [False, True, False],
            "shake": [False, True, True],
            "zoom": [True, False, False],
        }[kind]
    )


# ---- the catalogue


@given(st.sampled_from(NAMES), st.sampled_from(FILED), st.integers(0, 5), st.sampled_from([0.05, 0.15, 0.5]))
@hypothesis_settings(max_examples=20, deadline=None)
def test_catalogues_are_balanced_and_grow_from_the_front(name, split, seed, scale):
    small, full = (
        puppets.catalogue(name, split, seed=seed, scale=scale),
        puppets.catalogue(name, split, seed=seed),
    )
    assert small == full[: len(small)] and len({e["path"] for e in full}) == len(full)
    for entries in (small, full):
        counts = Counter(e["label"] for e in entries)
        assert (
            set(counts) == set(range(len(CLASSES[name])))
            and len(set(counts.values())) == 1
            and min(counts.values()) >= 2
        )


@pytest.mark.parametrize("name", NAMES[:3])
def test_bias(name):
    n, own = (
        len(CLASSES[name]),
        lambda split, **kw: np.mean(
            [
                e["scene"] in puppets.scenes(name, e["label"])
                for s in range(8)
                for e in puppets.catalogue(name, split, seed=s, **kw)
            ]
        ),
    )
    assert abs(own("train") - 0.9) < 0.01 and abs(own("test-biased") - 0.9) < 0.02
    assert abs(own("test-unbiased") - 1 / n) < 0.02 and abs(own("train", rho=None) - 1 / n) < 0.02
    assert own("train", rho=0) == 0 and own("train", rho=1.0) == 1
    assert own("test-biased", rho=None) == own("test-biased")  # rho is about the train split only


def test_unbiased_scenes_are_independent_of_the_class():
    "Each class meets each pool equally often when the deck is dealt out."
    table = np.zeros((8, 8), int)
    for e in puppets.catalogue("puppets-u", "train", rho=None):
        table[e["label"], e["scene"] // puppets.POOL] += 1
    assert (table == 5).all()


def test_camera_share():
    kinds = Counter(e["camera"] for s in range(4) for e in puppets.catalogue("puppets-k", "train", seed=s))
    assert abs(1 - kinds["still"] / sum(kinds.values()) - 0.25) < 0.03 and all(
        kinds[k] > 80 for k in CAMERAS[1:]
    )
    assert {e["camera"] for e in puppets.catalogue("puppets-u", "train", camera=0)} == {"still"}


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(name="puppets-z"), "no puppet set"),
        (dict(split="validation"), "no puppet split"),
        (dict(scale=0), "scale"),
        (dict(scale=float("nan")), "scale"),
        (dict(rho=1.5), "rho"),
        (dict(camera=-1), "camera"),
    ],
)
def test_bad_catalogues_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        puppets.catalogue(**(dict(name="puppets-u", split="train") | bad))


# ---- on disk


def test_files_show_what_was_rendered(small):
    root, folder = small
    entry = next(e for e in puppets.manifest(folder)["files"] if e["camera"] == "pan")
    act = CLASSES["puppets-u"][entry["label"]]
    frames, mask = puppets.render(
        "puppets-u", act, entry["scene"], seed=entry["seed"] + [1], camera=entry["camera"]
    )
    decoded = decode(folder / entry["path"])
    error = np.mean((decoded.astype(float) - frames) ** 2)
    assert (
        decoded.shape == frames.shape and 10 * np.log10(255**2 / error) > 22
    )  # dB; halved colour planes cost most of it
    got, boxes = puppets.ground_truth(folder / entry["path"])
    assert (got == mask).all() and (boxes == puppets.boxes_of(mask)).all() and boxes.dtype == np.float32


def test_videos_are_h264_with_motion_vectors(small):
    _, folder = small
    with av.open(str(folder / puppets.manifest(folder)["files"][0]["path"])) as c:
        stream = c.streams.video[0]
        assert (
            stream.codec_context.name == "h264"
            and stream.codec_context.pix_fmt == "yuv420p"
            and float(stream.average_rate) == 12.5
        )
        stream.codec_context.options = {"flags2": "+export_mvs"}
        with_vectors = [any(s.type.name == "MOTION_VECTORS" for s in f.side_data) for f in c.decode(stream)]
    assert len(with_vectors) == 40 and sum(with_vectors) >= 36


def test_two_roots_hold_the_same_bytes(small, tmp_path):
    _, folder = small
    other = puppets.make("puppets-u", tmp_path, scale=SCALE, workers=2, progress=False)
    assert (other / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_encoding_again_gives_the_same_bytes(tmp_path):
    "With x264's mbtree about one video in fifty came out different."
    jobs = [
        (str(tmp_path / str(i)), "puppets-u", 0.0, e)
        for i in range(2)
        for e in puppets.catalogue("puppets-u", "train", scale=0.2)
    ]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(puppets._make_one, jobs))
    assert made[: len(made) // 2] == made[len(made) // 2 :]


def test_index_lists_the_split(small):
    root, folder = small
    listed = puppets.index("puppets-u", "test-biased", root, scale=SCALE, progress=False)
    assert [p for p, _, _ in listed] == [
        e["path"] for e in puppets.catalogue("puppets-u", "test-biased", scale=SCALE)
    ]
    assert all((folder / p).is_file() and CLASSES["puppets-u"][label] in p for p, label, _ in listed)
    with pytest.raises(ValueError, match="no puppet split"):
        puppets.index("puppets-u", "val", root, scale=SCALE)


def test_other_arguments_get_other_folders(small):
    root, folder = small
    others = {
        puppets._folder("puppets-u", root, *a)
        for a in (
            (0, SCALE, 0.9, 0.25),
            (1, SCALE, 0.9, 0.25),
            (0, 0.06, 0.9, 0.25),
            (0, SCALE, None, 0.25),
            (0, SCALE, 0.9, 0),
        )
    }
    assert len(others) == 5 and folder in others


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "truth"])
def test_damage_is_mended(small, damage):
    root, folder = small
    entries = puppets.manifest(folder)["files"]
    victim, witness = folder / entries[5]["path"], folder / entries[6]["path"]
    before, stamp = victim.read_bytes(), witness.stat().st_mtime_ns
    if damage == "truncate":
        victim.write_bytes(before[:500])
    if damage == "flip":
        victim.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    if damage == "remove":
        victim.unlink()
    if damage == "truth":
        victim.with_suffix(".npz").write_bytes(b"")
    puppets.make("puppets-u", root, scale=SCALE, workers=1, progress=False)
    assert victim.read_bytes() == before and len(puppets.ground_truth(victim)[0]) == 40
    assert witness.stat().st_mtime_ns == stamp  # what was whole was left alone


@pytest.mark.parametrize("text", ["", "{}", "[1]", None])
def test_a_bad_manifest_is_made_again(small, text):
    root, folder = small
    path = folder / "manifest.json"
    before = path.read_text()
    if text is None:  # valid JSON, but somebody edited a label
        edited = json.loads(before)
        edited["files"][0]["label"] = 7
        text = json.dumps(edited)
    path.write_text(text)
    puppets.make("puppets-u", root, scale=SCALE, workers=2, progress=False)
    assert path.read_text() == before


def test_mending_with_another_encoder_makes_the_whole_set_anew(tmp_path, monkeypatch):
    "Other libraries write other bytes: then one mended file would not match its manifest."
    folder = puppets.make("puppets-d", tmp_path, scale=0.01, workers=1, progress=False)
    old = puppets.manifest(folder)
    write = puppets.write_video
    monkeypatch.setattr(
        puppets,
        "write_video",
        lambda path, frames, fps, options: write(path, frames, fps, options=options | {"crf": 30}),
    )
    (folder / old["files"][0]["path"]).unlink()
    puppets.make("puppets-d", tmp_path, scale=0.01, workers=1, progress=False)
    new = puppets.manifest(folder)
    assert new["hash"] != old["hash"] and all(
        a["sha256"] != b["sha256"] for a, b in zip(old["files"], new["files"])
    )
    assert all(puppets._intact(folder / e["path"], e) for e in new["files"])


MAKE = (
    "import sys; from mvnb import puppets; "
    "print(puppets.make('puppets-h', sys.argv[1], scale=.2, workers=int(sys.argv[2]), progress=False))"
)


def test_a_killed_making_leaves_nothing_half_written(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path), "1"])
    deadline = time.time() + 60
    while len(list(tmp_path.glob("*/*/*/*.mp4"))) < 5 and time.time() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = puppets._folder("puppets-h", tmp_path, 0, 0.2, 0.9, 0.25)
    assert not (folder / "manifest.json").exists()
    assert all(len(decode(p)) == 40 for p in folder.glob("*/*/[0-9]*.mp4"))
    (folder / "train" / "clap" / ".00000.1.part.mp4").write_bytes(b"left over")
    assert puppets.make("puppets-h", tmp_path, scale=0.2, workers=2, progress=False) == folder
    listed = {e["path"] for e in puppets.manifest(folder)["files"]}
    assert {str(p.relative_to(folder)) for p in folder.glob("*/*/*") if p.suffix != ".npz"} == listed


def test_two_processes_make_one_set(tmp_path):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE.replace(".2,", ".1,"), str(tmp_path), "1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    out = [p.communicate(timeout=120)[0].strip() for p in both]
    assert [p.returncode for p in both] == [0, 0] and out[0] == out[1]
    folder = puppets._folder("puppets-h", tmp_path, 0, 0.1, 0.9, 0.25)
    entries = puppets.manifest(folder)["files"]
    assert str(folder) == out[0] and all(puppets._intact(folder / e["path"], e) for e in entries)
    times = [(folder / e["path"]).stat().st_mtime_ns for e in entries]
    assert times == sorted(times)  # written once, in order, by one of the two


def test_no_truth_no_answer(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ground truth beside real.mp4"):
        puppets.ground_truth(tmp_path / "real.mp4")


def test_unset_folder_says_what_to_set(monkeypatch):
    monkeypatch.setattr(puppets.settings, "data_root", lambda name: None)
    with pytest.raises(ValueError, match=r"set \[data\] puppets"):
        puppets.make("puppets-u")


# Drawn straight into arrays.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_drawing_shows_the_videos_of_the_files(small):
    "The same classes, scenes, performances and masks; compression is what differs."
    root, folder = small
    drawing = Drawing("puppets-u", "test-biased", 4)
    entries = [e for e in puppets.manifest(folder)["files"] if e["split"] == "test-biased"]
    for i, entry in enumerate(entries[:4]):
        drawn, mask = drawing.video(i)
        assert drawing.entries[i] == {k: v for k, v in entry.items() if not k.endswith("sha256")}
        assert (mask == puppets.ground_truth(folder / entry["path"])[0]).all()
        filed = decode(folder / entry["path"])
        assert np.abs(filed.astype(float) - drawn).mean() < 6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("camera", CAMERAS)
def test_a_small_picture_is_the_shrunken_large_one(name, camera):
    for seed in range(3):
        options = dict(seed=[seed, 5], camera=camera, frames=20)
        large, mask = puppets.render(name, CLASSES[name][seed], **options)
        small, covered = puppets.render(name, CLASSES[name][seed], size=32, **options)
        shrunk = np.stack([cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA) for f in large])
        share = np.stack(
            [cv2.resize(m.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA) for m in mask]
        )
        assert np.abs(small.astype(float) - shrunk).mean() < 12
        assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.9
        alike = (covered & (share >= 0.5)).sum() / (covered | (share >= 0.5)).sum()
        assert alike > (0.7 if name == "puppets-s" else 0.8)  # a small actor is mostly border


def test_some_frames_are_those_of_the_whole_video():
    drawing = Drawing("puppets-h", "train", 3, seed=2)
    times = (0, 7, 39)
    for i in range(3):
        whole, masks = drawing.video(i, size=40)
        some, covered = drawing.video(i, size=40, times=times)
        assert (some == whole[list(times)]).all() and (covered == masks[list(times)]).all()


@pytest.mark.parametrize("only", [None, (3, 8, 40)])
def test_the_places_of_a_drawing_are_those_of_its_entries(only):
    for name in puppets.NAMES:
        drawing = Drawing(name, "train", 41, seed=2, only=only)
        assert drawing.places == [(entry["path"], entry["label"]) for entry in drawing.entries]


def test_a_drawing_is_drawn_once_and_mended(cache, monkeypatch):
    drawing = Drawing("puppets-u", "dev-biased", 6, seed=4)
    first = np.array(puppets.kept(drawing, 24, (0, 3), gray=True, progress=False))
    assert first.shape == (6, 2, 24, 24, 1) and (first == drawing.draw(24, (0, 3), True, False)).all()
    calls = []
    monkeypatch.setattr(Drawing, "draw", lambda self, *a: calls.append(a) or first)
    puppets.kept(drawing, 24, (0, 3), gray=True, progress=False)
    assert not calls
    (file,) = cache.glob("drawn/*/array.npy")
    with open(file, "r+b") as broken:
        broken.seek(-10, 2)
        broken.write(b"0123456789")
    assert (puppets.kept(drawing, 24, (0, 3), gray=True, progress=False) == first).all() and len(calls) == 1
    assert (puppets.kept(drawing, 24, (0, 3), gray=False, progress=False) == first).all() and len(calls) == 2


def test_boxes_of_a_drawing_are_those_of_its_masks(cache):
    drawing = Drawing("puppets-k", "train", 3)
    boxes = puppets.kept(drawing, None, progress=False)
    assert boxes.shape == (3, FRAMES, 4)
    for i in range(3):
        assert (boxes[i] == puppets.boxes_of(drawing.video(i)[1])).all()


def test_worlds_and_splits_have_videos_of_their_own():
    def seeds(split, world):
        return {tuple(e["seed"]) for e in Drawing("puppets-u", split, 50, seed=world).entries}

    every = [seeds(split, world) for split in puppets.SPLITS for world in (0, 1)]
    assert len(set().union(*every)) == sum(map(len, every))


def test_actors_are_alike_unless_variety_is_asked_for():
    def looks(variety):
        found = []
        for seed in range(40):
            actor = puppets._actor(np.random.default_rng(seed), variety)
            found.append(tuple(actor.values()))
        return found

    assert len(set(looks(0.0))) == 1
    assert len(set(looks(1.0))) == 40
    assert 10 < len(set(looks(0.5))) < 32
    with pytest.raises(ValueError, match="variety is 1.5"):
        Drawing("puppets-u", "train", 4, variety=1.5)


def test_each_video_moves_in_its_own_way():
    "With the resting pose, actor, side and phase removed, performances still differ."
    ways = [puppets._way(np.random.default_rng(seed), False) for seed in range(20)]
    for part in ("cycle", "rhythm", "arm", "leg", "body"):
        assert len({way[part] for way in ways}) == 20
    even = puppets._phase(dict(cycle=10, start=0.0, rhythm=0.0), 40)
    skewed = puppets._phase(dict(cycle=10, start=0.0, rhythm=0.4), 40)
    assert np.allclose(even, np.arange(40) / 10)
    assert np.allclose(skewed[::10], even[::10]) and (np.diff(skewed) > 0).all()
    assert np.diff(skewed).max() > 1.8 * np.diff(skewed).min()


def test_drawn_splits_need_a_number():
    with pytest.raises(ValueError, match="'probe' has no files"):
        puppets.catalogue("puppets-u", "probe")
    with pytest.raises(ValueError, match="no puppet split 'dev-biased' of files"):
        puppets.index("puppets-u", "dev-biased")
    with pytest.raises(ValueError, match="videos is 0"):
        Drawing("puppets-u", "probe", 0)
