"""The scoreboard: what the papers claim, and how each claim fared here (`mvnb.claims.scoreboard`).

A table that was executed before its verdicts were written beside it is read from its page.
"""

import csv
import html
import re

import nbformat

from mvnb.claims import scoreboard
from mvnb.tables import SAID_BY, called, definitions
from stage import PAPERS, order

VERDICTS = ("holds", "fails", "undecided", "not judged", "not run")
ORIGINS = {"paper": SAID_BY["text"], "ours, not the paper's": SAID_BY["ours"]}  # words of older pages
SAID = re.compile(rf"({'|'.join(VERDICTS)})(?: \((.*)\))?")


def from_page(path) -> list[dict]:
    "Claims of an executed table notebook, from the text of its table of claims."
    for cell in reversed(nbformat.read(path, 4).cells):
        for output in cell.get("outputs", []):
            lines = [
                l for l in output.get("data", {}).get("text/plain", "").splitlines() if l.startswith("|")
            ]
            rows = [[c.strip() for c in l.strip("|").split("|")] for l in lines]
            if rows and rows[0][:1] == ["claim"]:
                return [dict(zip(rows[0], row)) for row in rows[2:]]
    return []


def from_file(path) -> list[dict]:
    "Claims of a figure, from the verdicts beside its executed notebook: one line per claim and data set, as of a table."
    out = {}
    with open(path, newline="", encoding="utf-8") as file:
        for l in csv.DictReader(file):
            line = out.setdefault(
                (l["claim"], l["published_on"], l["measured_on"], l["seeds"]),
                {
                    "claim": l["claim"],
                    "by": l["by"],
                    "published on": l["published_on"],
                    "published gap": l["published_gap"],
                    "measured on": l["measured_on"] or "not run",
                },
            )
            said = (
                l["verdict"]
                if l["verdict"].startswith("not")
                else f"{l['verdict']} ({float(l['gap']):+.1f} ± {float(l['margin']):.1f})"
            )
            line[l["test"] if l["test"] in ("test", "") else f"{l['test']} test"] = said
            line |= {k: l[k] for k in ("seeds", "device", "commit")}
    return list(out.values())


def board(site) -> dict[str, list[dict]]:
    "Stem of a table or figure -> its claims, in the papers' order, tables first."
    stems = {(d.paper, d.number): d.notebook for d in definitions()}
    out = {}
    for line in scoreboard("demo").to_dict("records"):
        out.setdefault(stems[line.pop("paper"), line.pop("table")], []).append(line)
    executed = {stem: path for stem, _, path in site.results["tables"]}
    for stem, lines in out.items():
        if (
            executed.get(stem)
            and all(l["measured on"] == "not run" for l in lines)
            and (seen := from_page(executed[stem]))
        ):
            out[stem] = seen
    out = {stem: out[stem] for stem in sorted(out, key=order)}
    for stem, _, _ in site.results["figures"]:
        path = site.root / "outputs" / "demo" / f"{stem}.claims.csv"
        if path.is_file() and (lines := from_file(path)):
            out[stem] = lines
    named = {d.notebook: d for d in definitions()}
    return {stem: attributed(lines, named.get(stem)) for stem, lines in out.items()}


def attributed(lines: list[dict], definition) -> list[dict]:
    "The same claims, each with who says so: as the definition has it now, or as its page said."
    now = {claim.text: SAID_BY[claim.by] for claim in definition.claims} if definition else {}
    said = [now.get(line["claim"]) or ORIGINS.get(line["by"], line["by"]) for line in lines]
    return [line | {"by": by} for line, by in zip(lines, said)]


def verdicts(lines) -> list[str]:
    "All verdicts of some claims; a claim that was not run is one."
    said = [
        [m[1] for v in line.values() if isinstance(v, str) and (m := SAID.fullmatch(v))] for line in lines
    ]
    return [v for each in said for v in (each if set(each) - {"not run"} else each[:1])]


def badge(verdict: str) -> str:
    return f'<span class="verdict {verdict.replace(" ", "-")}">{html.escape(verdict)}</span>'


def counts(lines) -> str:
    found = verdicts(lines)
    return (
        '<p class="score">'
        + " ".join(f"{badge(v)} {found.count(v)}" for v in VERDICTS if v in found or v in VERDICTS[:3])
        + "</p>"
    )


def by_origin(lines) -> str:
    "The counts of each origin apart: what a paper's text says, what is read from its tables, what is ours."
    parts = []
    for origin in SAID_BY.values():
        its = [line for line in lines if line["by"] == origin]
        if its:
            parts.append(f"<p>{html.escape(origin.capitalize())}:</p>" + counts(its))
    return "\n".join(parts)


def shown(value) -> str:
    "A cell: verdicts as badges with their statistic, anything else as text."
    text = str(value)
    found = SAID.fullmatch(text)
    if not found:
        return html.escape(text)
    return badge(found[1]) + (f' <span class="statistic">{html.escape(found[2])}</span>' if found[2] else "")


def grid(lines) -> str:
    "Claims of one table; columns that say the same in each line, or nothing, go into the caption."
    columns = [c for c in dict.fromkeys(k for l in lines for k in l) if any(str(l.get(c, "")) for l in lines)]
    same = {
        c: str(lines[0][c])
        for c in ("by", "measured on", "seeds", "device", "commit")
        if c in columns and len({str(l.get(c, "")) for l in lines}) == 1
    }
    columns = [c for c in columns if c not in same]
    td = lambda v: f"<td{' class=short' if len(str(v)) <= 26 else ''}>{shown(v)}</td>"
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(td(l.get(c, "")) for c in columns) + "</tr>" for l in lines)
    about = "; ".join(
        f"{c} {v}"
        for c, v in same.items()
        if c in ("measured on", "seeds", "device", "commit") and v != "not run"
    )
    if same.get("measured on") == "not run":
        about = "Not run yet."
    return (
        f'<div class="scroll"><table class="docutils claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + (f'\n\n<p class="about">{html.escape(about)}</p>' if about else "")
    )


def write(site):
    found = board(site)
    everything = [l for lines in found.values() for l in lines]
    parts = [
        "# Claims",
        "> What the papers conclude from their tables, tested here.",
        "A claim is an inequality between rows of a table (or between the things a figure shows), such as *merging with another video's background beats the same video's*. It is tested on each test "
        "set of the demo, on the same videos for both rows. It **holds** or **fails** when the gap is larger than its margin of error, and is **undecided** "
        "otherwise; a failed claim is shown as failed. Gap ± margin are percentage points. How the margin is computed, and what one seed can and cannot "
        "decide, is in [Claims](library/results/34_claims.ipynb).",
        "Verdicts are about small models on [puppets](library/clips/02_puppets.ipynb), not about the papers' networks on the papers' data.",
        "A claim is *the paper's text* where the authors say so, *read from its table* where we conclude it from their numbers, and *ours* otherwise.",
        by_origin(everything),
    ]
    titles = {d.notebook: f"{called(d.number).capitalize()}: {d.title}" for d in definitions()}
    for paper in dict.fromkeys([*PAPERS, *(stem.split("_")[0] for stem in found)]):
        mine = {stem: lines for stem, lines in found.items() if stem.split("_")[0] == paper}
        name = paper.upper()
        parts += [
            f"## {name}",
            by_origin([l for lines in mine.values() for l in lines])
            if mine
            else "Its tables are being built.",
        ]
        for stem, lines in mine.items():
            page = next(
                (
                    f"{kind}/{stem}.ipynb"
                    for kind in ("tables", "figures")
                    if f"{kind}/{stem}.ipynb" in site.pages.values()
                ),
                "",
            )
            links = [f"[the page with its runs and their provenance]({page})"] if page else []
            links += [
                f"[{s.removeprefix(stem + '_')}]({kind}/{s}.ipynb)"
                for kind in ("tables", "figures")
                for s, _, _ in site.results[kind]
                if s.startswith(stem + "_")
            ]
            parts += [
                f"### {site.titles.get(page, titles.get(stem, stem)).removeprefix(name + ', ')}",
                " · ".join(links),
                grid(lines),
            ]
    site.write("claims.md", "\n\n".join(p for p in parts if p) + "\n")
