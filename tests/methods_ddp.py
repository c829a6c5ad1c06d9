"""Run by test_methods_ddp.py in each of two processes: shuffled BN, the shared queue, a few steps of MoCo."""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mvnb.clips import sample_rng
from mvnb.methods.contrast import MoCo, encode_shuffled, gather

out, dist_file = sys.argv[1:3]
rank = int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{dist_file}", rank=rank, world_size=2)

x = torch.arange(5.0)[:, None] + 100 * rank
seen = []


def encode(clips):
    seen.append(clips.clone())
    return clips * 2


keys = encode_shuffled(encode, x, sample_rng(0, 0, 3, "s"))

method = MoCo(
    "r2plus1d_18", queue=24, momentum=0.9, seed=4, widths=(4, 8, 8, 16), stem=(4, 3, 4), blocks=(1, 1, 1, 1)
)
method._ddp_params_and_buffers_to_ignore = [f"contrast.{name}" for name in method.contrast.alike]
model = DistributedDataParallel(method)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
generator, queues, losses = torch.Generator().manual_seed(rank), [], []
for step in range(3):
    batch = {
        "clip": torch.randint(0, 256, (5, 2, 3, 4, 16, 16), dtype=torch.uint8, generator=generator),
        "index": torch.arange(5) + 5 * rank,
        "epoch": 0,
        "step": step,
    }
    method.contrast.start_step(step)
    loss = model(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    queues.append(method.contrast.queue.clone())
    losses.append(loss.item())
torch.save(
    dict(
        x=x,
        seen=seen[0],
        keys=keys,
        gathered=gather(x),
        queues=queues,
        pointer=method.contrast.pointer,
        losses=losses,
        weights={
            k: v for k, v in method.state_dict().items() if "running" not in k and "num_batches" not in k
        },
    ),
    f"{out}/{rank}.pt",
)
dist.destroy_process_group()
