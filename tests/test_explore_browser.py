"""The explorer in a real browser: JupyterLab as `make lab` starts it, a slider moved with the keyboard."""

import contextlib
import io
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvnb import explore, puppets, video, views

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs" / "explore" / "masks.ipynb"


def lab_command():
    "How `make lab` starts JupyterLab, as make says it, so that the test runs what users run."
    said = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in said.splitlines() if "jupyter lab" in line)
    words = shlex.split(line.split("jupyter lab", 1)[1], comments=True)
    assert any("websocket_max_message_size" in word for word in words)  # uploads need it
    return [sys.executable, "-m", "jupyterlab", *[w for w in words if not w.startswith("--notebook-dir")]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab on a copy of the notebook: its address. Ends with every process it started."
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    book = json.loads(NOTEBOOK.read_text())
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    (folder / "work" / "masks.ipynb").write_text(json.dumps(book))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, log = secrets.token_hex(16), open(folder / "log", "w+")
    own = {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("CONFIG", "DATA", "RUNTIME")} | {
        "HOME": str(folder),
        "MVNB_PATHS_OUTPUTS": str(folder / "outputs"),
        "IPYTHONDIR": str(folder / "ipython"),
        "MVNB_ROOT": str(ROOT),
    }
    words = [
        "--no-browser",
        f"--notebook-dir={folder / 'work'}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.allow_root=True",
        f"--IdentityProvider.token={token}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    server = subprocess.Popen(
        lab_command() + words,
        cwd=folder,
        env=os.environ | own,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(450):
            if server.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=1).read()
                break
            time.sleep(0.2)
        log.flush()
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        yield f"{base}/lab/tree/masks.ipynb?reset&token={token}"
        with contextlib.suppress(OSError):  # kernels have sessions of their own: end them by request
            head = {"Authorization": f"token {token}"}
            for kernel in json.load(
                urllib.request.urlopen(urllib.request.Request(f"{base}/api/kernels", headers=head), timeout=5)
            ):
                urllib.request.urlopen(
                    urllib.request.Request(
                        f"{base}/api/kernels/{kernel['id']}", headers=head, method="DELETE"
                    ),
                    timeout=10,
                )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


@pytest.fixture(scope="module")
def page(chromium, lab):
    "The notebook, open and run."
    page = chromium.new_page(viewport={"width": 1560, "height": 1150})
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector("text=/\\| Idle/")
    page.click(".jp-Notebook .jp-Cell >> nth=0")
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_selector(".jp-OutputArea-output .mvnb-strip")
    if (news := page.locator("button:text-is('No')")).count():
        news.click()  # JupyterLab asks whether it may tell its news
    yield page
    page.close()


def shown(page, which="strip"):
    "The explorer's film strip, or its large picture (film), as the browser has it: uint8 [H,W,3]."
    for _ in range(200):
        source = page.evaluate(
            """async find => {
                const styled = e => getComputedStyle(e);
                const shown = e => e.src && styled(e).visibility == 'visible' && styled(e).display != 'none';
                const image = [...document.querySelectorAll(find)].find(shown);
                const read = async e => Array.from(new Uint8Array(await (await fetch(e.src)).arrayBuffer()));
                return image ? await read(image).catch(() => []) : [];
            }""",
            {"strip": ".mvnb-strip", "film": ".mvnb-film .widget-image"}[which],
        )
        if source:
            return np.asarray(Image.open(io.BytesIO(bytes(source))))
        page.wait_for_timeout(50)  # the kernel has yet to draw it
    raise AssertionError("no picture was shown within 10 seconds")


def awaited(page, right, which="strip"):
    "The picture once `right` says yes to it. The kernel may have other work, the machine too."
    for _ in range(300):
        now = shown(page, which)
        if right(now):
            return now
        page.wait_for_timeout(100)
    raise AssertionError("the picture did not become what it should within 30 seconds")


def changed(page, before, which="strip"):
    "The picture after it changed."
    return awaited(page, lambda now: now.shape != before.shape or (now != before).any(), which)


def like(expected):
    "Whether a picture is this one, but for JPEG."
    return lambda now: now.shape == expected.shape and np.abs(now.astype(int) - expected).mean() < 4


def rows(picture):
    "Its rows of pictures: clip, motion, mask, mix."
    return [
        picture[y : y + views.PANEL, views.LEFT : -views.RIGHT].astype(int) for y in views._rows(4, True)[:4]
    ]


def difference(a, b):
    return [np.abs(x - y).mean() for x, y in zip(rows(a), rows(b))]


def row_of(page, label):
    return page.locator(".widget-inline-hbox", has=page.locator(f".widget-label:text-is('{label}')"))


def handle(page, label):
    return row_of(page, label).locator(".noUi-handle")


def test_a_slider_moves_the_mask(page):
    before = shown(page)
    assert like(explore.picture(explore.look(explore.Choice())))(before)
    handle(page, "share β").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.widget-readout')].some(e => e.innerText == '0.25')"
    )
    fewer = explore.picture(explore.look(explore.Choice(knobs=(("beta", 0.25),))))
    after = awaited(page, like(fewer))
    clip, moved, mask, mix = difference(before, after)
    assert clip < 0.5 and moved < 0.5 and mask > 8 and mix > 8, (clip, moved, mask, mix)
    wanted = explore.picture(explore.look(explore.Choice(knobs=(("beta", 0.25),))))
    assert np.abs(after.astype(int) - wanted).mean() < 4
    assert "25 %" in page.inner_text(".jp-OutputArea-output table:has-text('IoU with the truth')")


def test_another_mask_brings_its_own_knobs(page):
    before = shown(page)
    row_of(page, "mask").locator("select").select_option("Grid")
    assert (difference(before, changed(page, before))[2]) > 8
    handle(page, "cells").wait_for()
    assert row_of(page, "hue").count() == 0


def test_a_mask_that_follows_motion_and_hides(page):
    "Its source of motion is a control, and the line above the picture names it; other masks have none."
    assert row_of(page, "motion").count() == 0
    before = shown(page)
    row_of(page, "mask").locator("select").select_option("MGM (hides)")
    moved = changed(page, before)
    page.wait_for_selector("text=/the mask follows motion vectors/")
    page.wait_for_selector("text=share of the actor that is hidden")
    row_of(page, "motion").locator("select").select_option("optical flow (DIS)")
    page.wait_for_selector("text=/the mask follows optical flow/")
    assert difference(moved, changed(page, moved))[1] > 0.1
    row_of(page, "mask").locator("select").select_option("Grid")
    row_of(page, "hue").wait_for(state="detached")
    page.wait_for_function(
        "() => ![...document.querySelectorAll('.widget-label')].some(e => e.innerText == 'motion')"
    )


def test_the_recipe_can_be_read_and_run(page):
    page.click("button:has-text('Write as a recipe')")
    page.wait_for_selector(".mvnb-recipe textarea")
    text = page.input_value(".mvnb-recipe textarea")
    made = {}
    exec(text, made)
    assert made["recipe"].params["variant"] == "grid" and made["recipe"].params["beta"] == 0.25
    choice = explore.Choice(mask="grid", knobs=(("beta", 0.25), ("cells", 4)))
    assert torch.equal(made["mask"][0], explore.look(choice).mask)


def test_the_film_plays_and_is_scrubbed(page):
    "The large picture moves by itself after Play, stands after Pause, and follows the slider."
    before = shown(page, "film")
    page.click(".widget-play button >> nth=0")
    seen = {before.tobytes()}
    for _ in range(60):
        seen.add(shown(page, "film").tobytes())
        if len(seen) > 8:
            break
        page.wait_for_timeout(50)
    assert len(seen) > 8  # of 16
    page.click(".widget-play button >> nth=0")
    stood = None
    for _ in range(30):
        last, stood = stood, shown(page, "film").tobytes()
        if stood == last:
            break
        page.wait_for_timeout(400)
    assert stood == last
    handle(page, "frame").focus()
    page.keyboard.press("Home")
    wanted = explore.Film(explore.look(explore.Choice(mask="grid", knobs=(("beta", 0.25),))))
    first = awaited(page, like(wanted.picture(0)), "film")
    page.keyboard.press("ArrowRight")
    assert like(wanted.picture(1))(changed(page, first, "film"))


def test_two_masks_beside_each_other(page):
    one = shown(page, "film")
    row_of(page, "mask B").locator("select").select_option("MAC")
    both = changed(page, one, "film")
    assert both.shape[0] == 2 * one.shape[0]
    page.wait_for_selector("text=IoU of A and B")
    height = one.shape[0]
    difference = both[height + views.HEAD : height + views.HEAD + views.SIDE, : views.SIDE].astype(int)
    orange = (difference[..., 0] > difference[..., 2] + 90).mean()
    assert orange > 0.05
    strip = shown(page)
    handle(page, "threshold λ").focus()
    page.keyboard.press("End")  # B is as good as empty
    after = changed(page, strip)
    assert after.shape == strip.shape
    third = np.s_[height:, 2 * (views.SIDE + views.SPACE) :]  # where the second mask stands
    awaited(page, lambda now: np.abs(now[third].astype(int) - both[third]).mean() > 1, "film")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "MP4", "PY"])
def test_what_is_shown_is_saved(page, kind):
    page.click(f"button:text-is('{kind}')")
    page.wait_for_selector(f"text=/^{kind}: .*explore/")
    path = Path(page.inner_text(f"div[role=status]:has-text('{kind}: ')").removeprefix(f"{kind}: ").strip())
    assert path.is_file() and "against_mac" in path.name
    if kind == "PY":
        made = {}
        exec(path.read_text(), made)
        assert made["mask_a"].any()
    elif kind == "MP4":
        assert video.probe(path).frames == 16
    else:
        with Image.open(path) as picture:
            assert getattr(picture, "n_frames", 1) == (16 if kind == "GIF" else 1)


def test_next_random_and_reset(page):
    film = shown(page, "film")
    page.click("button:has-text('Next') >> nth=0")
    page.wait_for_selector("text=/ms · puppets-u, .*, number 4/")
    before = shown(page)
    page.click("button:has-text('Random') >> nth=0")
    changed(page, before)
    page.click("button:has-text('Reset')")
    page.wait_for_selector("text=/ms · puppets-u, jumping_jack, number 3/")
    page.wait_for_selector("text=IoU of A and B", state="detached")
    awaited(page, like(explore.picture(explore.look(explore.Choice()))))
    assert shown(page, "film").shape != film.shape


def test_a_bad_path_is_told_in_a_sentence_and_an_upload_works(page, tmp_path):
    row_of(page, "clip").locator("select").select_option("a video file")
    field = row_of(page, "path").locator("input")
    field.fill("/no/such/film.mp4")
    field.press("Enter")
    page.wait_for_selector("[role=alert]:has-text('film.mp4: no such file')")
    for picture in ("film", "strip"):
        assert float(page.eval_on_selector(f".mvnb-{picture}", "e => getComputedStyle(e).opacity")) < 0.3
    message, film = (page.locator(at).bounding_box() for at in ("[role=alert]", ".mvnb-film"))
    assert 0 <= film["y"] - message["y"] - message["height"] < 40  # the sentence stands at the picture
    before = shown(page)
    row_of(page, "clip").locator("select").select_option("an upload")
    film = puppets.render("puppets-h", "windmill", seed=5)[0]
    big = (
        tmp_path / "mine.avi"
    )  # without compression, larger than the 10 MiB that a web socket takes unless told otherwise
    video.write_video(big, np.repeat(np.repeat(film, 5, 1), 5, 2), 12.5, "rawvideo")
    assert big.stat().st_size > 11e6
    with page.expect_file_chooser() as chooser:
        page.click("button:has-text('choose a video')")
    chooser.value.set_files(str(big))
    page.wait_for_selector("text=/ms · mine.avi/")
    assert difference(before, shown(page))[0] > 20
    assert page.eval_on_selector(".mvnb-film", "e => getComputedStyle(e).opacity") == "1"
    assert page.locator("text=Traceback").count() == 0
