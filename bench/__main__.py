"""`python -m bench [name ...]`: runs all bench modules, or those named, and prints values beside targets.

Exits with 1 when a target is missed. Times differ between machines and moments; a ratio comes from one run.
"""

import importlib
import pkgutil
import platform
import sys
import time

import torch

import bench


def main(names):
    known = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    if unknown := set(names) - set(known):
        sys.exit(f"no bench named {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    missed = 0
    for name in names or known:
        start = time.time()
        print(f"\n{name}", flush=True)
        for row in importlib.import_module(f"bench.{name}").run():
            missed += not row["ok"]
            said = "ok    " if row["ok"] else "MISSED"
            what = f"{row['value']:.3g} {row['unit']} (target {row['target']})"
            print(f"  {said} {row['name']}: {what}", flush=True)
        print(f"  {time.time() - start:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
