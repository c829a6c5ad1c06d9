"""The explorer without a browser: footage, pictures, Python that makes the same mask, faults in sentences."""

import datetime
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mvnb import clips, explore, masks, motion, pages, puppets, quality, video

ROOT = Path(__file__).resolve().parent.parent
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
    monkeypatch.setattr(explore, "KEPT", explore.KEPT if kept else 0)
    explore._read.cache_clear(), explore._reel.cache_clear()
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
    params.pop("queue", None)
    methods.build(recipe.method, backbone=recipe.backbone, **params, queue=8)


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
    with pytest.raises(ValueError, match="'odd' names the mix 'stir': choose one of merge, blend"):
        explore.look(replace(CHOICE, mask="odd"))


def test_the_picture_shows_the_mask():
    "Panel by panel, away from the outline: bright where the mask is, dark elsewhere."
    view = explore.look(CHOICE)
    image = explore.picture(view).astype(float)
    clip_row, _, mask_row, mix_row = explore._rows(True)[:4]
    for k, t in enumerate(np.linspace(0, 15, explore.SHOWN).round().astype(int)):
        x = explore.LEFT + k * (explore.PANEL + explore.GAP)
        panel = lambda y: image[y : y + explore.PANEL, x : x + explore.PANEL]
        free = (panel(mask_row) != explore.OUTLINE).any(-1)
        kept = view.mask.numpy() & free
        assert np.array_equal(panel(clip_row), view.clip[:, t].permute(1, 2, 0).numpy())
        assert np.array_equal(panel(mask_row)[kept], panel(clip_row)[kept])
        dark = ~view.mask.numpy() & free
        assert panel(mask_row)[dark].sum() < 0.25 * panel(clip_row)[dark].sum()
        assert np.array_equal(panel(mix_row)[view.mask.numpy()], panel(clip_row)[view.mask.numpy()])
    assert (image == explore.OUTLINE).all(-1).any()


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
    assert set(e.knobs) == {"lambda_", "alpha"} and e.mix_box.children == (e.knobs["alpha"],)
    assert "# no method trains with the mask 'moving'" in explore.snippet(view.choice)


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


def test_uploads(film):
    e = explore.Explorer(CHOICE)
    e.clip.kind.value = explore.UPLOAD
    assert "choose a video" in e.status.value
    send = lambda name, content: e.clip.upload.set_trait(
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
    send("../../mine.mp4", film.read_bytes())
    assert "ms · mine.mp4" in e.status.value and [p.name for p in Path(e.folder.name).iterdir()] == [
        "mine.mp4"
    ]
    assert torch.equal(e.view.clip, explore.shoot(explore.File(str(film)))[0])
    send("broken.mp4", b"no video")
    assert "broken.mp4: not a readable video" in e.status.value and e.folder.name not in e.status.value
    e.folder.cleanup()


def test_a_fault_in_a_mask_of_ones_own_is_a_sentence(monkeypatch):
    monkeypatch.delenv("MVNB_DEBUG", raising=False)

    def broken(clip, beta=0.5):
        return clip.nonsense

    monkeypatch.setitem(quality.OWN, "broken", quality.Mask("broken", broken))
    e = explore.Explorer(CHOICE)
    e.mask.value = "broken"
    assert "AttributeError" in e.status.value and "nonsense" in e.status.value


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
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3 and not any(
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
