"""What each of two processes does in test_train_ddp.py; started by torchrun.

usage: torchrun --nproc-per-node 2 train_ddp.py FOLDER
"""

import dataclasses
import sys
from pathlib import Path

import torch

from mvnb.augment import Photometric
from mvnb import methods
from mvnb.protocols import extract
from mvnb.train import NonFiniteLoss, Schedule, fit
from train_toys import Evaluated, InParts, Method, Toy

torch.set_num_threads(1)
SCHEDULE = Schedule(epochs=3, batch_size=4, lr=0.05, clip_grad=1.0)


class Stopped(Exception):
    pass


class Stops(Method):
    def start_step(self, step):
        if step == 5:
            raise Stopped


class Breaks(Method):
    "Only process 1 sees a bad loss."

    def forward(self, batch):
        out = super().forward(batch)
        return {**out, "loss": out["loss"] * (float("nan") if torch.distributed.get_rank() == 1 else 1)}


Stops.__name__ = Breaks.__name__ = "Method"


def main(folder):
    run = dict(device="cpu", progress=False)
    found = {}

    def note(name, method, done):
        found[name] = {
            "weights": {k: v.clone() for k, v in method.state_dict().items()},
            "losses": done.losses,
            "fit": dataclasses.asdict(done),
        }

    method = Method(dropout=0)
    note("plain", method, fit(method, Toy(), SCHEDULE, folder=folder / "plain", **run))
    method = Method(dropout=0)
    note(
        "accumulated",
        method,
        fit(
            method,
            Toy(),
            dataclasses.replace(SCHEDULE, batch_size=2, accumulate=2),
            folder=folder / "accumulated",
            **run,
        ),
    )

    method = Method()
    note("whole", method, fit(method, Toy(), SCHEDULE, folder=folder / "whole", **run))
    try:
        fit(Stops(), Toy(), SCHEDULE, folder=folder / "cut", checkpoint_every=0, **run)
    except Stopped:
        pass
    method = Method()
    note("cut", method, fit(method, Toy(), SCHEDULE, folder=folder / "cut", **run))

    try:
        fit(Breaks(), Toy(), SCHEDULE, folder=folder / "broken", **run)
    except NonFiniteLoss as e:
        found["broken"] = e.step

    method = InParts()
    note("parts", method, fit(method, Toy(), SCHEDULE, folder=folder / "parts", **run))
    found["parts"]["exempt"] = method._ddp_params_and_buffers_to_ignore

    settings = dict(dim=16, queue=24, photometric=Photometric(blur=0.0), momentum=0.9)
    moco = methods.build("moco", backbone="r3d_tiny", **settings)
    data = Toy(views=2)
    data.failed[f"seen by {torch.distributed.get_rank()}"] = "damaged"
    note(
        "moco", moco, fit(moco, data, dataclasses.replace(SCHEDULE, epochs=2), folder=folder / "moco", **run)
    )

    torch.manual_seed(0)
    test = Evaluated(11, broken=(3,))
    found["features"] = extract(
        Method().backbone, test, "cpu", batch_size=2, pool="features", progress=False
    ).values
    torch.save(found, folder / f"found{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
