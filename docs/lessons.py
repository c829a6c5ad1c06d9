"""Executes the lessons anew, since the site shows what they printed last.

.venv/bin/python docs/lessons.py [NOTEBOOK ...] [--jobs 2]

A lesson runs in its own folder, with the cells that tests leave out. What they printed is written when all of
them have ended, so they name a commit without changes. One that fails stays as it was.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from tqdm.auto import tqdm

from mvnb.cli import _this_kernel
from stage import BAR, ROOT

NBS = ROOT / "nbs"
PAGES = {"tables", "figures", "explore"}  # are executed by `mvnb table`, `figure` and `explore`


def lessons() -> list[Path]:
    "The notebooks that are no pages."
    found = (path.relative_to(NBS) for path in NBS.rglob("*.ipynb"))
    hidden = (path for path in found if not any(part.startswith((".", "_")) for part in path.parts))
    return sorted(NBS / path for path in hidden if not PAGES & {*path.parts})


def is_bar(output) -> bool:
    "Whether an output is a progress bar."
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return bool(text) and not BAR.sub("", text.replace("\r", "\n")).strip()


def executed(path: Path):  # its notebook
    "A lesson with the outputs of its cells, without progress bars and the state of widgets."
    notebook = nbformat.read(path, 4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
    notebook.metadata.pop("widgets", None)
    return notebook


def main(argv=None) -> int:
    p = argparse.ArgumentParser(description="Execute the lessons anew.")
    p.add_argument("notebooks", nargs="*", type=Path, help="default: all of them")
    p.add_argument("--jobs", type=int, default=2, help="at once")
    args = p.parse_args(argv)
    chosen = [path.resolve() for path in args.notebooks] or lessons()
    done = {}
    with _this_kernel(), ProcessPoolExecutor(args.jobs) as pool:
        running = {pool.submit(executed, path): path for path in chosen}
        for ended in tqdm(as_completed(running), total=len(running), unit="lesson", mininterval=0.5):
            path = running[ended]
            try:
                done[path] = ended.result()
            except (CellExecutionError, DeadKernelError) as error:
                tqdm.write(f"{path} failed: {error}", file=sys.stderr)
    for path, notebook in done.items():
        nbformat.write(notebook, path)
        subprocess.run([Path(sys.executable).with_name("nbdev-clean"), "--fname", path], check=True)
    return int(len(done) < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
