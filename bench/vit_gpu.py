"""A pretraining step of ViT-B's masked autoencoder on a GPU, bf16 and compiled, beside Hugging Face's.

Both have the same weights.

A step is forward, backward and AdamW. Its operations are counted by PyTorch, forward and backward; their
share of the card's peak is that of what a large matrix product reaches in bf16 in the same run. Without a GPU
there is nothing to measure.
"""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode


from .vit import FRAMES, SIZE, twins

BATCH = 64
RATIOS = (0.9, 0.75)
TARGET = 1.2


def peak(side=8192, repeats=30) -> float:
    "Operations per second of a square bf16 matrix product."
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, repeats)


def seconds(step, repeats) -> float:
    "Least seconds of a call, over three rounds of `repeats`, after one round that is not counted."
    spent = []
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        torch.cuda.synchronize()
        spent.append((time.perf_counter() - start) / repeats)
    return min(spent[1:])


def stepper(network, *given, **more):
    "A compiled training step in bf16; returns its loss, a tensor."
    optimizer = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)

    def losses(*given, **more):
        with torch.autocast("cuda", torch.bfloat16):
            return network(*given, **more).loss

    compiled = torch.compile(losses)

    def step():
        loss = compiled(*given, **more)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def work(network, clip, mask, count) -> int:
    "Operations of a forward and a backward pass of one clip."
    clip, mask, network = clip[:1].float().cpu(), mask[:1].cpu(), network.cpu()
    with FlopCounterMode(display=False) as counter:
        network(clip, mask, count).loss.backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def run(repeats=10):
    "Rows of the bench as they are measured, a group for each share of hidden tokens."
    if not torch.cuda.is_available():
        name = "masked autoencoder on a GPU: there is none, so there is nothing to measure"
        yield dict(name=name, value=0, target=None, unit="x", ok=True)
        return
    most = peak()
    about = dict(target=None, ok=True)
    card = torch.cuda.get_device_name()
    yield dict(name=f"{card}: bf16 matrix product", value=most / 1e12, unit="TFLOP/s", **about)
    for ratio in RATIOS:
        torch.compiler.reset()  # a count of its own each: no kernels for any count
        ours, theirs = twins("vit_base")
        count = round(1568 * ratio)
        clip = torch.randn(BATCH, 3, FRAMES, SIZE, SIZE)
        mask = torch.rand(BATCH, 1568).argsort(1).argsort(1) < count
        each = work(ours, clip, mask.view(-1, 8, 14, 14), count)
        ours, theirs, clip, mask = ours.cuda(), theirs.cuda(), clip.cuda(), mask.cuda()
        steps = {
            "ours": stepper(ours, clip, mask.view(-1, 8, 14, 14), count),
            "Hugging Face": stepper(theirs, clip.transpose(1, 2), bool_masked_pos=mask),
        }
        losses = {name: step().item() for name, step in steps.items()}
        if abs(losses["ours"] - losses["Hugging Face"]) > 1e-2:
            raise AssertionError(f"the losses differ: {losses}")
        spent = {name: seconds(step, repeats) for name, step in steps.items()}
        gain = spent["Hugging Face"] / spent["ours"]
        what = f"ViT-B masked autoencoder, bf16, compiled, {ratio:.0%} hidden"
        row = dict(name=f"{what}: Hugging Face / ours", value=round(gain, 2), unit="x")
        yield row | dict(target=TARGET, ok=gain >= TARGET)
        for name, one in spent.items():
            yield dict(name=f"{what}: {name}", value=BATCH / one, unit="clips/s", **about)
        share = 100 * each * BATCH / spent["ours"] / most
        yield dict(name=f"{what}: ours, of the matrix product's rate", value=share, unit="%", **about)
        del ours, theirs, steps
        torch.cuda.empty_cache()
