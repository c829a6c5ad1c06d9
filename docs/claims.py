"The scoreboard: what the papers claim, and how each claim fared here (`mvnb.claims.board_lines`)."

import html
import re

import pandas as pd

from mvnb import figures, tables
from mvnb.claims import VERDICTS, board_lines, expectation_notes, summed, wide
from mvnb.tables import called
from stage import PAPERS, order

SAID = re.compile(rf"({'|'.join(sorted(VERDICTS, key=len, reverse=True))})(?: \((.*)\))?")
ABOUT = ("measured on", "expected on", "seeds", "device", "commit")  # said once, where all lines agree
SHOWN = dict(claim="claim", by="by", published_on="published on", published_gap="published gap")


def notebooks() -> dict[tuple, str]:
    "(paper, table as in the lines of claims) -> stem of its page; tables first."
    found = {(d.paper, d.number): d.notebook for d in tables.definitions()}
    return found | {(d.paper, f"figure {d.number}"): d.notebook for d in figures.definitions()}


def board(lines: pd.DataFrame) -> dict[str, list[dict]]:
    "Stem of a table or figure -> its claims, in the papers' order, tables first."
    stems, out = notebooks(), {}
    for key, own in lines.groupby(["paper", "table"], sort=False):
        frame = wide(own, SHOWN, dict(seeds="seeds", device="device", commit="commit"))
        out[stems[key]] = frame.to_dict("records")
    drawn = {stem for (_, number), stem in stems.items() if number.startswith("figure")}
    return {stem: out[stem] for stem in sorted(out, key=lambda stem: (stem in drawn, order(stem)))}


def badge(verdict: str) -> str:
    kind = verdict.replace(" narrowly", "").replace(" ", "-") + " narrowly" * verdict.endswith("narrowly")
    return f'<span class="verdict {kind}">{html.escape(verdict)}</span>'


def shown(value) -> str:
    "A cell: verdicts as badges with their statistic, anything else as text."
    text = str(value)
    found = SAID.fullmatch(text)
    if not found:
        return html.escape(text)
    return badge(found[1]) + (f' <span class="statistic">{html.escape(found[2])}</span>' if found[2] else "")


def cell(line: dict, column: str) -> str:
    "A cell of a line; the test on which the claim should show is marked."
    text = str(line.get(column, ""))
    kinds = ["short"] * (len(text) <= 26) + ["expected"] * (column == line["expected on"] and bool(text))
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{kind}>{shown(text)}</td>"


def grid(lines: list[dict], executed: bool) -> str:
    "Claims of one table; columns that say the same in each line, or nothing, go into the caption."
    columns = [c for c in dict.fromkeys(k for l in lines for k in l) if any(str(l.get(c, "")) for l in lines)]
    same = {}
    for column in ("by", *ABOUT):
        if column in columns and len({str(line.get(column, "")) for line in lines}) == 1:
            same[column] = str(lines[0][column])
    columns = [c for c in columns if c not in same]
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(cell(line, c) for c in columns) + "</tr>" for line in lines)
    about = "; ".join(f"{c} {v}" for c, v in same.items() if c in ABOUT and v != "not run")
    if same.get("measured on") == "not run":
        early = " Its page was executed before claims were judged over seeds, so it has no verdicts."
        about = "Not run yet." if not executed else f"Not judged yet.{early}"
    table = f'<table class="docutils claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>' + (
        f'\n\n<p class="about">{html.escape(about)}</p>' if about else ""
    )


def summary(lines: pd.DataFrame) -> str:
    "What became of the claims: counted by paper, origin and test."
    frame = summed(lines)
    frame["paper"] = frame["paper"].str.upper()
    head = "".join(f"<th>{html.escape(column)}</th>" for column in frame)
    body = ""
    for row in frame.itertuples(index=False):
        body += "<tr>" + "".join(f"<td>{html.escape(f'{value}')}</td>" for value in row) + "</tr>"
    table = (
        f'<table class="docutils claims summary"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    return f'<div class="scroll">{table}</div>'


def reasons(paper: str) -> str:
    "On which test a paper's claims should show, and why."
    expected = {}
    for d in tables.definitions():
        if d.paper == paper:
            expected |= {claim.text: d.expects(claim) for claim in d.claims}
    for d in figures.definitions():
        if d.paper == paper:
            expected[f"the claims of {called(d.number, 'figure')}"] = (d.shows, d.why)
    return " ".join(expectation_notes(expected)) if expected else ""


TEXT = (
    "# Claims",
    "> What the papers conclude from their tables and figures, tested here.",
    "A claim is an inequality between rows of a table (or between the things a figure shows), such as "
    "*merging with another video's background beats the same video's*. It is judged over seeds. Each seed "
    "is a world of its own: it draws its training videos, its tests, the initial weights and the order of "
    "the batches. Gap ± margin, in percentage points (of errors, in the unit of their page), is the mean "
    "difference over seeds and its 95 % interval. A claim **holds** when the whole interval bears it out, "
    "**fails** when the whole interval contradicts it, and is **undecided** otherwise; with fewer than "
    "three seeds it only **leans**. What holds or fails, but not after Holm's correction for all verdicts "
    "of its page, does so **narrowly**: other worlds may not confirm it. A failed claim is shown as failed. "
    "p is one-sided. [Claims](library/results/34_claims.ipynb) has the rules and shows how they work.",
    "Verdicts are about small models on [puppets](library/clips/02_puppets.ipynb), not about the papers' "
    "networks on the papers' data. Each claim says beforehand on which test it should show: that one is "
    "marked.",
    "A claim is *the paper's text* where the authors say so, *read from its table* where we conclude it from "
    "their numbers, and *ours* otherwise.",
    "## Summary",
)
NOTE = (
    "*By chance* is how many verdicts chance alone would give at most, if there were no differences at all: "
    "2.5 % of the judged claims to hold, and 2.5 % of their inequalities to fail. *Holds after Holm* counts "
    "what still holds when the p-values are corrected for the number of a paper's own claims that were "
    "judged."
)


def links(site, stem: str, page: str) -> str:
    "Links to the page of a table or figure, and to the pages on other data."
    found = [f"[the page with its runs and their provenance]({page})"] if page else []
    for kind in ("tables", "figures"):
        for other, _, _ in site.results[kind]:
            if other.startswith(stem + "_"):
                found.append(f"[{other.removeprefix(stem + '_')}]({kind}/{other}.ipynb)")
    return " · ".join(found)


def write(site):
    lines = board_lines("demo")
    found = board(lines)
    parts = [*TEXT, summary(lines), NOTE]
    titles = {d.notebook: f"{called(d.number).capitalize()}: {d.title}" for d in tables.definitions()}
    executed = {stem for kind in site.results for stem, _, done in site.results[kind] if done}
    for paper in dict.fromkeys([*PAPERS, *(stem.split("_")[0] for stem in found)]):
        mine = {stem: own for stem, own in found.items() if stem.split("_")[0] == paper}
        parts += [f"## {paper.upper()}", reasons(paper) if mine else "Its tables are being built."]
        for stem, own in mine.items():
            pages = [f"{kind}/{stem}.ipynb" for kind in ("tables", "figures")]
            page = next((page for page in pages if page in site.pages.values()), "")
            title = site.titles.get(page, titles.get(stem, stem)).removeprefix(f"{paper.upper()}, ")
            parts += [f"### {title}", links(site, stem, page), grid(own, stem in executed)]
    site.write("claims.md", "\n\n".join(p for p in parts if p) + "\n")
