"""Everything on the site that is no notebook: landing page, indexes, how-tos, decisions, claims, API."""

import re

import claims
from api import Api
from house import FLOORS, picture
from stage import DOCS, PAPERS, Site, same_code


def stage_all(site: Site | None = None) -> list[str]:
    "Stages the whole site. Returns links of the repository that lead nowhere."
    site = site or Site()
    site.titles = {
        page: site.title(site.root / path)[0] for path, page in site.pages.items() if path.endswith(".ipynb")
    }
    for path in site.library:
        site.notebook(path, mark=True)
    explore(site)
    for kind in site.results:
        results(site, kind)
    library(site)
    Api(site).write()
    claims.write(site)
    how_tos(site)
    landing(site)
    site.finish()
    return site.problems


def toctree(*entries, caption="", hidden=True) -> str:
    options = [":hidden:"] * hidden + [f":caption: {caption}"] * bool(caption)
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])


def item(site, page, here, extra="") -> str:
    "One line of an index: link, subtitle, whatever else."
    path = next(p for p, q in site.pages.items() if q == page and p.endswith(".ipynb"))
    title, below = site.title(site.root / path)
    target = page.removeprefix(here + "/")
    about = ": " + site.markdown(below, path, page) if below else ""
    return f"- [{title}]({target}){about} {extra}".rstrip()


def not_run(name) -> str:
    return (
        ":::{admonition} Not run yet\n:class: warning\n\nThis is the notebook as written: it has not been "
        "executed, so there are no results below. "
        f"To run it: `papermill {name} out.ipynb -p profile demo`.\n:::"
    )


def library(site):
    "The house as a picture, then its rooms floor by floor."
    lessons = {site.name(path): site.pages[site.name(path)] for path in site.library}
    page_of = {path: lessons[site.name(path)].removeprefix("library/") for path in site.library}
    house = picture(site.root, lambda path: page_of[path].replace(".ipynb", ".html"))
    parts = [
        "# The library, lesson by lesson",
        "> Each notebook is a part of the library: the code it exports, why it is so, and lessons around it.",
        "Read them in order, or start where your question is. Cells with a coloured edge are the library's "
        "own code. All of it runs on a fresh machine, on videos that the library makes itself "
        "([Puppets](clips/02_puppets.ipynb)).",
        "A room is a notebook and the module it exports. It imports only rooms before it on its own floor, "
        "or on the floors below; nothing outside *papers* knows a paper.",
        house,
    ]
    trees = []
    if first := [path for path in site.library if path.stem == "index"]:
        parts.append(item(site, lessons[site.name(first[0])], "library"))
        trees.append(toctree(page_of[first[0]].removesuffix(".ipynb")))
    for floor, about in FLOORS.items():
        own = [room.path for room in site.rooms if room.floor == floor]
        lines = [item(site, lessons[site.name(path)], "library") for path in own]
        parts += [f"## {floor.capitalize()}", f"*{about.capitalize()}.*", "\n".join(lines)]
        trees.append(
            toctree(*(page_of[path].removesuffix(".ipynb") for path in own), caption=floor.capitalize())
        )
    site.write("library/index.md", "\n\n".join([*parts, *trees]) + "\n")


ABOUT = {  # the head of the index
    "tables": (
        "# Tables",
        "> One notebook per table of a paper: what to run, our numbers beside the published ones, and the "
        "paper's claims tested.",
        "Shown is what the demo profile gave: small models on [puppets](../library/clips/02_puppets.ipynb), "
        "which stand in for the papers' data. Such numbers are to be compared with each other, not with the "
        "published ones. The [claims](../claims.md) of all tables are gathered on a page of their own.",
    ),
    "figures": ("# Figures", "> One notebook per figure of a paper, drawn anew."),
}


def results(site, kind):
    "Tables or figures: the executed notebook, or the source with a plain word that it was not run."
    rows, pages = [], []
    for stem, source, executed in site.results[kind]:
        note = ""
        if not executed:
            note = not_run(site.name(source))
        elif source and not same_code(source, executed):
            note = (
                ":::{admonition} Executed before the last change\n:class: note\n\n"
                "The notebook's code has changed since these results were made. "
                "They are shown as they were.\n:::"
            )
        path = executed or source
        site.notebook(path, note)
        page = site.pages[site.name(path)]
        pages.append(stem)
        rows.append(item(site, page, kind, "" if executed else "*Not run yet.*"))
    parts = [*ABOUT[kind], "\n".join(rows), toctree(*pages)]
    site.write(f"{kind}/index.md", "\n\n".join(parts) + "\n")


def explore(site):
    "Explorers are alive in Jupyter only; here one sees their code and their stored pictures."
    rows, pages, picture = [], [], DOCS / "explorer.jpg"
    for source, executed in site.explore:
        path = executed or source
        run = any(c.get("outputs") for c in site.read(path).cells)
        site.notebook(path, "" if run else not_run(site.name(source)))
        page = site.pages[site.name(path)]
        pages.append(page)
        rows.append(item(site, page, "explore", "" if run else "*Not run yet.*"))
    drawn = site.copy(picture, "images/explorer.jpg")
    parts = [
        "# Explore",
        "> Choose a clip and a method, move the sliders, and see the motion, the mask and the mix at once.",
        "Explorers are notebooks with controls. Start JupyterLab with `make lab` and open one of these; what "
        "this site shows are their stored pictures.",
        f"![The explorer in JupyterLab: controls, film strip, motion, mask and mix](../{drawn})",
        "\n".join(rows),
        toctree(*(page.removeprefix("explore/").removesuffix(".ipynb") for page in pages)),
    ]
    site.write("explore/index.md", "\n\n".join(parts) + "\n")


HOW_TOS = {  # file -> page
    "README.md": "start.md",
    "docs/decisions.md": "decisions.md",
    "docs/reliability.md": "reliability.md",
    "docs/howto_own_videos.md": "own_videos.md",
    "docs/howto_fifth_paper.md": "fifth_paper.md",
    "workflow/README.md": "cluster.md",
}


def how_tos(site):
    "The pages that stand in the repository as they are."
    for source, page in HOW_TOS.items():
        text = site.markdown((site.root / source).read_text(encoding="utf-8"), source, page)
        if source == "README.md":
            text = re.sub(r"^# .*$", "# Getting started", text, count=1, flags=re.M)
        site.write(page, text)


def methods(site) -> str:
    "The papers of the landing page: told by docs/methods, or else by the first lesson of a paper's folder."
    told = [paper(site, name) for name in PAPERS]
    folders = dict.fromkeys(room.paper for room in site.rooms if room.paper)
    return "\n\n".join([*told, *(untold(site, name) for name in folders if name not in PAPERS)])


def paper(site, name) -> str:
    "One paper: what it is about, a picture, the citation, what is here of it."
    head, _, text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8").partition("\n\n")
    about = dict(line.split(": ", 1) for line in head.splitlines())
    drawn = site.copy(DOCS / "pictures" / f"{name}.jpg", f"images/{name}.jpg")
    figure = f"```{{figure}} {drawn}\n:alt: {about['picture']}\n:class: method\n\n{about['picture']}\n```"
    return "\n\n".join(
        [f"### {name.upper()}", text.strip(), figure, f"{about['paper']}.", status(site, name)]
    )


def untold(site, name) -> str:
    "A paper of which docs/methods says nothing: the line below the title of its first lesson."
    first = next(room for room in site.rooms if room.paper == name)
    heading = re.sub(r"'s \w+$", "", first.title)  # of "The comparison's recipe", "The comparison"
    line = site.markdown(first.line, site.name(first.path), "index.md")
    return "\n\n".join([f"### {heading}", line, status(site, name)])


def status(site, name) -> str:
    "Links to the lessons, tables and figures of a paper, each with its title."
    lessons = [(site.pages[site.name(room.path)], True) for room in site.rooms if room.paper == name]
    parts = [("Lessons", lessons)]
    for kind in ("tables", "figures"):
        own = [entry for entry in site.results[kind] if entry[0].startswith(name + "_")]
        shown = [(site.pages[site.name(done or source)], bool(done)) for _, source, done in own]
        parts.append((kind.capitalize(), shown))
    lines = []
    for head, pages in parts:
        links = [named(site, page, name) + ("" if done else " (not run yet)") for page, done in pages]
        if links:
            lines += [
                f"**{head}**",
                "```{container} links\n" + "\n".join(f"- {link}" for link in links) + "\n```",
            ]
    return "\n\n".join(lines)


def named(site, page, name) -> str:
    "A link that says what it opens."
    title = site.titles[page]
    return f"[{title}'s method]({page})" if title == name.upper() else f"[{title}]({page})"


def glossary(site):
    "The words of the first notebook, as a page of their own."
    path = site.root / "nbs" / "index.ipynb"
    (words,) = (cell.source for cell in site.read(path).cells if cell.source.startswith("## Words\n"))
    words = site.markdown(words.removeprefix("## Words\n"), site.name(path), "glossary.md")
    site.write("glossary.md", f"# Glossary\n\n> One word for one thing, here and in the code.\n{words}\n")


def landing(site):
    text = (DOCS / "text" / "index.md").read_text(encoding="utf-8").replace("@@METHODS@@", methods(site))
    glossary(site)
    trees = [
        toctree(
            "Getting started <start>",
            "own_videos",
            "On a cluster <cluster>",
            "A fifth paper <fifth_paper>",
            caption="Use",
        ),
        toctree("tables/index", "figures/index", "claims", "explore/index", caption="Results"),
        toctree(
            "library/index",
            "glossary",
            "api/index",
            "Decisions <decisions>",
            "Reliability <reliability>",
            caption="Library",
        ),
    ]
    site.write("index.md", "\n\n".join([text, *trees]) + "\n")
