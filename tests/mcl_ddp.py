"""Run by test_mcl_ddp.py in two processes: MCL under DDP, gradients accumulated, against its parts."""

import copy
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mvnb.papers.mcl.method import MCL

out, dist_file = sys.argv[1:3]
rank = int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{dist_file}", rank=rank, world_size=2)
PLAIN = dict(gray=0.0, p_jitter=0.0, blur=0.0, flip=0.5)


def make_batch(step):
    make = torch.Generator().manual_seed(10 * step + rank)
    clip = torch.randint(0, 256, (3, 4, 3, 4, 32, 32), dtype=torch.uint8, generator=make)
    about = {"half": torch.tensor([0, 1, 0]), "index": torch.arange(3) + 3 * rank, "epoch": 4, "step": step}
    return about | {"clip": clip, "map": torch.rand(3, 4, 4, 4, 4, generator=make)}


def gradients(method):
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad}


found = {}
for objective in ("nce", "seco"):
    more = dict(
        objective=objective, order_epochs=10, widths=(4, 8), queue=24, dim=8, seed=5, photometric=PLAIN
    )
    method = MCL("r2plus1d_50_tiny", **more).train()
    alone = copy.deepcopy(method)  # the same on this process, averaged by hand
    method._ddp_params_and_buffers_to_ignore = [f"contrast.{name}" for name in method.contrast.alike]
    model = DistributedDataParallel(method)
    for part in (method, alone):
        part.contrast.start_step(0)
    with model.no_sync():
        model(make_batch(0))["loss"].backward()
    model(make_batch(1))["loss"].backward()
    for step in (0, 1):
        alone(make_batch(step))["loss"].backward()
    by_hand = gradients(alone)
    for value in by_hand.values():
        dist.all_reduce(value)
        value /= 2
    queue, pointer = method.contrast.queue, method.contrast.pointer
    found[objective] = dict(
        ddp=gradients(method), by_hand=by_hand, queue=queue.clone(), pointer=pointer.clone()
    )
torch.save(found, f"{out}/{rank}.pt")
dist.destroy_process_group()
