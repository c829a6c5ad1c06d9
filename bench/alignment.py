"""Motion alignment beside a contrastive step without it, in processor time with one thread.

The step is that of MCL on R(2+1)D-50: a query forwards and backwards, a key forwards, then the queue. Clips
are small (16x112x112, four of them), which leaves the alignment a larger share than at 224x224.
"""

import time

import torch

from mvnb.losses import TERMS
from mvnb.papers.mcl.method import MCL

BATCH, FRAMES, SIZE, TARGET = 4, 16, 112, 60.0
PLAIN = dict(gray=0.0, p_jitter=0.0, blur=0.0, flip=0.0)


def random_batch(batch=BATCH, frames=FRAMES, size=SIZE, seed=0) -> dict:
    "Random clips with random motion maps, as the loader gives them."
    make = torch.Generator().manual_seed(seed)
    clip = torch.randint(0, 256, (batch, 2, 3, frames, size, size), dtype=torch.uint8, generator=make)
    maps = torch.rand(batch, 2, frames, size // 8, size // 8, generator=make)
    return {"clip": clip, "map": maps, "index": torch.arange(batch), "epoch": 0, "step": 0}


def best(functions, repeats) -> dict:
    "Least processor time of every function over `repeats` rounds, all called in turn."
    least = {}
    for number in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            spent = time.process_time() - start
            if number:  # the first round warms up
                least[name] = min(least.get(name, spent), spent)
    return least


def run(repeats=3) -> list:
    "Rows of the bench: what the alignment adds to a step, for each variant, and seconds per step."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    kinds = {"contrast": dict(terms=())}
    kinds |= {f"variant {number}": dict(terms=TERMS, variant=f"v{number}") for number in (1, 2, 3)}
    methods = {
        name: MCL("r2plus1d_50", photometric=PLAIN, **options).train() for name, options in kinds.items()
    }
    batch = random_batch()
    steps = {name: lambda method=method: method(batch)["loss"].backward() for name, method in methods.items()}
    spent = best(steps, repeats)
    torch.set_num_threads(threads)
    rows = []
    for name in list(kinds)[1:]:
        more = 100 * (spent[name] / spent["contrast"] - 1)
        what = f"motion alignment, {name}: added to a contrastive step"
        rows.append(dict(name=what, value=more, target=TARGET, unit="%", ok=more <= TARGET))
    for name, seconds in spent.items():
        rows.append(dict(name=f"a step, {name}", value=seconds, target=None, unit="s", ok=True))
    return rows
