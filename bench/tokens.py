"""Token masks for a batch beside the pretraining step that they are for, in processor time with one thread.

Masks are made for 64 clips of 8x14x14 tokens, from vectors where they are guided. The step is that of a ViT-B
with three quarters hidden, forward and backward, measured on one clip and taken times 64.
"""

import time

import torch

from mvnb import models, tokens, vit

BATCH, GRID, TARGET = 64, (8, 14, 14), 2.0


def seconds(call, repeats) -> float:
    "Least processor time of a call, after one that is not counted."
    call()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return min(spent)


def step_seconds(ratio=0.75, repeats=2) -> float:
    "A pretraining step of a ViT-B on one clip."
    network = vit.MAE(models.build("vit_base")).train()
    clip = torch.randn(1, 3, 16, 224, 224)
    mask = tokens.random_tokens(GRID, ratio, 1)
    return seconds(
        lambda: network(clip, mask, tokens.hidden_count("random", GRID, ratio)).loss.backward(), repeats
    )


def run(repeats=5) -> list:
    "Rows of the bench: each mask's share of a step, and its milliseconds per batch."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    step = BATCH * step_seconds()
    field = torch.randn(BATCH, 16, 2, 28, 28)
    known = torch.ones(BATCH, 16, 28, 28, dtype=torch.bool)
    rows = []
    for name, kind in tokens.TOKENS.items():

        def make(name=name, guided=kind.guided):
            given = dict(motion=tokens.tubelet_motion(field, known)) if guided else dict(batch=BATCH)
            return tokens.token_mask(name, GRID, **given)

        spent = seconds(make, repeats)
        share = 100 * spent / step
        what = f"token mask {name}, {BATCH} clips"
        rows.append(
            dict(name=f"{what}: of a ViT-B step", value=share, target=TARGET, unit="%", ok=share <= TARGET)
        )
        rows.append(dict(name=what, value=1e3 * spent, target=None, unit="ms", ok=True))
    torch.set_num_threads(threads)
    return rows
