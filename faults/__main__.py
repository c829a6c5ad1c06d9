"""`python -m faults [NAME ...] [--seed N] [--minutes M]`: runs all campaigns, or the named ones, and counts.

Exits with 1 when something ended as it should not; what that was made of is kept in a folder, which is named.
All campaigns at full size also write their counts into docs/reliability.md.
"""

import argparse
import datetime
import importlib
import os
import pkgutil
import platform
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import faults

from ._cases import Place

FULL = 15  # minutes that all campaigns take on two idle cores
PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- counts -->", "<!-- end of counts -->"


def arguments(words: list, known: list) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m faults", description="Fault campaigns, counted.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(known)}; default: all")
    parser.add_argument("--seed", type=int, default=0, help="other cases; default %(default)s")
    parser.add_argument(
        "--minutes", type=float, default=FULL, help="for all campaigns on two idle cores; default %(default)s"
    )
    found = parser.parse_args(words)
    if unknown := set(found.names) - set(known):
        parser.error(f"no campaign named {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    if found.minutes <= 0:
        parser.error("--minutes must be more than 0")
    return found


# ---------------------------------------------------------------- words


def ends(counts) -> str:  # such as "sound 40, VideoError 12"
    return ", ".join(f"{how} {number:,}" for how, number in counts.most_common())


def table(rows: list) -> str:  # Markdown
    lines = ["| What is done | Times | Ended as it should | Wrong |", "|---|---:|---|---:|"]
    for row in rows:
        lines.append(f"| {row.what} | {row.tried:,} | {ends(row.ends)} | {row.wrong.total():,} |")
    right, wrong = sum(row.ends.total() for row in rows), sum(row.wrong.total() for row in rows)
    return "\n".join([*lines, f"| **all** | {right + wrong:,} | {right:,} | **{wrong:,}** |"])


def machine() -> str:
    "Versions and machine, in a sentence."
    import av
    import numpy
    import torch

    import mvnb
    from mvnb import runs, settings

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    decoder = ".".join(map(str, av.library_versions["libavcodec"]))
    return (
        f"mvnb {mvnb.__version__} (commit {runs.commit()}), Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, NumPy {numpy.__version__}, "
        f"PyAV {av.__version__} (libavcodec {decoder}), "
        f"{platform.system()} on {platform.machine()}, {settings.cores()} cores, {memory:.0f} GB of memory"
    )


def wrongs(rows: list) -> str:
    "What ended wrong, a line for each way, without paths."
    lines = [f"- {number}× {how}" for row in rows for how, number in row.wrong.most_common()]
    return re.sub(r"/\S*", "…", "\n".join(lines))


def write(rows: list, seed: int, seconds: float):
    "Puts the counts into the page."
    about = f"{datetime.date.today():%d %B %Y}, seed {seed}, {seconds / 60:.0f} minutes; {machine()}."
    parts = [BEGIN, f"Last run: {about}", table(rows)]
    if any(row.wrong for row in rows):
        parts += ["What ended wrong:", wrongs(rows)]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + "\n\n".join([*parts, END]) + after, encoding="utf-8")


# ---------------------------------------------------------------- work


def campaign(name: str, minutes: float, seed: int, folder: Path) -> list:  # of Row
    "Runs one campaign at its size for so many minutes."
    module = importlib.import_module(f"faults.{name}")
    cases = max(1, round(module.CASES * minutes / FULL))
    return module.run(cases, seed, Place.below(folder, name))


def main(words: list) -> int:
    known = sorted(m.name for m in pkgutil.iter_modules(faults.__path__) if not m.name.startswith("_"))
    args = arguments(words, known)
    folder = Path(tempfile.mkdtemp(prefix="mvnb-faults-"))
    begun, rows = time.monotonic(), []
    for name in args.names or known:
        rows += campaign(name, args.minutes, args.seed, folder)
    print(f"\n{table(rows)}\n\n{machine()}")
    if not args.names and args.minutes >= FULL:
        write(rows, args.seed, time.monotonic() - begun)
    for part in ("made", "work", "puppets"):
        shutil.rmtree(folder / part, ignore_errors=True)
    if not any(row.wrong for row in rows):
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"\nWhat ended wrong:\n{wrongs(rows)}\n\nKept, a folder for each: {folder / 'kept'}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
