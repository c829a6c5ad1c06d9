"""Faults, counted: what mvnb does with damaged files, hostile lists, kills and full disks.

Each module is a campaign with `TITLE`, `CASES` (how many at 15 minutes) and
`run(cases, seed, place) -> list of Row`. `python -m faults` runs them and writes docs/reliability.md.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes: forked processes must not inherit its threads
os.environ["MVNB_RUN_JOBS"] = "1"
