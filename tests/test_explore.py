"""The explorer without a browser: sources, scores against loops, pictures, recipes that keep their word, faults in sentences; the pages run headless."""

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
from hypothesis import given, settings, strategies as st

from mvnb import clips, explore, masks, motion, puppets, tables, video

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


# ---------------------------------------------------------------- sources


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
    assert larger.shape == (16, 192, 192) and abs(explore.share(larger) - where[:32:2].mean()) < 0.01


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


# ---------------------------------------------------------------- scores, against loops


def slow_chance(mask, truth):
    "Expected over all ways to lay a mask of that area: mean over draws of the intersection, union of means."
    T, (h, w) = len(truth), truth.shape[1:]
    both = sizes = 0
    for t in range(T):
        n, k = (mask if mask.ndim == 2 else mask[t]).sum().item(), truth[t].sum().item()
        both, sizes = both + n * k / (h * w), sizes + n + k
    return both / (sizes - both) if sizes - both > 0 else 1.0


def slow_best(mask, truth):
    "Greedy by hand: take the pixels that are true most often."
    T = len(truth)
    if mask.ndim == 3:
        both, n = sum(min(mask[t].sum().item(), truth[t].sum().item()) for t in range(T)), mask.sum().item()
    else:
        often = sorted(
            (
                sum(int(truth[t, y, x]) for t in range(T))
                for y in range(truth.shape[1])
                for x in range(truth.shape[2])
            ),
            reverse=True,
        )
        both, n = sum(often[: mask.sum().item()]), T * mask.sum().item()
    either = n + truth.sum().item() - both
    return both / either if either else 1.0


@given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_chance_and_best_against_loops(seed, T, every_frame):
    g = torch.Generator().manual_seed(seed)
    level = torch.rand(2, generator=g)
    truth = torch.rand(2, T, 4, 5, generator=g) < level[0]
    mask = torch.rand(2, *([T] if every_frame else []), 4, 5, generator=g) < level[1]
    chance, best, got = explore.chance_iou(mask, truth), explore.best_iou(mask, truth), masks.iou(mask, truth)
    for b in range(2):
        assert chance[b].item() == pytest.approx(slow_chance(mask[b], truth[b]), abs=1e-6)
        assert best[b].item() == pytest.approx(slow_best(mask[b], truth[b]), abs=1e-6)
    assert (got <= best + 1e-6).all() and (chance <= best + 1e-6).all()


def test_chance_is_what_random_masks_reach():
    _, truth = explore.shoot(explore.Puppet(number=5))
    g = torch.Generator().manual_seed(0)
    draws = [
        masks.iou(masks.keep_top(torch.rand(1, 112, 112, generator=g), 0.3), truth[None]).item()
        for _ in range(30)
    ]
    mask = masks.gauss_mask(torch.zeros(1, 3, 16, 112, 112), 0.3)
    assert explore.chance_iou(mask, truth[None]).item() == pytest.approx(
        np.mean(draws), abs=4 * np.std(draws) / 30**0.5 + 1e-4
    )


def test_the_best_can_be_reached():
    "The pixels that are the actor's most often, as a mask, have the IoU that is called best."
    _, truth = explore.shoot(explore.Puppet(act="jumping_jack", number=5))
    for beta in (0.1, 0.3, 0.6):
        mask = masks.keep_top(truth.float().mean(0)[None], beta)
        assert masks.iou(mask, truth[None]).item() == pytest.approx(
            explore.best_iou(mask, truth[None]).item(), abs=1e-6
        )
    assert (
        explore.best_iou(truth[None], truth[None]).item() == 1
        and explore.best_iou(truth[None, :1], truth[None, :1]).item() == 1
    )


def test_the_most_moving_patch_by_a_loop():
    clip, truth = explore.films("puppets-u", "shake", 2)
    table, diff = explore.motion_knows(clip, truth), motion.frame_difference(clip)
    for b in range(2):
        hits = 0
        for t in range(16):
            patches = {
                (y, x): diff[b, t, y : y + 8, x : x + 8].mean().item()
                for y in range(0, 96, 8)
                for x in range(0, 96, 8)
            }
            y, x = max(patches, key=patches.get)
            a, c = (t, t + 1) if t < 15 else (14, 15)  # the last map repeats the one before
            hits += bool((truth[b, a] | truth[b, c])[y : y + 8, x : x + 8].any())
        assert table["peak"][b] == pytest.approx(hits / 16)


# ---------------------------------------------------------------- views, pictures, recipes


def test_knobs_are_the_signatures():
    assert {
        n: explore.METHODS[n].mask for n in masks.MASKS
    } == masks.MASKS  # every mask that has a name is in the explorer
    for method in explore.METHODS.values():
        assert method.knobs and (method.recipe is None or set(method.carried) <= set(method.knobs))
        for name, default in method.knobs.items():
            k = explore.KNOBS[name]
            assert default in k.choices or k.low <= default <= k.high, name


@pytest.mark.parametrize("name", sorted(explore.METHODS))
@pytest.mark.parametrize("background", ["inter", "intra"])
def test_the_recipe_makes_the_same(name, background, film):
    for source in (CHOICE.source, explore.File(str(film))):
        values = {
            k: (v if explore.KNOBS[k].choices else type(v)(explore.KNOBS[k].low + explore.KNOBS[k].step * 3))
            for k, v in explore.METHODS[name].knobs.items()
        }
        view = explore.look(
            explore.Choice(
                source,
                name,
                tuple(values.items()),
                start=3,
                stride=1,
                size=80,
                background=background,
                other_start=9,
            )
        )
        made = run(explore.snippet(view.choice))
        assert torch.equal(made["mask"][0], view.mask) and torch.equal(made["mixed"][0], view.mixed)
        if explore.METHODS[name].recipe:
            recipe, params = made["recipe"], dict(made["recipe"].params)
            assert (
                recipe.method == explore.METHODS[name].recipe
                and recipe.clips.size == 80
                and recipe.clips.stride == 1
            )
            carried = {k: values[k] for k in explore.METHODS[name].carried} | explore.METHODS[name].fixed
            assert {k: params[k] for k in carried} == carried
            from mvnb import methods

            methods.build(
                recipe.method,
                backbone=recipe.backbone,
                **{k: v for k, v in params.items() if k != "queue"},
                queue=8,
            )


def test_what_the_method_cannot_train_with_is_said():
    assert (
        "cells=7"
        in [
            l
            for l in explore.snippet(replace(CHOICE, method="grid", knobs=(("cells", 7),))).splitlines()
            if l.startswith("# not part")
        ][0]
    )
    assert "# not part" not in explore.snippet(replace(CHOICE, method="grid", knobs=()))


def test_the_picture_shows_the_mask():
    "Panel by panel, away from the outline: bright where the mask is, dark elsewhere."
    view = explore.look(CHOICE)
    image, (clip_row, _, mask_row, mix_row) = explore.picture(view).astype(float), explore._rows(True)[:4]
    shown = np.linspace(0, 15, explore.SHOWN).round().astype(int)
    for k, t in enumerate(shown):
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


def test_a_method_with_its_own_mask_knobs_and_mix(monkeypatch):
    "One entry: a mask per frame and a blend that needs no background."
    monkeypatch.setitem(
        explore.MIXES,
        "dim",
        explore.Mix(
            lambda clip, mask, background, alpha=0.5: torch.where(mask[:, None], clip * alpha, clip),
            "torch.where(mask[:, None], clip * alpha, clip)",
        ),
    )

    def moving(clip, lambda_=30):
        return motion.frame_difference(clip) * 255 > lambda_

    monkeypatch.setitem(explore.METHODS, "moving", explore.Method("moving", moving, mix="dim"))
    assert explore.METHODS["moving"].knobs == {"lambda_": 30} | explore.knobs_of(explore.MIXES["dim"].call)
    view = explore.look(replace(CHOICE, method="moving", knobs=(("alpha", 0.0), ("lambda_", 60))))
    assert (
        view.mask.shape == (16, 112, 112)
        and view.background is None
        and view.scores["chance"] < view.scores["iou"] <= view.scores["best"]
    )
    assert not view.mixed.permute(1, 2, 3, 0)[view.mask].any() and explore.picture(view).ndim == 3
    e = explore.Explorer(replace(CHOICE, method="moving", knobs=()))
    assert set(e.knobs) == {"lambda_", "alpha"} and e.mix_box.children == (e.knobs["alpha"],)
    assert "no method" in explore.snippet(view.choice)


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
        (e.method, "gauss"),
        (e.clip.kind, "puppets-d"),
    ):
        before = bytes(e.image.value)
        control.value = value
        assert bytes(e.image.value) != before and "ms ·" in e.status.value, control.description
    assert e.choice.source.act in puppets.CLASSES["puppets-d"] and e.view.choice == e.choice
    assert e.knobs["beta"].value == 0.6  # kept over the change of mask


def test_knobs_come_back_and_a_shown_recipe_follows():
    e = explore.Explorer(CHOICE)
    assert e.text.layout.display == "none"
    e.button.click()
    assert e.text.layout.display == "" and "beta=0.3" in e.text.value
    e.method.value = "mac"
    assert "mac_mask" in e.text.value and "'mac'" in e.text.value
    e.method.value = "fame"
    assert e.knobs["beta"].value == 0.3 and "fame_mask(clip, beta=0.3" in e.text.value


def test_the_first_frame_stays_inside(film):
    e = explore.Explorer(CHOICE)
    e.start.value = 9
    e.stride.value = 1
    e.start.value = 24
    e.stride.value = 2  # 16 frames of stride 2 need 31
    assert e.start.max == 9 == e.start.value
    e.clip.path.value, e.clip.kind.value = str(film), explore.FILE
    assert e.start.max == 0 and e.view.choice.source == explore.File(str(film)) and "ms ·" in e.status.value


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
    assert "ms ·" in e.status.value and bytes(e.image.value) == picture and e.choice.source == CHOICE.source


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

    monkeypatch.setitem(explore.METHODS, "broken", explore.Method("broken", broken))
    e = explore.Explorer(CHOICE)
    e.method.options = [*e.method.options, ("broken", "broken")]
    e.method.value = "broken"
    assert "AttributeError" in e.status.value and "nonsense" in e.status.value


# ---------------------------------------------------------------- the pages


def test_measures_repeat_and_pair(monkeypatch):
    a, known = explore.quality(
        3, betas=(0.3,), names=("puppets-u",), cameras=("still", "pan"), progress=False
    )
    b, _ = explore.quality(3, betas=(0.3,), names=("puppets-u",), cameras=("still", "pan"), progress=False)
    assert a.equals(b) and len(a) == 2 * 3 * len(explore.kinds(0.3) | explore.kinds()) and len(known) == 6
    assert not a.equals(
        explore.quality(
            3, betas=(0.3,), names=("puppets-u",), cameras=("still", "pan"), seed=1, progress=False
        )[0]
    )
    label = a["mask"].iloc[0]
    still, pan = (a[(a["mask"] == label) & (a.camera == c)].iou.to_numpy() for c in ("still", "pan"))
    gap = pan - still
    assert (
        explore.camera_loss(a).loc[label, "pan"] == f"{gap.mean():+.2f} ± {2 * gap.std(ddof=1) / 3**0.5:.2f}"
    )
    gauss = a[(a["mask"] == "Gauss") & (a.camera == "pan")].iou.to_numpy()
    assert explore.gain_over(a).loc[("pan", "puppets-u"), label].startswith(f"{(pan - gauss).mean():+.2f}")
    assert (
        explore.quality_table(a).loc[("puppets-u", label), "still"]
        == f"{still.mean():.2f} ± {still.std(ddof=1):.2f}"
    )


def test_measuring_in_parts_is_measuring_at_once():
    clip, truth = explore.films("puppets-h", "still", 10)
    whole, each = (
        explore.measure(clip, truth, explore.kinds(0.4)),
        [explore.measure(clip[i : i + 1], truth[i : i + 1], explore.kinds(0.4)) for i in range(10)],
    )
    for label, group in whole.groupby("mask"):
        assert list(group["clip"]) == list(range(10))
        assert np.allclose(group.iou, [e[e["mask"] == label].iou.item() for e in each], atol=1e-6)


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
    with pytest.raises(tables.ParameterError, match=said):
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


def test_the_explorer_run_by_a_program_leaves_a_picture(tmp_path):
    done = papermill(ROOT / "nbs" / "explore" / "masks.ipynb", tmp_path / "out.ipynb")
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = [k for o in outputs_of(tmp_path / "out.ipynb") for k in o.get("data", {})]
    assert "image/jpeg" in kinds and "text/html" in kinds and not any("widget" in k for k in kinds)


@pytest.mark.parametrize("name", ["85_explore.ipynb", "explore/masks.ipynb", "explore/mask_quality.ipynb"])
def test_stored_pages_show_something_and_no_widgets(name):
    book = json.loads((ROOT / "nbs" / name).read_text())
    kinds = [k for o in outputs_of(ROOT / "nbs" / name) for k in o.get("data", {})]
    assert (
        {"image/jpeg", "image/png"} & set(kinds)
        and not any("widget" in k for k in kinds)
        and "widgets" not in book["metadata"]
    )
