"""A pretraining step of the masked autoencoder against Hugging Face's VideoMAE with the same weights.

Both hide the same tokens of the same clip and give the same loss; what is compared is the time for forward
and backward. Nine tenths of it are matrix products and attention that both have to do, in the same kernels,
so there is little to gain on a CPU and the target is to be no slower. Ours embeds the visible patches alone,
computes queries, keys and values together, normalises the hidden patches alone, and selects by index.
"""

import torch

from mvnb import models, vit

from .fame import best

FRAMES, SIZE, TARGET = 16, 224, 1.0
RATIOS = (0.9, 0.75)


def twins(name):
    "Our masked autoencoder and Hugging Face's, with the same weights."
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    torch.manual_seed(0)
    ours = vit.MAE(models.build(name)).train()
    config = VideoMAEConfig(**vit._config_of(ours, FRAMES, SIZE))
    theirs = VideoMAEForPreTraining(config).train()
    state = vit._to_theirs(ours.state_dict())
    renamed = {
        name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): t for name, t in state.items()
    }
    for name, value in theirs.state_dict().items():
        if name.endswith("key.bias"):  # of older versions, where it is there and trained
            renamed[name] = torch.zeros_like(value)
    theirs.load_state_dict(renamed if renamed.keys() == theirs.state_dict().keys() else state)
    return ours, theirs


def pair(ratio):
    "A step of ours and one of theirs: functions that give the loss, gradients computed."
    ours, theirs = twins("vit_small")
    clip = torch.randn(1, 3, FRAMES, SIZE, SIZE)
    count = round(1568 * ratio)
    mask = torch.rand(1, 1568).argsort(1).argsort(1) < count

    def step(network, *given, **more):
        network.zero_grad()
        loss = network(*given, **more).loss
        loss.backward()
        return loss.item()

    return {
        "ours": lambda: step(ours, clip, mask.view(1, 8, 14, 14), count),
        "Hugging Face": lambda: step(theirs, clip.transpose(1, 2), bool_masked_pos=mask),
    }


def run(repeats=5) -> list:
    "Rows of the bench: how many times as long a step takes there, for each share of hidden tokens."
    try:
        import transformers  # noqa: F401
    except ImportError:
        name = "masked autoencoder: nothing to compare with, transformers is not installed (extra hub)"
        return [dict(name=name, value=0, target=None, unit="x", ok=True)]
    rows = []
    for ratio in RATIOS:
        steps = pair(ratio)
        losses = {name: step() for name, step in steps.items()}
        if abs(losses["ours"] - losses["Hugging Face"]) > 1e-4:
            raise AssertionError(f"the losses differ: {losses}")
        spent = best(steps, repeats)
        gain = spent["Hugging Face"] / spent["ours"]
        what = f"ViT-S masked autoencoder, 1x3x{FRAMES}x{SIZE}x{SIZE}, {ratio:.0%} hidden"
        rows.append(
            dict(
                name=f"{what}: Hugging Face / ours",
                value=round(gain, 2),
                target=TARGET,
                unit="x",
                ok=gain >= TARGET,
            )
        )
        rows += [
            dict(name=f"{what}: {name}", value=round(seconds * 1e3), target=None, unit="ms/step", ok=True)
            for name, seconds in spent.items()
        ]
    return rows
