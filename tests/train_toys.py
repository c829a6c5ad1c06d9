"A data set and methods small enough to train in a blink; shared by the training tests and their processes."

import types

import numpy as np
import torch
from torch import nn


class Toy:
    "Random clips whose label is a function of them; offers what mvnb.clips offers."

    hash = "toy"

    def __init__(self, n=32, views=1):
        self.n, self.views, self.failed, self.asked = n, views, {}, []

    def __len__(self):
        return self.n

    def sample(self, i, epoch):
        clip = np.random.default_rng((int(i), epoch)).integers(
            0, 256, (self.views, 3, 4, 8, 8), dtype=np.uint8
        )
        return torch.from_numpy(clip), int(i) % 3

    def steps_per_epoch(self, batch_size, world=1, drop_last=True):
        return self.n // (batch_size * world) if drop_last else -(-self.n // (batch_size * world))

    def batches(
        self, batch_size, epoch, *, seed=0, shuffle=True, drop_last=True, workers=0, rank=0, world=1, start=0
    ):
        order = np.random.default_rng((seed, epoch)).permutation(self.n) if shuffle else np.arange(self.n)
        for step in range(start, Toy.steps_per_epoch(self, batch_size, world, drop_last)):
            whole = order[step * batch_size * world : (step + 1) * batch_size * world]
            ids = np.array_split(whole, world)[rank]
            if len(ids) == 0:
                continue
            self.asked.append((epoch, step, tuple(ids)))
            clips, labels = zip(*(self.sample(i, epoch) for i in ids))
            yield {
                "clip": torch.stack(clips),
                "label": torch.tensor(labels),
                "index": torch.from_numpy(ids.copy()),
                "ok": torch.ones(len(ids), dtype=torch.bool),
                "epoch": epoch,
                "step": step,
            }


class Method(nn.Module):
    "A convolution, dropout and a linear layer."

    def __init__(self, dropout=0.3, views=1):
        super().__init__()
        torch.manual_seed(5)
        self.views, self.steps = views, []
        self.backbone = nn.Sequential(
            nn.Conv3d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(48, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def start_step(self, step):
        self.steps.append(step)

    def forward(self, batch):
        self.seen += len(batch["label"])
        logits = self.head(self.backbone(batch["clip"].flatten(0, 1).float() / 255))
        labels = batch["label"].repeat_interleave(batch["clip"].shape[1])
        return {
            "loss": nn.functional.cross_entropy(logits, labels),
            "acc": (logits.argmax(1) == labels).float().mean(),
        }


class Part(nn.Module):
    "Notes the steps it is told of. At the first one its buffers take the number of their process."

    alike = ("kept",)

    def __init__(self):
        super().__init__()
        self.steps = []
        self.register_buffer("kept", torch.zeros(()))
        self.register_buffer("sent", torch.zeros(()))

    def start_step(self, step):
        self.steps.append(step)
        if step == 0 and torch.distributed.is_initialized():
            self.kept.fill_(torch.distributed.get_rank())
            self.sent.fill_(torch.distributed.get_rank())


class InParts(Method):
    "A method that has a part, which has a part."

    def __init__(self):
        super().__init__()
        self.part = Part()
        self.part.inner = Part()


class Evaluated(Toy):
    "A test set: several views per video, an index, videos that cannot be read."

    def __init__(self, n=11, views=3, broken=(), classes=3):
        super().__init__(n, views)
        self.broken, names = broken, tuple("abcdefgh"[:classes])
        self.index = types.SimpleNamespace(
            labels=np.arange(n) % classes,
            classes=names,
            paths=tuple(f"{names[i % classes]}/{i}.avi" for i in range(n)),
        )

    def batches(self, *args, **kw):
        for batch in super().batches(*args, **kw):
            batch["ok"] = torch.tensor([int(i) not in self.broken for i in batch["index"]])
            batch["clip"] = batch["clip"] * batch["ok"].view(-1, 1, 1, 1, 1, 1)
            batch["label"] = torch.from_numpy(self.index.labels)[batch["index"]]
            yield batch
