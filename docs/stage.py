"""Gathers the site's pages in docs/_stage: notebooks as they were executed, repository pages, generated ones.

Notebooks come by their folders (the floors of the house, nbs/tables, nbs/figures, nbs/explore, a paper's own
pages, outputs/demo): a new one is on the site without a change here. What readers need not see goes:
directive lines, hidden cells, progress bars, paths of the machine.
"""

import ast
import os
import re
import shutil
from pathlib import Path, PurePosixPath

import nbformat

from house import heading, module_of, rooms

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
STAGE = Path(os.environ.get("MVNB_DOCS_STAGE") or DOCS / "_stage")
PAPERS = sorted(path.stem for path in (DOCS / "methods").glob("*.md"))  # those that the landing page tells of
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"^.*\d+%\|.*$\n?", re.M)
DIRECTIVE = re.compile(r"^\s*#\s*\|.*$\n?", re.M)


def places() -> list[str]:
    "Folders of the machine that must not show, the longest first."
    found = {str(ROOT), str(Path.home()), *(os.path.realpath(p) for p in (ROOT, Path.home()))}
    return sorted(found - {"/"}, key=len, reverse=True)


def tidy_text(text: str) -> str:
    "Output text without progress bars and without the machine's paths."
    text = "\n".join(line.rsplit("\r", 1)[-1] for line in text.split("\n")) if "\r" in text else text
    text = BAR.sub("", text)
    for place in places():
        text = text.replace(place, "…")
    return re.sub(r"/tmp/[\w.-]+", "/tmp/…", text)


class Site:
    "The pages of one build: what becomes which page, and what was written."

    def __init__(self, root: Path = ROOT, stage: Path = STAGE):
        self.root, self.stage = root, stage
        self.pages: dict[str, str] = {}  # path in the repository -> page, both posix, relative
        self.written: set[Path] = set()
        self.problems: list[str] = []
        self.cells: dict[str, str] = {}  # "module.name" -> label of the notebook cell that defines it
        self.variants: dict[
            str, str
        ] = {}  # stem of an executed notebook -> the data it was run on, where that is not the usual
        self.modules: dict[str, str] = {}  # module -> its notebook, in reading order
        self._collect()

    def _collect(self):
        nbs = self.root / "nbs"
        self.rooms = rooms(self.root)
        index = nbs / "index.ipynb"
        self.library = [*([index] if index.is_file() else []), *(room.path for room in self.rooms)]
        done = self.root / "outputs" / "demo"
        self.explore = [
            (p, own if (own := done / f"explore_{p.name}").is_file() else None)
            for p in sorted((nbs / "explore").glob("*.ipynb"))
        ]
        self.results = {kind: self._results(kind) for kind in ("tables", "figures")}
        for path in self.library:
            place = "overview.ipynb" if path == index else path.relative_to(nbs).as_posix()
            self.pages[self.name(path)] = f"library/{place}"
        for source, executed in self.explore:
            for path in (source, executed):
                if path:
                    self.pages[self.name(path)] = f"explore/{source.name}"
        for kind, entries in self.results.items():
            for stem, source, executed in entries:
                for path in (source, executed):
                    if path:
                        self.pages[self.name(path)] = f"{kind}/{stem}.ipynb"
        self.pages |= {
            "README.md": "start.md",
            "docs/decisions.md": "decisions.md",
            "docs/reliability.md": "reliability.md",
            "nbs": "library/index.md",
            "docs/howto_fifth_paper.md": "fifth_paper.md",
            "mvnb": "api/index.md",
            "nbs/tables": "tables/index.md",
            "nbs/figures": "figures/index.md",
            "nbs/explore": "explore/index.md",
            "outputs": "tables/index.md",
            "outputs/demo": "tables/index.md",
            "docs": "index.md",
            "workflow": "cluster.md",
            "workflow/README.md": "cluster.md",
            "docs/howto_own_videos.md": "own_videos.md",
        }

    def _results(self, kind):
        "(stem, source or None, executed or None) of tables or figures, in the papers' order."
        word = {"tables": "table", "figures": "figure"}[kind]
        own = (self.root / "nbs" / "papers").glob(f"*/*_{word}[0-9]*.ipynb")  # a paper may keep its own pages
        sources = {p.stem: p for p in (*(self.root / "nbs" / kind).glob("*.ipynb"), *own)}
        done = {p.stem: p for p in (self.root / "outputs" / "demo").glob("*.ipynb")}
        stems = sorted(
            {*sources, *(s for s in done if s in sources or re.match(rf"[a-z]+_(s_)?{word}\d", s))}, key=order
        )
        for stem in stems:  # an executed notebook on other data than the profile's own bears the data's name
            of = max((s for s in sources if stem.startswith(s + "_")), key=len, default="")
            if stem not in sources and of:
                self.variants[stem] = stem.removeprefix(of + "_").replace("_", ", ")
        return [(stem, sources.get(stem), done.get(stem)) for stem in stems]

    def read(self, path: Path):
        return nbformat.read(path, 4)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    # writing

    def write(self, page: str, text: str):
        "Writes a page; one that has not changed keeps its time, so that Sphinx skips it."
        path = self.stage / page
        self.written.add(path)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def copy(self, source: Path, target: str) -> str:
        path = self.stage / target
        self.written.add(path)
        if not path.is_file() or path.read_bytes() != source.read_bytes():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
        return target

    def finish(self):
        "Removes what an earlier build left and this one did not write."
        for path in sorted(self.stage.rglob("*"), reverse=True):
            if path.is_file() and path not in self.written:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    # links

    def markdown(self, text: str, source: str, page: str) -> str:
        "Markdown of the repository with its links turned to the site's pages, or to copies of the files."
        parts = re.split(r"(^(?:```|~~~).*?^(?:```|~~~)[ \t]*$|`+[^`]*`+)", text, flags=re.M | re.S)
        link = lambda m: m[1] + self._target(m[2], source, page) + m[3]
        for i in range(0, len(parts), 2):
            parts[i] = re.sub(r"(\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))", link, parts[i])
            parts[i] = re.sub(r"(<img\b[^>]*?\bsrc=\")([^\"]+)(\")", link, parts[i])
        # link texts may hold code: [`name`](target) was split at the code and its target is in the next part
        return "".join(parts)

    def _target(self, target: str, source: str, page: str) -> str:
        if re.match(r"[a-z][a-z0-9+.-]*:|#", target, re.I):
            return target
        path, _, anchor = target.partition("#")
        path = os.path.normpath(str(PurePosixPath(source).parent / PurePosixPath(path)))
        if path in self.pages:
            there = self.pages[path]
        elif (self.root / path).is_file():
            there = self.copy(self.root / path, f"files/{path}")
        else:
            self.problems.append(f"{source} links to {target}, and there is no {path} that could be shown")
            return target
        there = os.path.relpath(there, PurePosixPath(page).parent)
        return there + (f"#{anchor}" if anchor else "")

    # notebooks

    def notebook(self, path: Path, note: str = "", mark: bool = False):
        "Stages a notebook. `note` goes below the title; `mark` gives cells with definitions an anchor."
        page, nb = self.pages[self.name(path)], nbformat.read(path, 4)
        module, cells, section = module_of(nb), [], path.stem
        for i, cell in enumerate(nb.cells):
            if cell.cell_type == "markdown":
                cell.source = self.markdown(cell.source, self.name(path), page).strip()
                if found := re.findall(r"^#{1,6}\s+(.+)$", cell.source, re.M):
                    section = re.sub(r"[`*]", "", found[-1])
                if cell.source:
                    cells.append(_bare(cell))
                continue
            if cell.cell_type != "code":
                continue
            words = {
                w
                for line in DIRECTIVE.findall(cell.source)
                for w in re.split(r"[\s:]+", line.split("|", 1)[1].strip())[:1]
            }
            source = tidy_text(DIRECTIVE.sub("", cell.source).strip("\n"))
            if words & {"hide", "default_exp"} and (not source.strip() or "hide" in words):
                continue
            if (
                "injected-parameters" in cell.metadata.get("tags", [])
                and i
                and _says_the_same(nb.cells[i - 1].source, cell.source)
            ):
                continue
            outputs = [o for o in map(_tidy_output, cell.outputs) if o]
            if not source.strip() and not outputs:
                continue
            exported = bool(words & {"export", "exports", "exporti"})
            if mark and exported and (names := _defined(source)):
                label = f"{self.name(path).removesuffix('.ipynb').replace('/', '-')}-cell-{i}"
                self.cells |= {f"{module}.{n}": label for n in names}
                cells.append(nbformat.v4.new_markdown_cell(f"({label})="))
            cell = _bare(cell, exported)
            cell.source, cell.outputs, cell.execution_count = source, outputs, None
            if any({"image/png", "image/jpeg"} & set(o.get("data", {})) for o in outputs):
                cell.metadata["mystnb"] = {
                    "image": {"alt": f"Picture drawn by the cell above, in the section “{section}”"}
                }
            cells.append(cell)
        if module:
            self.modules[module] = page
        extra = f"*Every parameter: [the API of mvnb.{module}](#api-{module}).*" if module and mark else ""
        if note or extra:
            cells.insert(1, nbformat.v4.new_markdown_cell("\n\n".join(t for t in (note, extra) if t)))
        if path.stem in self.variants and cells:
            cells[0].source = re.sub(
                r"^(#\s.+)$", rf"\1, on {self.variants[path.stem]}", cells[0].source, count=1, flags=re.M
            )
        nb.cells = cells
        for n, cell in enumerate(nb.cells):
            cell["id"] = f"c{n}"
        nb.metadata = nbformat.NotebookNode(
            kernelspec=dict(name="python3", display_name="Python 3", language="python"),
            language_info=dict(name="python", pygments_lexer="ipython3"),
        )
        self.write(page, nbformat.writes(nb, 4) + "\n")

    def title(self, path: Path) -> tuple[str, str]:
        "(title, subtitle) of a notebook, from its first cell."
        title, below = heading(nbformat.read(path, 4))
        on = f", on {self.variants[path.stem]}" if path.stem in self.variants else ""
        return (title or path.stem) + on, below


def order(stem):
    paper = stem.split("_")[0]
    number = re.search(r"(?:table|figure)(\d+)", stem)
    return (
        PAPERS.index(paper) if paper in PAPERS else len(PAPERS),
        "_s_" in stem,
        int(number[1]) if number else 99,
        stem,
    )


def _bare(cell, exported=False):
    cell.metadata = nbformat.NotebookNode(tags=["library-code"] if exported else [])
    cell.pop("attachments", None) if not cell.get("attachments") else None
    return cell


def _defined(source: str) -> list[str]:
    "Names that a cell defines at its top level."
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []  # a cell with magics
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return list(dict.fromkeys(names))


def _values(source: str) -> dict:
    try:
        return {
            n.targets[0].id: ast.dump(n.value)
            for n in ast.parse(source).body
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
        }
    except SyntaxError:
        return {}


def _says_the_same(defaults: str, injected: str) -> bool:
    "Whether papermill's cell repeats the defaults above it."
    values = _values(injected)
    return bool(values) and values.items() <= _values(defaults).items()


def _tidy_output(output):
    "An output as a reader wants it, or None."
    if output.output_type == "stream":
        output.text = tidy_text(output.text)
        return output if output.text.strip() else None
    data = output.get("data")
    if data is None:  # an error that a lesson shows
        output.traceback = [tidy_text(line) for line in output.get("traceback", [])]
        return output
    if WIDGET in data:
        return None  # a progress bar or a control: dead without a kernel
    for kind in [k for k in data if k.startswith("text/") or k == "image/svg+xml"]:
        text = tidy_text(data[kind])
        if kind == "text/html":
            text = _tidy_html(text)
        data[kind] = text
    if not any(str(v).strip() for v in data.values()):
        return None
    if "image/png" in data or "image/jpeg" in data:
        data.pop("text/html", None)
    output.metadata = nbformat.NotebookNode()
    if output.output_type == "execute_result":
        output.execution_count = None
    return output


def _tidy_html(text: str) -> str:
    "Tables without styles and borders of their own; the site has one look for all."
    text = re.sub(r"<style\b.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<script\b.*?</script>", "", text, flags=re.S)
    text = re.sub(r'\s(?:style|border|halign|valign)="[^"]*"', "", text)
    return re.sub(r'\sid="T_[^"]*"', "", text).strip()


def same_code(one: Path, other: Path) -> bool:
    "Whether two notebooks have the same code, however it is formatted; papermill's parameters aside."

    def code(path):
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        cells = [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]
        try:
            return [ast.dump(ast.parse(c.source)) for c in cells]
        except SyntaxError:  # cells with magics
            return [c.source.strip() for c in cells]

    return code(one) == code(other)
