"""The house: floors and rooms, each with the first line of its module; drawn for the site's library page.

A floor is a folder of nbs/, a room is a notebook that exports a module. On a floor, rooms stand in the order
of their file names; a paper's folder is one room after the other.
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

FLOORS = {
    "clips": "files in, batches out",
    "motion": "what moves, and which pixels to hide or keep",
    "learn": "networks, losses, training, and how a representation is judged",
    "results": "from a recipe to a verdict",
    "use": "what people run",
    "papers": "each paper in one place",
}  # from the ground up; a room imports rooms before it on its floor, and rooms on lower floors


@dataclass(frozen=True)
class Room:
    "A notebook that exports a module."

    floor: str
    path: Path  # of the notebook
    module: str  # without "mvnb."
    title: str
    line: str  # what it is, in one sentence

    @property
    def paper(self) -> str:
        "The paper whose folder it stands in, or nothing."
        return self.path.parent.name if self.path.parent.parent.name == "papers" else ""


def module_of(notebook) -> str:
    "The module that a notebook exports, or nothing."
    for cell in notebook.cells:
        if found := re.search(r"^#\|\s*default_exp\s+(\S+)", cell.source, re.M):
            return found[1].removesuffix(".__init__")
    return ""


def heading(notebook) -> tuple[str, str]:
    "(title, sentence below it) of a notebook, from its first cell."
    first = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    title = re.search(r"^#\s+(.+)$", first, re.M)
    below = re.search(r"^>\s*(.+)$", first, re.M)
    return title[1].strip() if title else "", below[1].strip() if below else ""


def rooms(root: Path) -> list[Room]:
    "All rooms of a repository, from the ground up."
    found = []
    for floor in FLOORS:
        for path in sorted((root / "nbs" / floor).rglob("*.ipynb")):
            if ".ipynb_checkpoints" in path.parts:
                continue
            notebook = nbformat.read(path, 4)
            if module := module_of(notebook):
                found.append(Room(floor, path, module, *heading(notebook)))
    return found


def picture(root: Path, link) -> str:
    "The house as HTML, the highest floor on top; `link(path)` is where a room's page is."
    every, rows = rooms(root), []
    for floor, about in reversed(FLOORS.items()):
        cells = []
        for room in (room for room in every if room.floor == floor):
            name, line = html.escape(room.module), html.escape(re.sub(r"[`*]", "", room.line))
            cells.append(
                f'<a class="room" href="{link(room.path)}"><code>{name}</code><span>{line}</span></a>'
            )
        head = f'<div class="floor-name"><strong>{floor}</strong><span>{html.escape(about)}</span></div>'
        rows.append(f'<div class="floor">{head}<div class="rooms">{"".join(cells)}</div></div>')
    return f'<div class="house">{"".join(rows)}</div>'
