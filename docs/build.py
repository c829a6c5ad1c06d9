"""Builds the site offline: stages the pages, then runs Sphinx with warnings as errors.

.venv/bin/python docs/build.py [--fresh] [--out FOLDER]
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))


def main(argv=None) -> int:
    p = argparse.ArgumentParser(description="Build the site into docs/_build/html.")
    p.add_argument("--fresh", action="store_true", help="forget earlier builds")
    p.add_argument("--out", type=Path, default=DOCS / "_build" / "html", help="where the pages go")
    args = p.parse_args(argv)
    start = time.monotonic()
    from pages import stage_all
    from stage import STAGE

    trees = args.out.parent / "doctrees"
    made, ours = (
        args.out / "index.html",
        [p for p in DOCS.rglob("*") if p.suffix in (".py", ".css") and STAGE not in p.parents],
    )
    again = not made.is_file() or any(
        p.stat().st_mtime > made.stat().st_mtime for p in ours
    )  # Sphinx does not see how pages are made
    if args.fresh:
        for folder in (STAGE, args.out, trees):
            shutil.rmtree(folder, ignore_errors=True)
    print("Gathering the pages", flush=True)
    problems = stage_all()
    for problem in problems:
        print("dead link:", problem, file=sys.stderr)
    staged = time.monotonic()
    code = subprocess.call(
        [
            sys.executable,
            "-m",
            "sphinx",
            *["-E", "-a"] * again,
            "-b",
            "html",
            "-W",
            "--keep-going",
            "-q",
            "-j",
            "2",
            "-c",
            str(DOCS),
            "-d",
            str(trees),
            str(STAGE),
            str(args.out),
        ]
    )
    done = "Failed" if code or problems else f"Built {args.out / 'index.html'}"
    end = time.monotonic()
    print(f"{done} in {end - start:.0f} s ({staged - start:.0f} s gathering, {end - staged:.0f} s Sphinx)")
    return 1 if code or problems else 0


if __name__ == "__main__":
    sys.exit(main())
