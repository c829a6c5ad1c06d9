"""The explorer without a browser: footage, pictures, Python that makes the same mask, faults in sentences."""

import datetime
import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mvnb import clips, explore, flow, footage, masks, motion, pages, puppets, quality, video, views

ROOT = Path(__file__).resolve().parent.parent
GUIDED = "mgm"  # a mask that follows motion, and hides
CHOICE = explore.Choice(explore.Puppet("puppets-u", "kick", 2), knobs=(("beta", 0.3),))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "A wide video of 24 frames, shorter than a clip of stride 2."
    frames = puppets.render("puppets-k", "throw", seed=4, camera="pan", frames=24)[0]
    return video.write_video(
        tmp_path_factory.mktemp("film") / "it's a film.mp4",
        np.concatenate([frames, frames[:, :, ::-1]], 2),
        12.5,
    )


def run(code, **names):
    exec(code, names)
    return names


# ---------------------------------------------------------------- footage


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("start,stride,size", [(0, 1, 112), (5, 2, 64), (23, 3, 150)])
def test_a_file_gives_what_read_clip_gives(film, monkeypatch, kept, start, stride, size):
    monkeypatch.setattr(footage, "KEPT", footage.KEPT if kept else 0)
    footage._read.cache_clear(), footage._reel.cache_clear()
    rgb, truth = explore.shoot(explore.File(str(film)), start, stride, size)
    frames = [(start + stride * t) % 24 for t in range(16)]
    assert truth is None and torch.equal(
        rgb, video.read_clip(film, frames, (size, size), crop=clips.centre_box).rgb
    )


def test_a_puppet_is_its_rendering():
    p = explore.Puppet("puppets-d", puppets.CLASSES["puppets-d"][1], 7, "zoom")
    rgb, truth = explore.shoot(p, start=3, stride=2, size=96)
    frames, where = puppets.render(p.name, p.act, seed=7, camera="zoom")
    at = [(3 + 2 * t) % 40 for t in range(16)]
    assert torch.equal(rgb, torch.from_numpy(frames[at]).permute(3, 0, 1, 2)) and torch.equal(
        truth, torch.from_numpy(where[at])
    )
    larger = explore.shoot(p, size=192)[1]  # the truth is enlarged with the picture
    assert larger.shape == (16, 192, 192) and abs(quality.share(larger) - where[:32:2].mean()) < 0.01


def test_a_file_that_is_replaced_is_read_again(tmp_path):
    path, films = tmp_path / "x.mp4", [puppets.render("puppets-u", act, seed=1)[0] for act in ("run", "bow")]
    seen = []
    for k, f in enumerate(films):
        video.write_video(path, f, 12.5)
        os.utime(path, ns=(k + 1, k + 1))
        seen.append(explore.shoot(explore.File(str(path)))[0])
    assert not torch.equal(*seen)


def test_real_files(shared_data):
    for path in (
        sorted((shared_data / "clips").rglob("*.mp4"))[:3] + sorted((shared_data / "mini").rglob("*.avi"))[:1]
    ):
        if path.name == "corrupted.mp4":
            continue
        view = explore.look(explore.Choice(explore.File(str(path)), size=64))
        assert "iou" not in view.scores and abs(view.scores["share"] - 0.5) < 1e-3
        assert explore.picture(view).dtype == np.uint8
        made = run(explore.snippet(view.choice))
        assert torch.equal(made["mask"][0], view.mask) and torch.equal(made["mixed"][0], view.mixed)


# ---------------------------------------------------------------- views, pictures, recipes


def test_knobs_are_the_signatures():
    known = quality.all_masks()
    assert {name: known[name].make for name in masks.MASKS} == masks.MASKS  # every named mask is there
    for kind in known.values():
        knobs = explore.knobs_for(kind)
        assert knobs and (kind.recipe is None or set(kind.carried) <= set(knobs))
        for name, default in knobs.items():
            knob = explore.KNOBS[name]
            assert default in knob.choices or knob.low <= default <= knob.high, name


def turned(name, default):
    "A value of a knob away from its default: three steps above its lowest, or the default choice."
    knob = explore.KNOBS[name]
    return default if knob.choices else type(default)(knob.low + knob.step * 3)


def check_recipe(recipe, kind, values):
    "The recipe is that of the method, takes the knobs, and its method can be built."
    from mvnb import methods

    params = dict(recipe.params)
    carried = {k: values[k] for k in kind.carried} | kind.fixed
    assert recipe.method == kind.recipe and recipe.clips.size == 80 and recipe.clips.stride == 1
    assert {k: params[k] for k in carried} == carried
    if "queue" in params:
        params["queue"] = 8
    methods.build(recipe.method, backbone=recipe.backbone, **params)


@pytest.mark.parametrize("name", sorted(quality.all_masks()))
@pytest.mark.parametrize("background", ["inter", "intra"])
def test_the_recipe_makes_the_same(name, background, film):
    kind = quality.all_masks()[name]
    values = {knob: turned(knob, default) for knob, default in explore.knobs_for(kind).items()}
    where = dict(start=3, stride=1, size=80, background=background, other_start=9)
    for footage in (CHOICE.footage, explore.File(str(film))):
        view = explore.look(explore.Choice(footage, name, tuple(values.items()), **where))
        made = run(explore.snippet(view.choice))
        assert torch.equal(made["mask"][0], view.mask) and torch.equal(made["mixed"][0], view.mixed)
        if kind.recipe:
            check_recipe(made["recipe"], kind, values)


def test_what_the_method_cannot_train_with_is_said():
    lines = explore.snippet(replace(CHOICE, mask="grid", knobs=(("cells", 7),))).splitlines()
    assert "cells=7" in next(line for line in lines if line.startswith("# not part"))
    assert "# not part" not in explore.snippet(replace(CHOICE, mask="grid", knobs=()))


def test_a_mask_of_another_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_masks.py").write_text(
        "def bright(clip, beta=0.5):\n    return clip.mean((1, 2)) > beta\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_masks

    monkeypatch.setitem(quality.OWN, "bright", quality.Mask("bright", my_masks.bright))
    view = explore.look(replace(CHOICE, mask="bright"))
    code = explore.snippet(view.choice)
    assert "from my_masks import bright\n" in code and "mask = bright(clip, beta=0.3)" in code
    assert torch.equal(run(code)["mask"][0], view.mask)


def test_a_file_of_a_data_set_is_pretrained_with_it(film, monkeypatch):
    choice = explore.Choice(explore.File(str(film)))
    assert "'puppets-u'" in explore.snippet(choice) and "belongs to no data set" in explore.snippet(choice)
    monkeypatch.setenv("MVNB_DATA_HMDB51", str(film.parent))
    assert "'hmdb51'" in explore.snippet(choice) and "belongs to no data set" not in explore.snippet(choice)


def test_names_that_are_unknown_are_answered_with_those_that_are_known(monkeypatch):
    with pytest.raises(ValueError, match="there is no mask 'faem': choose one of fame, "):
        explore.look(replace(CHOICE, mask="faem"))
    monkeypatch.setitem(quality.OWN, "odd", quality.Mask("odd", masks.gauss_mask, mix="stir"))
    with pytest.raises(ValueError, match="'odd' names the mix 'stir': choose one of merge, blend, hide"):
        explore.look(replace(CHOICE, mask="odd"))
    with pytest.raises(ValueError, match="no source of motion 'flow': choose one of vectors, tvl1"):
        explore.look(replace(CHOICE, mask=GUIDED, guidance="flow"))


def test_the_picture_shows_the_mask():
    "Panel by panel, away from the outline: bright where the mask is, dark elsewhere."
    view = explore.look(CHOICE)
    image = explore.picture(view).astype(float)
    clip_row, _, mask_row, mix_row = views._rows(4, True)[:4]
    for k, t in enumerate(np.linspace(0, 15, views.SHOWN).round().astype(int)):
        x = views.LEFT + k * (views.PANEL + views.GAP)
        panel = lambda y: image[y : y + views.PANEL, x : x + views.PANEL]
        free = (panel(mask_row) != views.OUTLINE).any(-1)
        kept = view.mask.numpy() & free
        assert np.array_equal(panel(clip_row), view.clip[:, t].permute(1, 2, 0).numpy())
        assert np.array_equal(panel(mask_row)[kept], panel(clip_row)[kept])
        dark = ~view.mask.numpy() & free
        assert panel(mask_row)[dark].sum() < 0.25 * panel(clip_row)[dark].sum()
        assert np.array_equal(panel(mix_row)[view.mask.numpy()], panel(clip_row)[view.mask.numpy()])
    assert (image == views.OUTLINE).all(-1).any()


def test_a_mask_of_ones_own_with_its_knobs_and_mix(monkeypatch):
    "One entry: a mask per frame and a mix that needs no background."

    def dim(clip, mask, background, alpha=0.5):
        return torch.where(mask[:, None], clip * alpha, clip)

    def moving(clip, lambda_=30):
        return motion.frame_difference(clip) * 255 > lambda_

    mix = explore.Mix(dim, "torch.where(mask[:, None], clip * alpha, clip)")
    monkeypatch.setitem(explore.MIXES, "dim", mix)
    monkeypatch.setitem(quality.OWN, "moving", quality.Mask("moving", moving, mix="dim"))
    assert explore.knobs_for(quality.OWN["moving"]) == {"lambda_": 30, "alpha": 0.5}
    view = explore.look(replace(CHOICE, mask="moving", knobs=(("alpha", 0.0), ("lambda_", 60))))
    assert view.mask.shape == (16, 112, 112) and view.background is None
    assert view.scores["chance"] < view.scores["iou"] <= view.scores["best"]
    assert not view.mixed.permute(1, 2, 3, 0)[view.mask].any() and explore.picture(view).ndim == 3
    e = explore.Explorer(replace(CHOICE, mask="moving", knobs=()))
    assert set(e.knobs) == {"lambda_", "alpha"} and e.background not in e.mix_box.children
    assert "# no method trains with the mask 'moving'" in explore.snippet(view.choice)


# ---------------------------------------------------------------- masks that follow motion


def film_of(path, frames, *options):
    return explore.File(str(video.write_video(path, frames, 12.5, *options)))


@pytest.mark.parametrize("start,stride,size", [(0, 1, 112), (5, 2, 64), (23, 3, 96)])
def test_the_motion_of_a_file_is_that_of_the_loader(film, start, stride, size):
    "Vectors are those of `read_clip`; flow is cut as `ClipDataset` cuts it."
    frames = [(start + stride * t) % 24 for t in range(16)]
    moved = explore.moving(explore.File(str(film)), start, stride, size)
    clip = video.read_clip(film, frames, (size, size), crop=clips.centre_box, motion=True)
    assert torch.equal(moved.field, clip.mv) and torch.equal(moved.known, clip.has_mv)
    flowing = explore.moving(explore.File(str(film)), start, stride, size, "dis")
    field, known = flow.video_motion(film, frames, "dis")
    box = clips.centre_box(*video.read_clip(film, [0]).rgb.shape[2:])
    field, known = video.crop_motion(field, known, box, (size, size))
    assert torch.equal(flowing.field, field) and torch.equal(flowing.known, known)
    assert moved.said == "motion vectors" and flowing.said == "optical flow (DIS)"


def test_the_motion_of_a_puppet_is_that_of_its_file(tmp_path):
    p = explore.Puppet("puppets-u", "run", 3, "pan")
    frames = puppets.render(p.name, p.act, seed=3, camera="pan")[0]
    at = [4 + 2 * t for t in range(16)]
    vectors = torch.from_numpy(puppets.vectors(p.name, frames))[at]
    same = explore.moving(p, 4, 2, 96)
    assert torch.equal(same.field, vectors[:, :2]) and torch.equal(same.known, vectors[:, 2] > 0)
    larger = explore.moving(p, 4, 2, 192)  # twice the pixels, twice the length
    assert larger.field.shape == (16, 2, 24, 24)
    torch.testing.assert_close(larger.field[:, :, ::2, ::2], 2 * same.field)
    flowing = explore.moving(p, 0, 1, 96, "dis")
    field, known = flow.frames_motion(frames[:16], "dis")
    torch.testing.assert_close(flowing.field, field)
    assert torch.equal(flowing.known, known) and not known[0].any()


@pytest.mark.parametrize("name", puppets.NAMES)
def test_every_puppet_set_can_guide_a_mask(name):
    for camera in ("still", "shake"):
        choice = explore.Choice(
            explore.Puppet(name, puppets.CLASSES[name][0], 1, camera), mask=GUIDED, size=96
        )
        view = explore.look(choice)
        assert view.said == "motion vectors" and view.motion.shape == (16, 96, 96) and view.motion.max() > 0
        assert view.mask.float().mean().item() == pytest.approx(0.75, abs=0.002)
        assert explore.picture(view).dtype == np.uint8


def test_what_is_bright_in_the_mask_is_dark_in_what_is_visible():
    view = explore.look(explore.Choice(CHOICE.footage, GUIDED))
    image = explore.picture(view).astype(float)
    clip_row, _, mask_row, seen_row = views._rows(4, True)[:4]
    for k, t in enumerate(np.linspace(0, 15, views.SHOWN).round().astype(int)):
        x = views.LEFT + k * (views.PANEL + views.GAP)
        panel = lambda y: image[y : y + views.PANEL, x : x + views.PANEL]
        hidden = view.mask[t].numpy()
        assert not panel(seen_row)[hidden].any()
        assert np.array_equal(panel(seen_row)[~hidden], panel(clip_row)[~hidden])
        free = hidden & (panel(mask_row) != views.OUTLINE).any(-1)
        assert np.array_equal(panel(mask_row)[free], panel(clip_row)[free])
    names = views._names(view, None)
    assert "hidden" in names[2] and names[3] == "what is\nvisible" and "pixels per frame" in views._unit(view)
    assert "mix" in views._names(explore.look(CHOICE), None)


def test_the_mask_follows_the_motion_that_is_shown():
    "The hidden rectangle covers the block that moves most, in every tubelet in which something moves."
    choice = explore.Choice(explore.Puppet("puppets-s", "go_right", 4), GUIDED, (("ratio", 0.3),), size=96)
    for guidance in ("vectors", "dis"):
        view = explore.look(replace(choice, guidance=guidance))
        most = view.motion.unflatten(0, (8, 2)).amax(1).flatten(1)
        places = most.argmax(1)
        covered = view.mask[::2].flatten(1).gather(1, places[:, None])[:, 0]
        assert covered[most.amax(1) > 0].all(), guidance


def test_a_file_without_vectors_is_guided_by_flow_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    frames = puppets.render("puppets-u", "jumping_jack", seed=2)[0]
    vp9 = film_of(tmp_path / "vp9.webm", frames, "libvpx-vp9")
    intra = film_of(tmp_path / "intra.mp4", frames, "libx264", {"g": 1})
    still = film_of(tmp_path / "still.mp4", frames[:1].repeat(40, 0))
    e = explore.Explorer(explore.Choice(CHOICE.footage, GUIDED))
    pictures = [bytes(e.image.value)]
    for footage, said in (
        (vp9, "follows optical flow (DIS) instead of the motion vectors of vp9.webm: the vp9 decoder"),
        (intra, "instead of the motion vectors of intra.mp4: every frame is a key frame"),
        (still, "follows motion vectors; nothing moves in these frames, so the mask lies where chance"),
    ):
        e.clip.path.value, e.clip.kind.value = footage.path, explore.FILE
        assert said in e.status.value and "b00020" not in e.status.value
        assert e.view.choice.footage == footage
        pictures.append(bytes(e.image.value))
    assert len(set(pictures)) == 4  # never an old one
    assert torch.equal(explore.moving(vp9).field, explore.moving(vp9, source="dis").field)
    assert e.view.mask.float().mean().item() == pytest.approx(0.75, abs=0.002)
    assert not e.view.motion.any()


def test_the_source_of_motion_is_a_control_of_guided_masks_alone(monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", "/nowhere/raft.pth")
    e = explore.Explorer(CHOICE)
    assert e.guidance not in e.guide_box.children
    e.mask.value = GUIDED
    assert e.guide_box.children == (e.guidance,) and e.background not in e.mix_box.children
    for control, value in (
        (e.guidance, "dis"),
        (e.knobs["seed"], 5),
        (e.knobs["token"], 8),
        (e.knobs["ratio"], 0.5),
    ):
        before = bytes(e.image.value)
        control.value = value
        assert bytes(e.image.value) != before and "ms ·" in e.status.value, control.description
    assert "follows optical flow (DIS)" in e.status.value
    e._write()
    assert "guidance='dis'" in e.text.value and "source='dis'" in e.text.value
    assert "takes no such parameter: token=8, seed=5" in e.text.value
    e.guidance.value = "raft"
    assert "no such file of weights" in e.status.value and "b00020" in e.status.value
    e.mask.value = "tube"
    assert e.guidance not in e.guide_box.children and "ms ·" in e.status.value


def test_a_hiding_mask_is_told_apart_in_the_scores():
    kept, hidden = (explore.look(explore.Choice(CHOICE.footage, mask)) for mask in ("fame", GUIDED))
    text = explore.score_table(hidden.scores, hides=True)
    assert "share of the actor that is hidden" in text and "share of the frame that is hidden" in text
    assert "share of the actor that is kept" in explore.score_table(kept.scores)
    truth = hidden.truth
    inside = (hidden.mask & truth).sum().item() / truth.sum().item()
    assert hidden.scores["actor"] == pytest.approx(inside, abs=1e-6)
    assert f"{100 * inside:.0f} %" in text
    for kind in quality.all_masks().values():
        assert kind.hides == kind.label.endswith("(hides)")


def test_a_guided_mask_of_ones_own(monkeypatch):
    seen = []

    def fast(clip, motion=None, threshold=0.3):
        seen.append(motion)
        return (motion[0].square().sum(2) > threshold).repeat_interleave(8, 2).repeat_interleave(8, 3)

    monkeypatch.setitem(quality.OWN, "fast", quality.Mask("fast", fast, mix="blend"))
    view = explore.look(replace(CHOICE, mask="fast", knobs=()))
    field, known = seen[0]
    moved = explore.moving(CHOICE.footage)
    assert torch.equal(field[0], moved.field) and torch.equal(known[0], moved.known)
    assert view.mask.shape == (16, 112, 112) and view.said == "motion vectors"


def test_real_files_guide_masks(shared_data):
    for name in ("ucf101", "kinetics400", "something-something-v2"):
        for path in sorted((shared_data / "clips" / name).iterdir())[:2]:
            view = explore.look(explore.Choice(explore.File(str(path)), GUIDED, size=64))
            made = run(explore.snippet(view.choice))
            assert torch.equal(made["mask"][0], view.mask) and view.motion.max() > 0
            bare = video.without_vectors(path)  # Something-Something's files are coded as VP9
            assert bool(bare) == (name == "something-something-v2")
            assert view.said == (
                f"optical flow (DIS) instead of the motion vectors of {path.name}: {bare}"
                if bare
                else "motion vectors"
            )


# ---------------------------------------------------------------- the widgets


def test_every_control_changes_the_picture():
    e = explore.Explorer(CHOICE)
    for control, value in (
        (e.knobs["beta"], 0.6),
        (e.knobs["hue"], "angle"),
        (e.start, 4),
        (e.stride, 1),
        (e.size, 64),
        (e.clip.number, 9),
        (e.clip.camera, "shake"),
        (e.clip.act, "bow"),
        (e.other.number, 8),
        (e.background, "intra"),
        (e.other_start, 11),
        (e.mask, "gauss"),
        (e.clip.kind, "puppets-d"),
    ):
        before = bytes(e.image.value)
        control.value = value
        assert bytes(e.image.value) != before and "ms ·" in e.status.value, control.description
    assert e.choice.footage.act in puppets.CLASSES["puppets-d"] and e.view.choice == e.choice
    assert e.knobs["beta"].value == 0.6  # kept over the change of mask


def test_knobs_come_back_and_a_shown_recipe_follows():
    e = explore.Explorer(CHOICE)
    assert e.text.layout.display == "none"
    e.button.click()
    assert e.text.layout.display == "" and "beta=0.3" in e.text.value
    e.mask.value = "mac"
    assert "mac_mask" in e.text.value and "'mac'" in e.text.value
    e.mask.value = "fame"
    assert e.knobs["beta"].value == 0.3 and "fame_mask(clip, beta=0.3" in e.text.value


def test_the_first_frame_stays_inside(film):
    e = explore.Explorer(CHOICE)
    e.start.value = 9
    e.stride.value = 1
    e.start.value = 24
    e.stride.value = 2  # 16 frames of stride 2 need 31
    assert e.start.max == 9 == e.start.value
    e.clip.path.value, e.clip.kind.value = str(film), explore.FILE
    assert e.start.max == 0 and e.view.choice.footage == explore.File(str(film)) and "ms ·" in e.status.value


def test_faults_are_sentences(film, tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    e = explore.Explorer(CHOICE)
    picture = bytes(e.image.value)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video <b>at all</b>")
    cut = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(cut[: len(cut) // 3])
    e.clip.kind.value = explore.FILE
    assert "type the path" in e.status.value
    for path, said in (
        (tmp_path / "empty.mp4", "the file is empty"),
        (tmp_path / "text.mp4", "text.mp4: "),
        (tmp_path / "cut.mp4", "cut.mp4: "),
        (tmp_path, "is a folder"),
        ("no\0where", ""),
    ):
        e.clip.path.value = str(path)
        assert (
            said in e.status.value
            and "b00020" in e.status.value
            and "Traceback" not in e.status.value
            and bytes(e.image.value) == picture
        )
        e._write()
        assert e.text.value.startswith("# ") and "\n" not in e.text.value
    e.clip.kind.value = "puppets-u"
    assert "ms ·" in e.status.value and bytes(e.image.value) == picture
    assert e.choice.footage == CHOICE.footage


def upload(picker, name, content):
    "What the browser does after a file is chosen."
    picker.upload.set_trait(
        "value",
        (
            {
                "name": name,
                "type": "video/mp4",
                "size": len(content),
                "content": memoryview(content),
                "last_modified": datetime.datetime.now(),
            },
        ),
    )


def test_uploads_are_kept_where_a_recipe_finds_them(film, tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path))
    kept = tmp_path / "mine" / "uploads"
    e = explore.Explorer(CHOICE)
    e.clip.kind.value = explore.UPLOAD
    assert "choose a video" in e.status.value
    content = film.read_bytes()
    for _ in range(2):  # the same again is no second file
        upload(e.clip, "../../mine.mp4", content)
        assert "ms · mine.mp4" in e.status.value and [p.name for p in kept.iterdir()] == ["mine.mp4"]
    assert torch.equal(e.view.clip, explore.shoot(explore.File(str(film)))[0])
    assert str(kept / "mine.mp4") in e.recipe and str(kept / "mine.mp4") in e.clip.note.value
    assert torch.equal(run(e.recipe)["mask"][0], e.view.mask)
    upload(e.clip, "mine.mp4", content + b"another")
    assert sorted(p.name for p in kept.iterdir()) == ["mine-2.mp4", "mine.mp4"]
    assert (kept / "mine.mp4").read_bytes() == content
    upload(e.clip, "broken.mp4", b"no video")
    assert "broken.mp4: not a readable video" in e.status.value and str(kept) not in e.status.value


def test_an_upload_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    (tmp_path / "mine").write_text("a file where a folder should be")
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path))
    e = explore.Explorer(CHOICE)
    e.clip.kind.value = explore.UPLOAD
    upload(e.clip, "mine.mp4", b"1234")
    assert "uploads" in e.failed and "Traceback" not in e.status.value and not e.clip.note.value


def test_a_fault_in_a_mask_of_ones_own_is_a_sentence(monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)

    def broken(clip, beta=0.5):
        return clip.nonsense

    monkeypatch.setitem(quality.OWN, "broken", quality.Mask("broken", broken))
    e = explore.Explorer(CHOICE)
    e.mask.value = "broken"
    assert "AttributeError" in e.status.value and "nonsense" in e.status.value


# ---------------------------------------------------------------- films, two masks, exports


def tiles(picture, row=0):
    "The four large pictures of a row of a film."
    y = row * (views.HEAD + views.SIDE + views.FOOT) + views.HEAD
    step = views.SIDE + views.SPACE
    return [picture[y : y + views.SIDE, k * step : k * step + views.SIDE] for k in range(4)]


def large(e):
    "The frame of the large picture that is shown."
    return bytes(e.frames[e.time.value].value)


def enlarged(picture):  # [3,112,112] or [112,112] -> twice the size, on the last two axes
    return picture.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_the_film_runs_in_step():
    "At every time the large pictures are those of that frame."
    view = explore.look(CHOICE)
    film = explore.Film(view)
    assert len(film) == 16
    for t in (0, 7, 15):
        clip, _, mask, mix = tiles(film.picture(t))
        assert np.array_equal(clip, enlarged(view.clip[:, t]).permute(1, 2, 0).numpy())
        mixed = (view.mixed[:, t] * 255).round().to(torch.uint8)
        assert np.array_equal(mix, enlarged(mixed).permute(1, 2, 0).numpy())
        free = (mask != views.OUTLINE).any(-1)
        kept = enlarged(view.mask).numpy() & free
        assert (
            np.array_equal(mask[kept], clip[kept])
            and mask[~kept & free].sum() < 0.3 * clip[~kept & free].sum()
        )


def test_two_masks_and_their_difference():
    "Colours and numbers of the difference, against masks compared pixel by pixel."
    one, other = explore.look(CHOICE), explore.look(replace(CHOICE, mask="mac", knobs=()))
    t = 5
    a, b = one.mask.numpy(), other.mask[t].numpy()
    assert (a & b).any() and (a & ~b).any() and (b & ~a).any()
    difference, _, mask_b, _ = tiles(explore.Film(one, other).picture(t), row=1)
    free = (difference != views.OUTLINE).any(-1)[::2, ::2]
    shown = difference[::2, ::2].astype(int)
    assert (shown[a & ~b & free][:, 0] > shown[a & ~b & free][:, 2] + 90).all()  # orange
    assert (shown[b & ~a & free][:, 2] > shown[b & ~a & free][:, 0] + 90).all()  # blue
    neither_or_both = shown[~(a ^ b) & free]
    assert (neither_or_both.max(1) == neither_or_both.min(1)).all()  # gray
    counts = {"both": 0, "only A": 0, "only B": 0}
    for x, y in zip(np.broadcast_to(a, (16, 112, 112)).flat, other.mask.numpy().flat):
        if x or y:
            counts["both" if x and y else "only A" if x else "only B"] += 1
    found = views.agreement(one, other)
    assert all(
        found[name] == pytest.approx(count / (16 * 112 * 112), abs=1e-6) for name, count in counts.items()
    )
    assert found["iou"] == pytest.approx(counts["both"] / sum(counts.values()), abs=1e-6)
    strip = explore.picture(one, other)
    tops = views._rows(7, True)
    assert strip.shape[0] > tops[-1] > explore.picture(one).shape[0]


@pytest.mark.parametrize("zoom,x,y", [(2, 0, 0), (2, 1, 1), (3.5, 0.25, 0.8), (6, 0.5, 0.5)])
def test_the_window_shows_a_part_of_all_pictures(zoom, x, y):
    view = explore.look(CHOICE)
    clip, _, _, mix = tiles(explore.Film(view, window=explore.Window(zoom, x, y)).picture(4))
    side = round(112 / zoom)
    top, left = round(y * (112 - side)), round(x * (112 - side))
    wanted = view.clip[:, 4, top : top + side, left : left + side].permute(1, 2, 0).numpy()
    assert set(map(tuple, clip.reshape(-1, 3))) == set(map(tuple, wanted.reshape(-1, 3)))
    assert np.array_equal(clip[0, 0], wanted[0, 0]) and np.array_equal(clip[-1, -1], wanted[-1, -1])


def test_the_mix_that_crops():
    clip = torch.rand(2, 3, 4, 20, 30)
    mask = torch.zeros(2, 20, 30, dtype=torch.bool)
    mask[0, 5:15, 3], mask[0, 7, 3:18] = True, True
    cut = explore.cropped(clip, mask)
    wanted = torch.nn.functional.interpolate(
        clip[:1, :, 0, 5:15, 3:18], (20, 30), mode="bilinear", antialias=True
    )
    assert torch.allclose(cut[:1, :, 0], wanted) and torch.equal(cut[1], clip[1])  # empty: the whole clip
    assert torch.equal(explore.cropped(clip, mask[:, None].expand(-1, 4, -1, -1)), cut)


def test_what_a_mask_declares_for_each_frame_moves(monkeypatch):
    "A film and a curve among the stages: in the large picture at their time, in the strip at the middle."

    def stages(clip, beta=0.5, cells=4):
        ramp = torch.arange(16.0)[None, None, :, None, None].expand(1, 1, 16, 112, 112)
        return {"ramp": ramp, "colours": clip, "curve": torch.arange(16.0)[None], "map": clip[:, 0, 0]}

    kind = quality.Mask("declared", masks.grid_mask, stages=stages)
    monkeypatch.setitem(quality.OWN, "declared", kind)
    view = explore.look(replace(CHOICE, mask="declared", knobs=()))
    film = explore.Film(view)
    first, last = (tiles(film.picture(t), row=1) for t in (0, 15))
    assert first[0].max() < 10 and last[0].min() > 150  # one scale over all times
    assert np.array_equal(first[1], tiles(film.picture(0))[0])
    marks = [(picture == (220, 60, 30)).all(-1) for picture in (first[2], last[2])]
    places = [np.argwhere(mark).mean(0) for mark in marks]
    assert (
        places[0][0] > 150 > places[1][0] and places[0][1] < 50 < places[1][1]
    )  # from low left to high right
    assert (first[3] == 255).all()  # the map is no film
    assert explore.picture(view).ndim == 3


@pytest.mark.parametrize("second", [None, "mac"])
def test_exports_open_and_show_what_is_shown(tmp_path, second):
    one = explore.look(CHOICE)
    film = explore.Film(one, second and explore.look(replace(CHOICE, mask=second, knobs=())))
    paths = {kind: explore.export(film, kind, 3, tmp_path) for kind in views.EXPORTS}
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())  # and nothing else
    assert all(
        p.name.startswith("puppets-u_kick_2_still_frames_0+16x2_fame_beta=0.3_") for p in paths.values()
    )
    frames = np.stack([film.picture(t) for t in range(16)])
    with Image.open(paths["png"]) as png:
        pixels = np.asarray(png)
    left = (pixels.shape[1] - frames.shape[2]) // 2
    assert np.array_equal(pixels[: frames.shape[1], left : left + frames.shape[2]], frames[3])
    assert np.array_equal(pixels[frames.shape[1] :], explore.picture(one, film.other))
    with Image.open(paths["gif"]) as gif:
        assert gif.n_frames == 16 and gif.info["loop"] == 0
        for t in range(16):
            gif.seek(t)
            assert gif.info["duration"] == pytest.approx(125, abs=5)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frames[t]).mean() < 8
    with av.open(str(paths["mp4"])) as mp4:
        stream = mp4.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == (
            "h264",
            "yuv420p",
            8,
        )
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in mp4.decode(stream)])
    assert decoded.shape == frames.shape
    off = [[np.abs(a.astype(int) - b).mean() for b in frames] for a in decoded]
    assert [int(np.argmin(row)) for row in off] == list(range(16)) and np.diag(off).max() < 5


def test_names_of_exports_are_plain_and_tell_choices_apart(tmp_path):
    odd = tmp_path / "it's" / ("é ü:" * 25 + ".mp4")
    odd.parent.mkdir()
    video.write_video(odd, puppets.render("puppets-u", "wave", seed=1)[0])
    choices = [replace(CHOICE, footage=explore.File(str(odd)))]
    choices += [
        replace(choices[0], **change)
        for change in (dict(start=1), dict(mask="mac", knobs=()), dict(other_start=3))
    ]
    names = [views.name_of(explore.Film(explore.look(choice))) for choice in choices]
    names.append(views.name_of(explore.Film(explore.look(choices[0]), window=explore.Window(2))))
    assert len(set(names)) == 5 and all(re.fullmatch(r"[\w.=+-]{1,160}", name, re.ASCII) for name in names)


def test_the_buttons_save_and_say_where(tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path))
    e = explore.Explorer(CHOICE)
    e.second.mask.value = "mac"
    for kind, button in e.savers.items():
        button.click()
        (path,) = (tmp_path / "mine" / "explore").glob(f"*.{kind}")
        assert str(path) in html.unescape(e.saved.value) and "_against_mac" in path.name
    made = run(path.read_text())
    assert torch.equal(made["mask_a"][0], e.view.mask) and torch.equal(made["mask"][0], e.second_view.mask)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "file"))
    for button in e.savers.values():
        button.click()
        assert "b00020" in e.saved.value and "Traceback" not in e.saved.value


def test_playing_and_scrubbing_draw_what_is_shown_and_what_follows(monkeypatch):
    e = explore.Explorer(CHOICE)
    assert large(e) == e.film.jpeg(0) and list(e.film.kept) == [0]
    e.time.value = 9
    assert large(e) == e.film.jpeg(9) and list(e.film.kept) == [0, 9, 10, 11, 12]
    e.knobs["beta"].value = 0.6  # the time stays
    assert list(e.film.kept) == [9] and e.film.view.choice == e.choice
    there = [t for t, frame in enumerate(e.frames) if frame.layout.display != "none"]
    assert there == [9]  # none of an earlier choice
    e.time.value = 14
    assert list(e.film.kept) == [9, 14, 15, 0, 1]
    assert all(bytes(e.frames[t].value) == e.film.jpeg(t) for t in e.film.kept)
    strip = bytes(e.image.value)
    e.zoom.value = 3
    assert e.across.layout.display == "" and e.film.window.zoom == 3 and bytes(e.image.value) == strip
    before = large(e)
    e.down.value = 1
    assert large(e) != before


def test_after_a_failure_nothing_old_is_at_full_strength(tmp_path, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path))
    e = explore.Explorer(CHOICE)
    dimmed = lambda: ["mvnb-stale" in part._dom_classes for part in (e.large, e.image, e.table)]
    assert not any(dimmed())
    e.player.playing = True
    e.clip.kind.value, e.clip.path.value = explore.FILE, "/no/such/film.mp4"
    assert all(dimmed()) and not e.player.playing and e.player.disabled and e.time.disabled
    assert "film.mp4: no such file" in e.status.value and 'role="alert"' in e.status.value
    for button in e.savers.values():
        assert button.disabled
        button.click()
        assert "nothing is shown" in e.saved.value
    assert not list(tmp_path.rglob("*.*"))
    e.clip.kind.value = "puppets-u"
    assert not any(dimmed()) and not e.player.disabled and 'role="status"' in e.status.value
    never = explore.Explorer(replace(CHOICE, footage=explore.File("/no/such/film.mp4")))
    assert never.view is None and never.large.layout.visibility == "hidden" and "no such file" in never.failed


def test_reset_restores_the_first_choice():
    e = explore.Explorer(replace(CHOICE, start=3))
    begun, pictures = e.choice, (large(e), bytes(e.image.value))
    e.mask.value, e.second.mask.value = "mac", "gauss"
    e.clip.random.click()
    e.zoom.value, e.time.value, e.stride.value, e.start.value = 4, 7, 1, 0
    e.clip.kind.value = explore.UPLOAD
    assert e.failed
    e.reset.click()
    assert e.choice == begun and (large(e), bytes(e.image.value)) == pictures
    assert e.second_view is None and e.film.window == explore.Window() and not e.failed


# ---------------------------------------------------------------- data sets and folders


@pytest.fixture
def ucf(tmp_path, monkeypatch):
    "A folder as UCF101's, with the first list, which holds three of its four videos."
    root, lists = tmp_path / "videos", tmp_path / "lists"
    for group in ("Archery", "Surfing"):
        (root / group).mkdir(parents=True)
        for k in (1, 2):
            name = f"v_{group}_g0{k}_c01.avi"
            video.write_video(root / group / name, puppets.render("puppets-u", "wave", seed=k)[0])
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Surfing\n")
    train = "Archery/v_Archery_g01_c01.avi 1\nSurfing/v_Surfing_g01_c01.avi 2\n"
    (lists / "trainlist01.txt").write_text(train)
    (lists / "testlist01.txt").write_text("Surfing/v_Surfing_g02_c01.avi\n")
    monkeypatch.setenv("MVNB_DATA_UCF101", str(root))
    monkeypatch.delenv("MVNB_DATA_UCF101_ANNOTATIONS", raising=False)
    footage._listed.cache_clear()
    return root, lists


def test_a_data_set_is_listed_by_its_lists_or_by_its_folders(ucf, monkeypatch):
    root, lists = ucf
    assert footage.shelves()["ucf101"] == root
    by_folder = footage.catalogue("ucf101")[1]
    assert [len(paths) for paths in by_folder.values()] == [2, 2] and list(by_folder) == [
        "Archery",
        "Surfing",
    ]
    footage._listed.cache_clear()
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(lists))
    by_list = footage.catalogue("ucf101")[1]
    assert by_list["Archery"] == ["Archery/v_Archery_g01_c01.avi"] and len(by_list["Surfing"]) == 2
    with pytest.raises(ValueError, match="no such folder"):
        footage.catalogue(str(root / "nowhere"))
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="no video in there"):
        footage.catalogue(str(root / "empty"))


def test_the_browser_of_data_sets(ucf, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    root, _ = ucf
    e = explore.Explorer(CHOICE)
    e.clip.kind.value = "ucf101"
    shown = lambda: Path(e.view.choice.footage.path).relative_to(root).as_posix()
    assert shown() == "Archery/v_Archery_g01_c01.avi" and e.clip.group.options == ("Archery", "Surfing")
    seen = [shown()]
    for _ in range(4):
        e.clip.next.click()
        seen.append(shown())
    assert sorted(set(seen)) == sorted(seen[:4]) and seen[4] == seen[0]  # each once, then the first again
    e.clip.group.value = "Surfing"
    assert shown() == "Surfing/v_Surfing_g01_c01.avi"
    e.clip.file.value = "Surfing/v_Surfing_g02_c01.avi"
    assert shown() == e.clip.file.value and str(root / shown()) in e.recipe
    drawn = set()
    for _ in range(40):
        e.clip.random.click()
        drawn.add(shown())
    assert len(drawn) == 4 and not e.failed
    assert "'ucf101'" in e.recipe  # pretrained with the data set that it is from


def test_any_folder_can_be_browsed(ucf, monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)
    root, _ = ucf
    e = explore.Explorer(CHOICE)
    e.clip.kind.value = explore.FOLDER
    assert "type the path of a folder" in e.failed
    e.clip.path.value = str(root / "nowhere")
    assert "no such folder" in e.failed
    e.clip.path.value = str(root)
    assert not e.failed and e.clip.group.options == ("Archery", "Surfing")
    e.clip.kind.value, e.clip.path.value = explore.FILE, str(root / "Surfing" / "v_Surfing_g01_c01.avi")
    e.clip.next.click()
    assert e.view.choice.footage.path.endswith("v_Surfing_g02_c01.avi")
    e.clip.next.click()
    assert e.view.choice.footage.path.endswith("v_Surfing_g01_c01.avi")


def test_a_class_of_many_files_offers_those_around_the_one_that_is_shown(monkeypatch):
    monkeypatch.setattr(explore, "MOST", 10)
    picker = explore.Picker(CHOICE.footage, lambda: None)
    picker.files = {"all": [f"{k:03}.mp4" for k in range(100)]}
    picker.group.options, picker.group.value = ["all"], "all"
    picker._offer_files("050.mp4")
    assert picker.file.value == "050.mp4" and len(picker.file.options) == 10


# ---------------------------------------------------------------- the pages


@pytest.mark.parametrize(
    "values,said",
    [
        (dict(profile="smok"), "did you mean 'smoke'"),
        (dict(profile="paper"), "use one of smoke, demo"),
        (dict(seed=-1), "seed is -1"),
        (dict(seed="0"), "seed is '0'"),
        (dict(seed=True), "seed is True"),
    ],
)
def test_parameters_that_cannot_be(values, said):
    with pytest.raises(pages.ParameterError, match=said):
        explore.quality_parameters(**values)


def papermill(notebook, out, *words):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(out),
        "-k",
        "python3",
        "--no-progress-bar",
        *words,
    ]
    return subprocess.run(command, cwd=out.parent, capture_output=True, text=True, timeout=240)


def outputs_of(path):
    return [o for c in json.loads(Path(path).read_text())["cells"] for o in c.get("outputs", [])]


def test_the_quality_page_runs_and_refuses(tmp_path):
    page = ROOT / "nbs" / "explore" / "mask_quality.ipynb"
    done = papermill(page, tmp_path / "out.ipynb", "-p", "profile", "smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = outputs_of(tmp_path / "out.ipynb")
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 4 and not any(
        "widget" in k for o in outputs for k in o.get("data", {})
    )
    done = papermill(page, tmp_path / "bad.ipynb", "-p", "profile", "smoke", "-p", "sed", "2")
    assert done.returncode and "unknown parameter 'sed'; did you mean 'seed'" in done.stderr


def test_settings_are_tried_on_worlds_that_no_page_reports(tmp_path):
    page = ROOT / "nbs" / "explore" / "demo_settings.ipynb"
    done = papermill(page, tmp_path / "bad.ipynb", "-p", "profile", "smoke", "-p", "seeds", "99,100")
    assert done.returncode and "pages report the worlds below 100" in done.stderr
    done = papermill(page, tmp_path / "out.ipynb", "-p", "profile", "smoke", "-p", "seeds", "100,")
    assert done.returncode == 0, done.stderr[-3000:]
    text = json.dumps(outputs_of(tmp_path / "out.ipynb"))
    assert "supervised" in text and "fine-tuned, unbiased" in text
    assert '"{}"' in text  # no run failed


def test_the_explorer_run_by_a_program_leaves_a_picture(tmp_path):
    done = papermill(ROOT / "nbs" / "explore" / "masks.ipynb", tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = [k for o in outputs_of(tmp_path / "out.ipynb") for k in o.get("data", {})]
    assert "image/jpeg" in kinds and "text/html" in kinds and not any("widget" in k for k in kinds)


@pytest.mark.parametrize(
    "name", ["use/40_explore.ipynb", "explore/masks.ipynb", "explore/mask_quality.ipynb"]
)
def test_stored_pages_show_something_and_no_widgets(name):
    book = json.loads((ROOT / "nbs" / name).read_text())
    kinds = [k for o in outputs_of(ROOT / "nbs" / name) for k in o.get("data", {})]
    assert (
        {"image/jpeg", "image/png"} & set(kinds)
        and not any("widget" in k for k in kinds)
        and "widgets" not in book["metadata"]
    )
