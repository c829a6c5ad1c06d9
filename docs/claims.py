"""The scoreboard: what the papers claim, and how each claim fared here.

The verdicts are data: outputs/demo/*.claims.csv, written with each executed table. A table that was executed before there
were such files is read from its page.
"""
import csv
import html
import re
from pathlib import Path

import nbformat

from stage import PAPERS

VERDICTS = ("holds", "fails", "undecided", "not judged")
FULL = {"mac": "MAC", "fame": "FAME", "mgm": "MGM", "mcl": "MCL"}


def from_page(path: Path) -> list[dict]:
    "Claims of an executed table notebook, from the text of its table of claims."
    for cell in reversed(nbformat.read(path, 4).cells):
        for output in cell.get("outputs", []):
            lines = [l for l in output.get("data", {}).get("text/plain", "").splitlines() if l.startswith("|")]
            rows = [[c.strip() for c in l.strip("|").split("|")] for l in lines]
            if rows and rows[0][:1] == ["claim"]: return [r for line in rows[2:] for r in _judged(dict(zip(rows[0], line)))]
    return []


def _judged(line):
    "One row per test of a claim."
    for column, text in line.items():
        found = re.fullmatch(r"(holds|fails|undecided|not judged)(?: \((.*)\))?", text)
        if found: yield {**{k: v for k, v in line.items() if not k.endswith("test")}, "test": column.removesuffix(" test"), "verdict": found[1], "statistic": found[2] or ""}


def rows(site) -> dict[str, list[dict]]:
    "Stem of a table -> its judged claims."
    out = {}
    for stem, _, executed in site.results["tables"]:
        table = site.root / "outputs" / "demo" / f"{stem}.claims.csv"
        if table.is_file():
            with open(table, newline="", encoding="utf-8") as file: out[stem] = [dict(r) for r in csv.DictReader(file)]
        elif executed: out[stem] = from_page(executed)
    return {k: v for k, v in out.items() if v}


def badge(verdict: str) -> str: return f'<span class="verdict {verdict.replace(" ", "-")}">{html.escape(verdict)}</span>'


def counts(lines) -> str:
    return " ".join(f"{badge(v)} {n}" for v in VERDICTS if (n := sum(l.get("verdict") == v for l in lines)) or v != "not judged")


def grid(lines) -> str:
    hidden = {"paper", "number", "table", "notebook", "profile", "seeds", "device", "commit"}
    columns = [c for c in dict.fromkeys(k for l in lines for k in l) if c not in hidden and any(l.get(c) for l in lines)]
    columns = [c for c in columns if c != "verdict"] + ["verdict"]
    text = lambda c, v: badge(v) if c == "verdict" else html.escape(v or "")
    head = "".join(f"<th>{html.escape(c.replace('_', ' '))}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(c, l.get(c, ''))}</td>" for c in columns) + "</tr>" for l in lines)
    return f'<div class="scroll"><table class="docutils claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def write(site):
    found = rows(site)
    everything = [l for lines in found.values() for l in lines]
    parts = ["# Claims", "> What the papers conclude from their tables, tested here.",
             "A claim is an inequality between rows of a table: *merging with another video's background beats the same video's*. Each is tested on each test "
             "set of the demo, on the same videos for both rows. It **holds** or **fails** when the gap is larger than its margin of error, and is **undecided** "
             "otherwise; a failed claim is shown as failed. How the margin is computed, and what one seed can and cannot decide, is in [Tables](library/82_tables.ipynb#claims).",
             "Verdicts are about small models on [puppets](library/02_puppets.ipynb), not about the papers' networks on the papers' data."]
    if not everything: parts.append("No table has been executed yet, so there is nothing to judge.")
    else: parts.append(f'<p class="score">{counts(everything)}</p>')
    for paper in (*PAPERS, *sorted({s.split("_")[0] for s in found} - set(PAPERS))):
        mine = {s: l for s, l in found.items() if s.split("_")[0] == paper}
        if not mine:
            if paper in FULL: parts += [f"## {FULL[paper]}", "No table of this paper has been executed yet."]
            continue
        parts += [f"## {FULL.get(paper, paper)}", f'<p class="score">{counts([l for lines in mine.values() for l in lines])}</p>']
        for stem, lines in mine.items():
            page = f"tables/{stem}.ipynb"
            parts += [f"### {site.titles.get(page, stem).removeprefix(FULL.get(paper, paper) + ', ')}", f"[The table, its runs and its provenance]({page})", grid(lines)]
    site.write("claims.md", "\n\n".join(parts) + "\n")
