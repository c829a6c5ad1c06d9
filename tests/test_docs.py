"""The site: built offline without warnings, no dead link, no trace of the machine, fit for a phone."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mvnb.tables import BY_SCENE

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

for needed in ("sphinx", "myst_nb", "furo", "bs4"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -e '.[docs]'")

import house  # noqa: E402
import mathml  # noqa: E402
import stage  # noqa: E402
from bs4 import BeautifulSoup  # noqa: E402

pytestmark = pytest.mark.timeout(
    900
)  # the site is built once, a minute and a half unless the machine is busy


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The whole site, built once. No proxy leads out, so a page that wants the network fails."
    out = tmp_path_factory.mktemp("site")
    env = {
        **os.environ,
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "MVNB_DOCS_STAGE": str(out / "stage"),
    }
    done = subprocess.run(
        [sys.executable, str(DOCS / "build.py"), "--fresh", "--out", str(out / "html")],
        cwd=out,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return out / "html"


@pytest.fixture(scope="session")
def pages(site):
    "{path relative to the site: parsed page}, Sphinx's own files aside."
    return {
        p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser")
        for p in sorted(site.rglob("*.html"))
        if "_static" not in p.parts
    }


def article(page):
    return page.find("article") or page


def test_build_has_no_warnings_and_pages_for_everything(site, pages):
    for room in house.rooms(ROOT):
        assert f"library/{room.path.relative_to(ROOT / 'nbs').with_suffix('.html').as_posix()}" in pages
    assert "library/index.html" in pages
    for kind in ("tables", "figures", "explore"):
        for notebook in ROOT.glob(f"nbs/{kind}/*.ipynb"):
            assert f"{kind}/{notebook.stem}.html" in pages
    for page in (
        "index",
        "start",
        "own_videos",
        "cluster",
        "claims",
        "decisions",
        "reliability",
        "fifth_paper",
        "glossary",
        "library/index",
        "tables/index",
        "figures/index",
        "explore/index",
        "api/index",
    ):
        assert f"{page}.html" in pages
        assert len(article(pages[f"{page}.html"]).get_text(" ", strip=True)) > 100, f"{page} is empty"


def test_explorers_are_shown_as_they_were_executed():
    "A page of nbs/explore that was run is taken from outputs/demo, so that the site has its numbers."
    shown = {source.stem: executed for source, executed in stage.Site(ROOT).explore}
    for executed in (ROOT / "outputs" / "demo").glob("explore_*.ipynb"):
        assert shown[executed.stem.removeprefix("explore_")] == executed
    assert shown["mask_quality"]


def test_no_link_is_dead_and_no_picture_or_anchor_is_missing(site, pages):
    ids = {
        name: {tag.get("id") for tag in page.find_all(id=True)}
        | {tag.get("name") for tag in page.find_all("a", attrs={"name": True})}
        for name, page in pages.items()
    }
    dead = []
    for name, page in pages.items():
        for tag, key in (
            ("a", "href"),
            ("img", "src"),
            ("link", "href"),
            ("script", "src"),
            ("source", "src"),
        ):
            for node in page.find_all(tag, attrs={key: True}):
                target = node[key]
                if urlsplit(target).scheme in ("http", "https", "mailto", "data") or target.startswith("//"):
                    continue
                path, anchor = urldefrag(target)
                there = (site / name).parent / unquote(urlsplit(path).path) if path else site / name
                there = there.resolve()
                if there.is_dir():
                    there /= "index.html"
                if not there.is_file():
                    dead.append(f"{name}: {target}")
                elif anchor and there.suffix == ".html":
                    known = ids.get(there.relative_to(site.resolve()).as_posix(), set())
                    if unquote(anchor) not in known:
                        dead.append(f"{name}: {target} (no such anchor)")
    assert not dead, dead[:20]


def test_links_of_the_home_page_name_what_they_open(pages):
    opened = {}
    for link in article(pages["index.html"]).find_all("a", href=True):
        if not link["href"].startswith(("#", "http")):
            opened.setdefault(link.get_text(" ", strip=True).lower(), set()).add(link["href"])
    assert len(opened) > 60
    assert not {text: targets for text, targets in opened.items() if len(targets) > 1}
    vague = r"here|this|link|more|the lesson|(table|figure)s? \w+( and \w+)?|.*\.(md|ipynb|html|py)"
    assert not [text for text in opened if not text or re.fullmatch(vague, text)]


def test_the_glossary_is_in_the_navigation_and_in_order(pages):
    for name, page in pages.items():
        if tree := page.select_one(".sidebar-tree"):
            assert [a for a in tree.find_all("a") if a.get_text() == "Glossary"], name
    words = [row.td.get_text() for row in article(pages["glossary.html"]).select("tbody tr")]
    assert words == sorted(words, key=str.lower) and len(words) == len(set(words))
    single = {word for entry in words for word in entry.split(", ")}
    assert {
        "clip",
        "stride",
        "tubelet",
        "foreground mask",
        "token mask",
        "mask ratio",
        "query",
        "key",
    } <= single
    assert {"queue", "momentum encoder", "linear probe", "fine-tuning", "R@k", "world", "run store"} <= single
    assert {"verdict", "narrowly", "unbiased test", "puppets", "source", "background", "still"} <= single


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        for tag, key in (("img", "src"), ("script", "src"), ("source", "src"), ("iframe", "src")):
            for node in page.find_all(tag, attrs={key: True}):
                assert urlsplit(node[key]).scheme in ("", "data") and not node[key].startswith("//"), (
                    f"{name} loads {node[key]}"
                )
        for node in page.find_all("link", href=True):
            assert urlsplit(node["href"]).scheme == "", f"{name} loads {node['href']}"
    for css in site.rglob("*.css"):
        assert not re.search(
            r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?https?:", css.read_text(encoding="utf-8")
        ), css


def test_no_machinery_and_no_machine_shows(pages):
    private = [re.escape(p) for p in stage.places() if p.count("/") > 1] + [
        r"/root/\w",
        r"/home/\w",
        r"/tmp/\w",
    ]
    for name, page in pages.items():
        text, source = article(page).get_text(), str(article(page))
        if name != "fifth_paper.html":  # which says what to write into a notebook
            assert not re.search(r"^\s*#\|", text, re.M), f"{name} shows a directive line"
        assert "jupyter-widget" not in source and "widget-view+json" not in source, (
            f"{name} holds a dead widget"
        )
        assert not re.search(r"\d+%\|[█▏▎▍▌▋▊▉ #]*\|", text), f"{name} shows a progress bar"
        found = re.search("|".join(private), text)
        # /tmp in a lesson's own code or prose is no trace of a machine; in an output it is
        assert not found or not any(
            re.search("|".join(private), o.get_text()) for o in page.select(".cell_output")
        ), f"{name}: {found[0]}"
        assert "Traceback (most recent call last)" not in text or name.startswith("library/"), name


def test_formulas_are_drawn(pages):
    formulas = [m for page in pages.values() for m in page.find_all("math")]
    assert len(formulas) > 30
    for page in pages.values():
        assert not re.search(
            r"\\(frac|sum|mathrm|operatorname|lfloor)\b",
            re.sub(r"<(code|pre|math)\b.*?</\1>", "", str(article(page)), flags=re.S),
        )


@pytest.mark.parametrize(
    "tex, parts",
    [
        (r"\frac12 x", [("mfrac", ["1", "2"])]),
        (r"\tfrac1T", [("mfrac", ["1", "T"])]),
        (r"\frac{a+b}2", [("mfrac", ["a+b", "2"])]),
        (r"x_10", [("msub", ["x", "1"])]),
        (r"\sqrt n", [("msqrt", ["n"])]),
        (r"\Big(x\Big)", []),
        (r"\operatorname*{argmax}_x y", []),
        (r"\lfloor\beta HW\rfloor", []),
        (r"\mathcal{L} = -\log\frac{\exp(q\cdot k^+/\tau)}{\sum_{k^-}\exp(q\cdot k^-/\tau)}", []),
    ],
)
def test_formulas_mean_what_tex_means(tex, parts):
    "Read back from the MathML, by structure."
    tree = ElementTree.fromstring(re.sub(r"&ApplyFunction;", "", mathml.convert(tex, True)))
    local = lambda e: e.tag.split("}")[-1]
    found = [
        (local(e), ["".join(c.itertext()).replace(" ", "").replace("\n", "") for c in e]) for e in tree.iter()
    ]
    for part in parts:
        assert part in found


def test_a_formula_that_cannot_be_read_is_an_error():
    with pytest.raises(mathml.MathError):
        mathml.convert(r"\nosuchcommand{x}", False)


def test_api_says_what_the_comments_behind_parameters_say(pages):
    "Read from the module's source by regular expression, not by the code that writes the pages."
    source = (ROOT / "mvnb" / "masks.py").read_text(encoding="utf-8")
    page = pages["api/masks.html"]
    head = re.search(r"^def fame_mask\((.*?)^\s*\) -> .*?# (.+?)$\s+\"(.+?)\"", source, re.S | re.M)
    entry = page.find(id="mvnb.masks.fame_mask").find_next("dd")
    text = re.sub(r"\s+", " ", entry.get_text(" "))
    plain = lambda t: re.sub(r"[\s`“”\"']+", "", t)
    for name, comment in re.findall(r"(\w+)\s*:[^#\n]*# (.+)$", head[1], re.M):
        assert name in text and plain(comment) in plain(text), name
    assert plain(head[2]) in plain(text) and "Returns" in text and "Raises" in text
    assert plain(head[3].split(" Raises")[0]) in plain(text)
    link = next(a["href"] for a in entry.find_all("a") if "source in the notebook" in a.get_text())
    cell = pages["library/motion/12_masks.html"].find(id=urldefrag(link)[1])
    assert "def fame_mask" in (cell.get_text() or cell.find_next(class_="cell").get_text()), (
        "the source link does not lead to the cell"
    )


def test_api_is_complete(pages):
    import importlib

    for name in (room.module for room in house.rooms(ROOT)):
        module = importlib.import_module(f"mvnb.{name}")
        known = {tag["id"] for tag in pages[f"api/{name}.html"].find_all(id=True)}
        missing = [n for n in module.__all__ if f"mvnb.{name}.{n}" not in known]
        assert not missing, f"api/{name}.html lacks {missing}"


def test_signatures_are_those_of_the_functions():
    "The pages read sources; Python itself says what a function takes."
    import importlib
    import inspect
    import types

    import api

    for name in ("masks", "mixing", "video", "train", "tables"):
        module = importlib.import_module(f"mvnb.{name}")
        for public in module.__all__:
            function = inspect.unwrap(thing) if callable(thing := getattr(module, public)) else None
            if isinstance(function, types.FunctionType):
                assert [bare for _, bare, _, _ in api._arguments(function) if bare] == list(
                    inspect.signature(function).parameters
                ), f"{name}.{public}"


def test_scoreboard_shows_every_claim_and_sums_them_up(pages):
    from mvnb import claims

    board, page = claims.scoreboard("demo"), pages["claims.html"]
    text = re.sub(r"\s+", " ", article(page).get_text(" "))
    for claim in board["claim"].unique():
        assert claim in text
    summary, *tables = page.select("table.claims")
    names = [head.get_text() for head in summary.select("th")]
    rows = [[cell.get_text() for cell in row.select("td")] for row in summary.select("tbody tr")]
    counted = claims.summary("demo")
    assert names == list(counted) and len(rows) == len(counted)
    for row, expected in zip(rows, counted.itertuples(index=False)):
        assert row == [expected[0].upper(), *map(str, expected[1:])]
    for kind in ("holds", "fails", "undecided"):
        shown = sum(len(table.select(f".verdict.{kind}")) for table in tables)
        assert shown == counted[kind].sum(), kind
    assert text.count(f"Claims should show on the unbiased test: {BY_SCENE}.") == len(board["paper"].unique())


def lines_of_two_tests(**more):
    line = dict(paper="fame", table="3", claim="c", by="ours", shows="unbiased", inequalities="1")
    line |= dict(published_on="UCF101", published_gap="+1.0", profile="demo", measured_on="puppets-u")
    line |= dict(gap="3.00", margin="1.00", n="5", seeds="0 1 2 3 4", device="a lamp", commit="abc")
    biased = line | dict(test="biased", expected="no", verdict="undecided", p="0.2")
    unbiased = line | dict(test="unbiased", expected="yes", verdict="holds", p="0.002")
    return pd.DataFrame([biased, unbiased]).assign(**more)


def test_the_expected_test_is_marked_and_p_is_shown():
    import claims as page

    (lines,) = page.board(lines_of_two_tests()).values()
    soup = BeautifulSoup(page.grid(lines, True), "html.parser")
    (marked,) = soup.select("td.expected")
    assert marked.select_one(".verdict.holds") and "+3.0 ± 1.0, p = 0.002" in marked.get_text()
    assert len(soup.select(".verdict")) == 2 and "expected on unbiased test" in soup.get_text()
    (lines,) = page.board(
        lines_of_two_tests(verdict="leans against", p="", margin="", shows="biased")
    ).values()
    soup = BeautifulSoup(page.grid(lines, True), "html.parser")
    assert [cell.get_text() for cell in soup.select("td.expected")] == ["leans against +3.0"]
    assert len(soup.select(".verdict.leans-against")) == 2


def test_a_page_from_before_has_no_verdicts_but_is_shown():
    import claims as page

    lines = lines_of_two_tests(verdict="not run", measured_on="", test="", gap="", margin="", p="", seeds="")
    (found,) = page.board(lines.iloc[:1]).values()
    assert "executed before claims were judged over seeds" in page.grid(found, True)
    assert "Not run yet" in page.grid(found, False)


def test_tables_without_results_say_so(pages):
    for kind in ("tables", "figures"):
        for notebook in ROOT.glob(f"nbs/{kind}/*.ipynb"):
            executed = (ROOT / "outputs" / "demo" / notebook.name).is_file()
            page = pages[f"{kind}/{notebook.stem}.html"]
            assert ("Not run yet" in article(page).get_text()) != executed, notebook.name
            assert bool(page.select(".cell_output")) == executed, notebook.name


def test_how_to_names_only_options_that_exist():
    from mvnb import cli
    import argparse

    commands = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    text = (DOCS / "howto_own_videos.md").read_text(encoding="utf-8")
    named = ("pretrain", "features", "export", "probe")
    known = {o for c in named for a in commands[c]._actions for o in a.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
    assert set(re.findall(r"(?<!from )\bmvnb ([a-z]+) ", text)) - {"knows"} <= set(commands)


# staging, on small repositories


def repository(tmp_path, readme="# x\n"):
    (tmp_path / "nbs" / "tables").mkdir(parents=True)
    (tmp_path / "outputs" / "demo").mkdir(parents=True)
    (tmp_path / "README.md").write_text(readme)
    return stage.Site(tmp_path, tmp_path / "stage")


def notebook(*cells):
    return nbformat.v4.new_notebook(cells=list(cells))


def staged(tmp_path, *cells):
    (tmp_path / "nbs" / "clips").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "nbs" / "clips" / "07_x.ipynb"
    nbformat.write(notebook(*cells), path)
    book = nbformat.read(path, 4)
    if not house.module_of(book):  # only rooms are on the site
        book.cells.insert(1, code("#| default_exp x"))
        nbformat.write(book, path)
    site = stage.Site(tmp_path, tmp_path / "stage")
    site.notebook(path, mark=True)
    return nbformat.read(site.stage / "library" / "clips" / "07_x.ipynb", 4), site


code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell


def test_directives_and_hidden_cells_go_and_lessons_stay(tmp_path):
    nb, site = staged(
        tmp_path,
        text("# T\n\n> sub"),
        code("#| default_exp x"),
        code("#| hide\nsecret = 1"),
        code("#| export\ndef f(): pass"),
        code("#| eval: false\nslow()"),
        code("# | exporti\ny = '#| not a directive'"),
    )
    sources = [c.source for c in nb.cells]
    assert not any("secret" in s or "default_exp" in s or re.search(r"^\s*#\s*\|", s, re.M) for s in sources)
    assert "def f(): pass" in sources and "slow()" in sources and "y = '#| not a directive'" in sources
    assert site.cells["x.f"] in " ".join(sources)


def test_outputs_lose_bars_widgets_and_paths(tmp_path):
    out = nbformat.v4.new_output
    nb, _ = staged(
        tmp_path,
        text("# T"),
        code(
            "run()",
            outputs=[
                out(
                    "display_data",
                    {
                        "application/vnd.jupyter.widget-view+json": {"model_id": "a"},
                        "text/plain": "  0%|  | 0/9",
                    },
                ),
                out("stream", name="stderr", text="\r  0%|          | 0/9\r100%|██████████| 9/9\nkept\n"),
                out("execute_result", {"text/plain": f"Path('{stage.ROOT}/a/b.mp4') in /tmp/tmpabc123/x"}),
                out(
                    "display_data",
                    {
                        "text/html": "<style scoped>td {color: red}</style>"
                        '<table border="1" style="x"><tr><td>5</td></tr></table>',
                        "text/plain": "5",
                    },
                ),
            ],
        ),
    )
    cell = nb.cells[-1]
    assert [o.output_type for o in cell.outputs] == ["stream", "execute_result", "display_data"]
    assert cell.outputs[0].text.strip() == "kept"
    assert (
        str(stage.ROOT) not in cell.outputs[1].data["text/plain"]
        and "tmpabc123" not in cell.outputs[1].data["text/plain"]
    )
    assert cell.outputs[2].data["text/html"] == "<table><tr><td>5</td></tr></table>"


def test_links_go_to_pages_copies_or_are_reported(tmp_path):
    site = repository(tmp_path)
    (tmp_path / "LICENSE").write_text("free")
    nbformat.write(notebook(text("# A")), tmp_path / "nbs" / "tables" / "fame_table1_a.ipynb")
    site = stage.Site(tmp_path, tmp_path / "stage")
    links = "[a](nbs/tables/fame_table1_a.ipynb) [b](outputs/demo/) [`c`](LICENSE) [d](https://e.org/x.md)"
    md = f"{links} `[e](none.md)`\n```\n[f](none.md)\n```\n[g](none.md#x)"
    new = site.markdown(md, "README.md", "sub/start.md")
    assert (
        "[a](../tables/fame_table1_a.ipynb) [b](../tables/index.md) [`c`](../files/LICENSE) "
        "[d](https://e.org/x.md) `[e](none.md)`" in new
    )
    assert (tmp_path / "stage" / "files" / "LICENSE").read_text() == "free"
    assert len(site.problems) == 1 and "none.md" in site.problems[0]


def test_executed_pages_come_before_sources_and_variants_get_pages(tmp_path):
    repository(tmp_path)
    tables, demo = tmp_path / "nbs" / "tables", tmp_path / "outputs" / "demo"
    for name in ("fame_table10_z", "fame_table2_b", "mac_table1_a", "fame_s_table1_s"):
        nbformat.write(notebook(text("# " + name)), tables / f"{name}.ipynb")
    for name in ("fame_table2_b", "fame_table2_b_ucf101"):
        nbformat.write(notebook(text("# " + name)), demo / f"{name}.ipynb")
    found = stage.Site(tmp_path, tmp_path / "stage").results["tables"]
    assert [s for s, _, _ in found] == [
        "fame_table2_b",
        "fame_table2_b_ucf101",
        "fame_table10_z",
        "fame_s_table1_s",
        "mac_table1_a",
    ]
    assert [bool(e) for _, _, e in found] == [True, True, False, False, False]


def test_what_is_gone_from_the_repository_goes_from_the_site(tmp_path):
    site = repository(tmp_path)
    site.write("old/page.md", "# old\n")
    site = stage.Site(tmp_path, tmp_path / "stage")
    site.write("new.md", "# new\n")
    site.finish()
    assert [p.name for p in (tmp_path / "stage").rglob("*")] == ["new.md"]


def test_papermill_repeating_the_defaults_is_not_shown_twice(tmp_path):
    given = lambda t: nbformat.v4.new_code_cell(t, metadata={"tags": ["injected-parameters"]})
    same, _ = staged(tmp_path, text("# T"), code("seeds = 1 # how many"), given("# Parameters\nseeds = 1\n"))
    other, _ = staged(tmp_path, text("# T"), code("seeds = 1 # how many"), given("# Parameters\nseeds = 3\n"))
    assert [c.source for c in same.cells if c.cell_type == "code"] == ["seeds = 1 # how many"]
    assert "seeds = 3" in other.cells[-1].source


# in a browser


def test_no_page_is_wider_than_a_phone_and_none_asks_the_network(site, pages, chromium):
    context = chromium.new_context(viewport=dict(width=390, height=844), color_scheme="dark")
    page, asked, wide, broken = context.new_page(), [], [], []
    page.on(
        "request",
        lambda r: asked.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None,
    )
    page.on("pageerror", lambda e: broken.append(str(e)))
    for name in pages:
        page.goto((site / name).as_uri(), wait_until="load")
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > page.evaluate("window.innerWidth"):
            wide.append((name, width))
        empty = page.evaluate(
            "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        )
        assert not empty, f"{name}: {empty}"
    context.close()
    assert not wide and not asked and not broken, (wide, asked[:5], broken[:5])


def edge_shades(page, box, where):
    "How far a scrolled box's last columns of pixels, at one end, are from the page's own colour."
    box.evaluate("(e, x) => { e.scrollLeft = x }", where)
    page.wait_for_timeout(100)
    picture = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("L"), float)
    back = np.median(picture)
    return {side: abs(np.median(picture[:, x]) - back) for side, x in (("left", 1), ("right", -2))}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name, chosen", [("claims.html", ".scroll"), ("library/clips/01_video.html", ".cell_input pre")]
)
def test_what_is_cut_on_a_phone_shows_that_it_scrolls(site, chromium, scheme, name, chosen):
    "A shadow where a table or code goes on, and none where it ends: seen in the pixels, without JavaScript."
    shape = dict(width=390, height=844)
    context = chromium.new_context(viewport=shape, color_scheme=scheme, java_script_enabled=False)
    page = context.new_page()
    page.goto((site / name).as_uri())
    boxes = page.locator(f"article {chosen}").all()
    wide = next(b for b in boxes if b.evaluate("e => e.scrollWidth - e.clientWidth > 40"))
    start, end = edge_shades(page, wide, 0), edge_shades(page, wide, 10_000)
    context.close()
    assert start["left"] < 3 and end["right"] < 3
    assert start["right"] > 25 and end["left"] > 25


@pytest.mark.parametrize("width", [1280, 1440])
def test_code_is_not_cut_on_a_desktop(site, pages, chromium, width):
    "Every cell of every lesson; the style's limit is 110 columns."
    context = chromium.new_context(viewport=dict(width=width, height=900))
    page, cut = context.new_page(), {}
    wider = "[...document.querySelectorAll('.cell_input pre')].map(p => p.scrollWidth - p.clientWidth)"
    for name in pages:
        if name.startswith("library/"):
            page.goto((site / name).as_uri())
            if most := max([0, *page.evaluate(wider)]):
                cut[name] = most
    context.close()
    assert not cut
