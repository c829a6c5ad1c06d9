"""Files with the tensor names of FAME's, MAC's, MCL's, VideoMAE's, Hugging Face's, torchvision's code.

The values are random. MGM has no released code and follows VideoMAE.
"""

import argparse
import math
import warnings

import pytest
import torch
from torch import nn
from torchvision.models import video

from mvnb import models

SMALL = dict(widths=(4, 8, 8, 16), stem=(6, 3, 2))


@pytest.fixture(autouse=True)
def _one_start():
    torch.manual_seed(0)


def clip(frames=8, size=32):
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def lively(model):
    "Batch norm that does something, and a classifier that tells classes apart."
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return model.eval()


def with_eps(model, eps):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = eps
    return model.eval()


def same_outputs(a, b, x=None):
    x = clip() if x is None else x
    with torch.no_grad():
        torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=0, atol=0)


def momentum_buffers(tensors):
    "The state of an SGD optimizer, by number as PyTorch saves it."
    state = {i: {"momentum_buffer": torch.zeros_like(t)} for i, t in enumerate(tensors.values())}
    return {"state": state, "param_groups": [{"lr": 0.01, "params": list(state)}]}


# --- FAME: I3D


def i3d(num_classes=None):
    return models.build("i3d", num_classes, width=0.1)


def fame_pretrained(network, dim=8, queue=32, dtype=torch.float32):
    "As FAME's train.py saves it: two encoders, each with its projection head, a queue, an optimizer."
    state = {}
    for encoder in ("encoder_q", "encoder_k"):
        for name, value in network.state_dict().items():
            other = value if encoder == "encoder_q" else torch.zeros_like(value)
            state[f"module.{encoder}.{name}"] = other.to(dtype) if other.is_floating_point() else other
        for layer, out in ((2, network.dim), (4, dim)):
            state[f"module.{encoder}.id_head.{layer}.weight"] = torch.randn(out, network.dim).to(dtype)
            state[f"module.{encoder}.id_head.{layer}.bias"] = torch.randn(out).to(dtype)
    state["module.queue"] = torch.randn(dim, queue)
    state["module.queue_ptr"] = torch.zeros(1, dtype=torch.long)
    return {"epoch": 200, "arch": "I3D", "state_dict": state, "optimizer": momentum_buffers(state)}


def fame_finetuned(network, classes):
    "As FAME's eval.py saves it: the encoder and a linear classifier `fc`."
    state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.startswith("conv3d_0c")}
    state["module.fc.weight"] = network.conv3d_0c_1x1.conv3d.weight.detach()[:, :, 0, 0, 0].clone()
    state["module.fc.bias"] = network.conv3d_0c_1x1.conv3d.bias.detach().clone()
    assert len(state["module.fc.bias"]) == classes
    optimizer = momentum_buffers(state)
    return {"epoch": 150, "arch": "I3D", "best_acc1": torch.tensor(88.9), "state_dict": state} | {
        "optimizer": optimizer
    }


def test_pretrained_i3d_gives_the_query_encoder(tmp_path):
    source, target = with_eps(lively(i3d()), 1e-5), with_eps(i3d(), 1e-5)
    torch.save(fame_pretrained(source), tmp_path / "i3d.pth.tar")
    report = models.load_weights(target, tmp_path / "i3d.pth.tar")
    same_outputs(source, target)
    assert report.prefix == "module.encoder_q." and len(report.loaded) == len(source.state_dict())
    assert sorted(report.dropped) == [f"id_head.{n}.{p}" for n in (2, 4) for p in ("bias", "weight")]
    assert len(report.outside) == len(source.state_dict()) + 4 + 2 and report.remark == ""


def test_every_tensor_of_the_pretrained_i3d_has_a_fate(tmp_path):
    content = fame_pretrained(lively(i3d()))
    torch.save(content, tmp_path / "i3d.pth.tar")
    model = i3d(5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rows = models.account(model, tmp_path / "i3d.pth.tar")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # nothing is loaded
    assert sorted(filter(None, rows["in the file"])) == sorted(content["state_dict"])
    assert sorted(filter(None, rows["in the model"])) == sorted(model.state_dict())
    by_name = rows.set_index("in the file")
    assert by_name.loc["module.encoder_q.id_head.4.weight", "why"] == "projection head"
    assert by_name.loc["module.encoder_k.id_head.4.weight", "why"] == "momentum encoder"
    assert by_name.loc["module.queue_ptr", "why"] == "queue of keys"
    assert by_name.loc["module.queue", "shape"] == [8, 32]
    kept = rows[rows.fate == "kept"]
    assert set(kept["in the model"]) == {"conv3d_0c_1x1.conv3d.weight", "conv3d_0c_1x1.conv3d.bias"}
    assert set(rows.fate) == {"taken", "dropped", "kept"}


def test_finetuned_i3d_comes_with_its_classifier(tmp_path):
    source = with_eps(lively(i3d(11)), 1e-5)
    torch.save(fame_finetuned(source, 11), tmp_path / "best_checkpoint.pth.tar")
    same, other, none = (with_eps(i3d(classes), 1e-5) for classes in (11, 4, None))
    report = models.load_weights(same, tmp_path / "best_checkpoint.pth.tar")
    same_outputs(source, same)
    assert not report.dropped and not report.outside
    for target in (other, none):
        report = models.load_weights(target, tmp_path / "best_checkpoint.pth.tar")
        assert len(report.dropped) == 2
        with torch.no_grad():
            assert torch.equal(source.features(clip()), target.features(clip()))


def test_half_precision_is_told_and_loaded_as_float32(tmp_path):
    source = with_eps(lively(i3d()), 1e-5)
    torch.save(fame_pretrained(source, dtype=torch.float16), tmp_path / "i3d.pth.tar")
    target = with_eps(i3d(), 1e-5)
    models.load_weights(target, tmp_path / "i3d.pth.tar")
    assert all(p.dtype == torch.float32 for p in target.parameters())
    rounded = with_eps(i3d(), 1e-5)
    rounded.load_state_dict(source.half().state_dict())
    same_outputs(rounded, target)
    rows = models.account(target, tmp_path / "i3d.pth.tar")
    assert "float16 to float32" in set(rows.why)


def test_another_epsilon_is_remarked(tmp_path):
    torch.save(fame_pretrained(i3d()), tmp_path / "i3d.pth.tar")
    report = models.load_weights(with_eps(i3d(), 1e-3), tmp_path / "i3d.pth.tar")
    assert "ε 1e-05, this one 0.001" in report.remark and report.remark in str(report)


def test_full_i3d_takes_the_shapes_of_the_code(tmp_path):
    with torch.device("meta"):
        model = models.build("i3d", 101)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["mixed_5b.branch_0.conv3d.weight"] == (256, 832, 1, 1, 1)
    fc = models._fitted(torch.empty(101, 1024), model.state_dict()["conv3d_0c_1x1.conv3d.weight"])
    assert fc.shape == (101, 1024, 1, 1, 1)


# --- MAC: R3D and R(2+1)D of CtP's code base


def pyvrl_block(name, kind, inp, out, shortcut):
    "Names and shapes of a residual block; in R(2+1)D every convolution has a middle of its own."

    def norm(at, width):
        sizes = {f"{at}.{p}": (width,) for p in ("weight", "bias", "running_mean", "running_var")}
        return sizes | {f"{at}.num_batches_tracked": ()}

    found = {}
    for number, before in ((1, inp), (2, out)):
        at = f"{name}.conv{number}"
        if kind == "3d":
            found[f"{at}.conv.weight"] = (out, before, 3, 3, 3)
        else:
            middle = int(3 * before * out * 9 / (before * 9 + 3 * out))
            found[f"{at}.conv_s.weight"] = (middle, before, 1, 3, 3)
            found |= norm(f"{at}.bn_s", middle)
            found[f"{at}.conv_t.weight"] = (out, middle, 3, 1, 1)
        found |= norm(f"{name}.bn{number}", out)
    if shortcut:
        found[f"{name}.downsample.conv.weight"] = (out, inp, 1, 1, 1)
        found |= norm(f"{name}.downsample_bn", out)
    return found


def pyvrl_shapes(kind, widths, middle, kernel, blocks=2):
    "Names and shapes of a whole backbone."
    stem = ("stem.conv_s", "stem.bn_s", "stem.conv_t", "stem.bn_t")
    if kind == "3d":
        found = {"stem.conv.weight": (widths[0], 3, 3, kernel, kernel)}
        norms = {"stem.bn": widths[0]}
    else:
        found = {
            f"{stem[0]}.weight": (middle, 3, 1, kernel, kernel),
            f"{stem[2]}.weight": (widths[0], middle, 3, 1, 1),
        }
        norms = {stem[1]: middle, stem[3]: widths[0]}
    for at, width in norms.items():
        found |= {f"{at}.{p}": (width,) for p in ("weight", "bias", "running_mean", "running_var")}
        found[f"{at}.num_batches_tracked"] = ()
    before = widths[0]
    for stage, width in enumerate(widths, 1):
        for block in range(blocks):
            first = block == 0
            name = f"layer{stage}.{block}"
            found |= pyvrl_block(name, kind, before, width, first and stage > 1)
            before = width
    return found


def values(shapes):
    "Random tensors; variances are positive, counts whole."
    made = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(5)
        elif name.endswith("running_var"):
            made[name] = torch.rand(shape) + 0.5
        else:
            made[name] = torch.randn(shape) * 0.3
    return made


def mac_pretrained(backbone, dim, module=""):
    "As mmcv saves MAC's pretraining: backbone, α head, projection head, momentum encoder, queue."
    state = {f"{module}backbone.{k}": v for k, v in backbone.items()}
    state[f"{module}cls_head.fc_cls.weight"] = torch.randn(16, dim)
    state[f"{module}cls_head.fc_cls.bias"] = torch.randn(16)
    state |= {f"{module}key_encoder.{k}": torch.zeros_like(v) for k, v in backbone.items()}
    for head in ("fc", "key_fc"):
        for layer, out in ((0, dim), (2, 8)):
            state[f"{module}{head}.{layer}.weight"] = torch.randn(out, dim)
            state[f"{module}{head}.{layer}.bias"] = torch.randn(out)
    state[f"{module}queue"] = torch.randn(8, 32)
    state[f"{module}queue_ptr"] = torch.zeros(1, dtype=torch.long)
    meta = {"mmcv_version": "1.3.7", "epoch": 300, "iter": 1000, "time": "now"}
    return {"meta": meta, "state_dict": state, "optimizer": momentum_buffers(state)}


class Plain(nn.Module):
    "The network of the names, computed from the tensors themselves; eval mode, batch norm with ε 0.001."

    def __init__(self, state, kind, blocks=2, stages=4):
        super().__init__()
        self.state, self.kind, self.blocks, self.stages = state, kind, blocks, stages

    def norm(self, x, at):
        mean, var = self.state[f"{at}.running_mean"], self.state[f"{at}.running_var"]
        return nn.functional.batch_norm(
            x, mean, var, self.state[f"{at}.weight"], self.state[f"{at}.bias"], eps=1e-3
        )

    def convolve(self, x, at, stride):
        weight = self.state[f"{at}.weight"]
        return nn.functional.conv3d(x, weight, None, stride, [k // 2 for k in weight.shape[2:]])

    def unit(self, x, at, time, space):
        "A 3×3×3 convolution, or its two halves."
        if self.kind == "3d":
            return self.convolve(x, f"{at}.conv", (time, space, space))
        x = self.norm(self.convolve(x, f"{at}.conv_s", (1, space, space)), f"{at}.bn_s").relu()
        return self.convolve(x, f"{at}.conv_t", (time, 1, 1))

    def forward(self, x):
        last = "bn" if self.kind == "3d" else "bn_t"
        x = self.norm(self.unit(x, "stem", 1, 2), f"stem.{last}").relu()
        for stage in range(1, self.stages + 1):
            for block in range(self.blocks):
                at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = self.norm(self.unit(x, f"{at}.conv1", stride, stride), f"{at}.bn1").relu()
                y = self.norm(self.unit(y, f"{at}.conv2", 1, 1), f"{at}.bn2")
                if f"{at}.downsample.conv.weight" in self.state:
                    x = self.norm(self.convolve(x, f"{at}.downsample.conv", stride), f"{at}.downsample_bn")
                x = (x + y).relu()
        return x.mean((2, 3, 4))


KINDS = [("3d", "r3d_18_pyvrl"), ("2plus1d", "r2plus1d_18_pyvrl")]


@pytest.mark.parametrize("kind, name", KINDS)
@pytest.mark.parametrize("module", ["", "module."])
def test_mmcv_checkpoint_computes_what_its_tensors_say(tmp_path, kind, name, module):
    backbone = values(pyvrl_shapes(kind, SMALL["widths"], 6, 3))
    torch.save(mac_pretrained(backbone, 16, module), tmp_path / "epoch_300.pth")
    model = models.build(name, **SMALL).eval()
    report = models.load_weights(model, tmp_path / "epoch_300.pth")
    with torch.no_grad():
        torch.testing.assert_close(model(clip()), Plain(backbone, kind)(clip()), rtol=1e-4, atol=1e-4)
    assert report.prefix == f"{module}backbone." and report.layout == "PyVRL" and not report.remark
    assert len(report.loaded) == len(backbone) == len(model.state_dict())
    assert f"{module}cls_head.fc_cls.weight" in report.outside and f"{module}fc.2.weight" in report.outside


@pytest.mark.parametrize("kind, name", KINDS)
def test_names_and_shapes_of_the_full_networks(kind, name):
    with torch.device("meta"):
        model = models.build(name)
    layout = next(layout for layout in models.LAYOUTS if layout.title == "PyVRL")
    theirs = pyvrl_shapes(kind, (64, 128, 256, 512), 45, 7)
    ours = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert {layout.rename(k): shape for k, shape in theirs.items()} == ours


def test_account_of_an_mmcv_checkpoint(tmp_path):
    backbone = values(pyvrl_shapes("3d", SMALL["widths"], 6, 3))
    content = mac_pretrained(backbone, 16)
    torch.save(content, tmp_path / "epoch_300.pth")
    rows = models.account(models.build("r3d_18_pyvrl", **SMALL), tmp_path / "epoch_300.pth")
    assert sorted(rows["in the file"]) == sorted(content["state_dict"])
    why = rows.set_index("in the file").why
    assert why["cls_head.fc_cls.bias"].startswith("head") and why["fc.0.weight"].startswith("projection head")
    assert why["key_encoder.stem.conv.weight"] == why["key_fc.0.bias"] == "momentum encoder"


def test_an_alpha_head_is_never_taken_for_a_classifier(tmp_path):
    backbone = values(pyvrl_shapes("3d", SMALL["widths"], 6, 3))
    torch.save(mac_pretrained(backbone, 16), tmp_path / "epoch_300.pth")
    model = models.build("r3d_18_pyvrl", 16, **SMALL)
    before = model.fc.weight.clone()
    models.load_weights(model, tmp_path / "epoch_300.pth")
    assert torch.equal(model.fc.weight, before)


def test_torchvision_sized_network_says_what_to_build(tmp_path):
    backbone = values(pyvrl_shapes("2plus1d", SMALL["widths"], 6, 3))
    torch.save(mac_pretrained(backbone, 16), tmp_path / "epoch_300.pth")
    model = models.build("r2plus1d_18", **SMALL)
    with pytest.raises(models.WeightsError, match="of another shape.*r2plus1d_18_pyvrl") as caught:
        models.load_weights(model, tmp_path / "epoch_300.pth")
    assert "\n" not in str(caught.value)


def test_an_old_mmcv_checkpoint_without_counts_and_optimizer(tmp_path):
    backbone = values(pyvrl_shapes("3d", SMALL["widths"], 6, 3))
    state = {f"backbone.{k}": v for k, v in backbone.items() if not k.endswith("num_batches_tracked")}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "w.pth")
    model = models.build("r3d_18_pyvrl", **SMALL)
    assert models.load_weights(model, tmp_path / "w.pth").missing == []
    fates = models.account(model, tmp_path / "w.pth").fate.value_counts()
    assert fates["kept"] == sum(k.endswith("num_batches_tracked") for k in backbone)


# --- MCL: R(2+1)D-50 inside an encoder with three heads


def mcl_shapes(widths, blocks, stem=(4, 7, 7)):
    "Names and shapes of its backbone: bottlenecks with a temporal convolution behind the spatial one."

    def norm(at, width):
        sizes = {f"{at}.{p}": (width,) for p in ("weight", "bias", "running_mean", "running_var")}
        return sizes | {f"{at}.num_batches_tracked": ()}

    before = widths[0]
    found = {"conv1.weight": (before, 3, *stem), **norm("bn1", before)}
    for stage, (width, depth) in enumerate(zip(widths, blocks), 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            found[f"{at}.conv1.weight"] = (width, before, 1, 1, 1)
            found[f"{at}.conv2.weight"] = (width, width, 1, 3, 3)
            found[f"{at}.conv2_t.weight"] = (width, width, 3, 1, 1)
            found[f"{at}.conv3.weight"] = (4 * width, width, 1, 1, 1)
            found |= norm(f"{at}.bn1", width) | norm(f"{at}.bn2", width) | norm(f"{at}.bn3", 4 * width)
            if block == 0:
                found[f"{at}.downsample.0.weight"] = (4 * width, before, 1, 1, 1)
                found |= norm(f"{at}.downsample.1", 4 * width)
            before = 4 * width
    return found


def mcl_forward(state, x, blocks):
    "That network, computed from the tensors themselves; eval mode."

    def norm(x, at):
        mean, var = state[f"{at}.running_mean"], state[f"{at}.running_var"]
        return nn.functional.batch_norm(x, mean, var, state[f"{at}.weight"], state[f"{at}.bias"], eps=1e-5)

    def conv(x, at, stride=1, padding=0):
        return nn.functional.conv3d(x, state[f"{at}.weight"], None, stride, padding)

    x = norm(conv(x, "conv1", (4, 2, 2), (0, 3, 3)), "bn1").relu()
    x = nn.functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, depth in enumerate(blocks, 1):
        for block in range(depth):
            at, stride = f"layer{stage}.{block}", (1, 2, 2) if stage > 1 and block == 0 else 1
            y = norm(conv(x, f"{at}.conv1"), f"{at}.bn1").relu()
            y = conv(y, f"{at}.conv2", stride, (0, 1, 1))
            y = norm(conv(y, f"{at}.conv2_t", 1, (1, 0, 0)), f"{at}.bn2").relu()
            y = norm(conv(y, f"{at}.conv3"), f"{at}.bn3")
            if block == 0:
                x = norm(conv(x, f"{at}.downsample.0", stride), f"{at}.downsample.1")
            x = (x + y).relu()
    return x.mean((2, 3, 4))


MCL = dict(widths=(4, 8, 8, 4), blocks=(2, 1, 1, 1))


def mcl_pretrained(backbone, dim=16, out=8):
    "As MCL's train.py saves it: options, two encoders under DDP, each with three heads, queue, optimizer."
    state = {f"module.backbone.{k}": v for k, v in backbone.items()}
    for head in ("nce_inter_head", "nce_intra_head", "order_head"):
        for layer, width in ((0, dim), (2, out)):
            state[f"module.{head}.head.{layer}.weight"] = torch.randn(width, dim)
            state[f"module.{head}.head.{layer}.bias"] = torch.randn(width)
    state["module.order_classfier.fc.weight"] = torch.randn(2, 3 * out)
    state["module.order_classfier.fc.bias"] = torch.randn(2)
    scheduler = {"last_epoch": 400, "base_lrs": [0.01], "after_scheduler": {"T_max": 395, "eta_min": 1e-6}}
    return {
        "opt": argparse.Namespace(dataset="ucf101", nce_k=131072, lr_decay_epochs=[120, 160]),
        "model": state,
        "model_ema": {k: torch.zeros_like(v) for k, v in state.items()},
        "contrast": {"params": torch.tensor([-1.0]), "memory": torch.randn(32, out)},
        "optimizer": momentum_buffers(state),
        "scheduler": scheduler,
        "epoch": 400,
    }


@pytest.mark.parametrize("first", ["model", "model_ema"])
def test_mcl_checkpoint_computes_what_its_tensors_say(tmp_path, first):
    backbone = values(mcl_shapes(**MCL))
    content = mcl_pretrained(backbone)
    content = {first: content[first], **content}  # whichever encoder comes first in the file
    torch.save(content, tmp_path / "current.pth")
    model = models.build("r2plus1d_50", **MCL).eval()
    report = models.load_weights(model, tmp_path / "current.pth")
    x = clip(16, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x), mcl_forward(backbone, x, MCL["blocks"]), rtol=1e-5, atol=1e-5)
    assert report.prefix == "module.backbone." and len(report.loaded) == len(backbone)
    assert len(report.outside) == 3 * 4 + 2 and not report.trouble
    why = models.account(model, tmp_path / "current.pth").set_index("in the file").why
    assert why["module.nce_intra_head.head.2.bias"] == "projection head"
    assert why["module.order_classfier.fc.weight"].startswith("head")


def test_mcl_finetuned_comes_with_its_classifier(tmp_path):
    backbone = values(mcl_shapes(**MCL))
    state = {f"module.{k}": v for k, v in backbone.items()}
    state |= {"module.fc.weight": torch.randn(11, 16), "module.fc.bias": torch.randn(11)}
    torch.save({"opt": argparse.Namespace(), "model": state, "epoch": 150}, tmp_path / "current.pth")
    x = clip(16, 48)
    with torch.no_grad():
        feature = mcl_forward(backbone, x, MCL["blocks"])
        for classes in (11, 5, None):
            model = models.build("r2plus1d_50", classes, **MCL).eval()
            report = models.load_weights(model, tmp_path / "current.pth")
            torch.testing.assert_close(model.features(x).mean((2, 3, 4)), feature, rtol=1e-5, atol=1e-5)
            assert len(report.dropped) == (0 if classes == 11 else 2)
            if classes == 11:
                logits = feature @ state["module.fc.weight"].T + state["module.fc.bias"]
                torch.testing.assert_close(model(x), logits, rtol=1e-5, atol=1e-5)


def test_names_and_shapes_of_the_full_mcl_network():
    with torch.device("meta"):
        model = models.build("r2plus1d_50")
    ours = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert mcl_shapes((64, 128, 256, 512), (3, 4, 6, 3)) == ours


# --- MGM: no code; VideoMAE's, which it builds on, and Hugging Face's

VIT = dict(width=24, depth=3, heads=2, tubelet=(2, 8, 8))


def videomae_blocks(prefix, dim, depth):
    "Names and shapes of VideoMAE's blocks."
    found = {}
    for number in range(depth):
        at = f"{prefix}blocks.{number}"
        found |= {f"{at}.norm{i}.{p}": (dim,) for i in (1, 2) for p in ("weight", "bias")}
        found |= {f"{at}.attn.q_bias": (dim,), f"{at}.attn.v_bias": (dim,)}
        found |= {f"{at}.attn.qkv.weight": (3 * dim, dim)}
        found |= {f"{at}.attn.proj.weight": (dim, dim), f"{at}.attn.proj.bias": (dim,)}
        found |= {f"{at}.mlp.fc1.weight": (4 * dim, dim), f"{at}.mlp.fc1.bias": (4 * dim,)}
        found |= {f"{at}.mlp.fc2.weight": (dim, 4 * dim), f"{at}.mlp.fc2.bias": (dim,)}
    return found


def videomae_pretrained(dim=24, depth=3, narrow=12, decoder=2, patch=(2, 8, 8)):
    "The state dict of its autoencoder: encoder, decoder, what is between, and the mask token."
    shapes = {"mask_token": (1, 1, narrow), "encoder_to_decoder.weight": (narrow, dim)}
    shapes |= {"encoder.patch_embed.proj.weight": (dim, 3, *patch), "encoder.patch_embed.proj.bias": (dim,)}
    shapes |= videomae_blocks("encoder.", dim, depth) | videomae_blocks("decoder.", narrow, decoder)
    shapes |= {f"encoder.norm.{p}": (dim,) for p in ("weight", "bias")}
    shapes |= {f"decoder.norm.{p}": (narrow,) for p in ("weight", "bias")}
    pixels = 3 * math.prod(patch)
    return values(shapes | {"decoder.head.weight": (pixels, narrow), "decoder.head.bias": (pixels,)})


def videomae_tokens(state, x, heads=2, prefix="", patch=(2, 8, 8)):
    "Tokens behind the blocks, computed from the tensors themselves, one head after the other."

    def norm(x, at):
        return nn.functional.layer_norm(x, x.shape[-1:], state[f"{at}.weight"], state[f"{at}.bias"], 1e-6)

    weight, bias = (state[f"{prefix}patch_embed.proj.{p}"] for p in ("weight", "bias"))
    x = nn.functional.conv3d(x, weight, bias, patch).flatten(2).transpose(1, 2)
    count, dim = x.shape[1:]
    angle = [[n / 10000 ** (2 * (j // 2) / dim) for j in range(dim)] for n in range(count)]
    x = x + torch.tensor(
        [[math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(row)] for row in angle]
    )
    depth = len({name.split("blocks.")[1].split(".")[0] for name in state if f"{prefix}blocks." in name})
    for number in range(depth):
        at, each = f"{prefix}blocks.{number}", dim // heads
        bias = torch.cat([state[f"{at}.attn.q_bias"], torch.zeros(dim), state[f"{at}.attn.v_bias"]])
        mixed = []
        q, k, v = (norm(x, f"{at}.norm1") @ state[f"{at}.attn.qkv.weight"].T + bias).split(dim, -1)
        for head in range(heads):
            part = slice(head * each, (head + 1) * each)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(each)
            mixed.append(scores.softmax(-1) @ v[..., part])
        x = x + torch.cat(mixed, -1) @ state[f"{at}.attn.proj.weight"].T + state[f"{at}.attn.proj.bias"]
        y = norm(x, f"{at}.norm2") @ state[f"{at}.mlp.fc1.weight"].T + state[f"{at}.mlp.fc1.bias"]
        y = nn.functional.gelu(y) @ state[f"{at}.mlp.fc2.weight"].T + state[f"{at}.mlp.fc2.bias"]
        x = x + y
    return x


def near(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nest", ["model", "module"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_videomae_pretrained_gives_the_encoder(tmp_path, nest, prefix):
    state = videomae_pretrained()
    content = {
        nest: {f"{prefix}{k}": v for k, v in state.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": 7}}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 799,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="pretrain_videomae_base_patch16_224", mask_ratio=0.9),
    }
    torch.save(content, tmp_path / "checkpoint-799.pth")
    model = models.build("vit_base", **VIT, eps=1e-6).eval()
    report = models.load_weights(model, tmp_path / "checkpoint-799.pth")
    x = clip(4, 16)
    with torch.no_grad():
        near(model.tokens(x), videomae_tokens(state, x, prefix="encoder."))
    assert report.layout == "VideoMAE" and report.prefix == f"{prefix}encoder." and not report.remark
    assert set(report.loaded) == set(model.state_dict()) and not report.trouble
    why = models.account(model, tmp_path / "checkpoint-799.pth").set_index("in the file").why
    assert why[f"{prefix}decoder.head.weight"] == why[f"{prefix}mask_token"] == "decoder of the autoencoder"
    assert why[f"{prefix}encoder.norm.weight"].startswith("norm behind the encoder")


def videomae_finetuned(classes=5, dim=24, pooled=True):
    shapes = {"patch_embed.proj.weight": (dim, 3, 2, 8, 8), "patch_embed.proj.bias": (dim,)}
    shapes |= videomae_blocks("", dim, 3)
    shapes |= {f"{'fc_norm' if pooled else 'norm'}.{p}": (dim,) for p in ("weight", "bias")}
    return values(shapes | {"head.weight": (classes, dim), "head.bias": (classes,)})


@pytest.mark.parametrize("ema_first", [False, True])
def test_videomae_finetuned_comes_with_its_classifier(tmp_path, ema_first):
    state = videomae_finetuned()
    content = {"module": state, "model_ema": {k: torch.zeros_like(v) for k, v in state.items()}}
    torch.save(dict(reversed(content.items())) if ema_first else content, tmp_path / "w.pth")
    x = clip(4, 16)
    mean = videomae_tokens(state, x).mean(1)
    normed = nn.functional.layer_norm(mean, (24,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-5)
    model = models.build("vit_base", 5, **VIT, eps=1e-6).eval()
    report = models.load_weights(model, tmp_path / "w.pth")
    with torch.no_grad():
        near(model(x), normed @ state["head.weight"].T + state["head.bias"])
        assert report.layout == "VideoMAE, fine-tuned" and sorted(report.dropped) == [
            "fc_norm.bias",
            "fc_norm.weight",
        ]
        for classes in (None, 7):
            other = models.build("vit_base", classes, **VIT, eps=1e-6).eval()
            assert "fc.weight" in models.load_weights(other, tmp_path / "w.pth").dropped
            near(other.tokens(x), videomae_tokens(state, x))


def test_a_videomae_classifier_of_one_token_is_dropped(tmp_path):
    state = videomae_finetuned(pooled=False)
    torch.save({"module": state}, tmp_path / "w.pth")
    model, x = models.build("vit_base", 5, **VIT, eps=1e-6).eval(), clip(4, 16)
    before = model.fc.weight.clone()
    report = models.load_weights(model, tmp_path / "w.pth")
    assert {"head.weight", "head.bias", "norm.weight", "norm.bias"} == set(report.dropped)
    assert torch.equal(model.fc.weight, before)
    with torch.no_grad():
        near(model.tokens(x), videomae_tokens(state, x))


def test_missing_blocks_of_videomae_are_refused(tmp_path):
    state = videomae_pretrained()
    gone = [k for k in state if k.startswith("encoder.blocks.2.")]
    torch.save({"model": {k: v for k, v in state.items() if k not in gone}}, tmp_path / "w.pth")
    with pytest.raises(models.WeightsError, match="13 missing .blocks.2.norm1.weight.*MODEL_ZOO") as caught:
        models.load_weights(models.build("vit_base", **VIT), tmp_path / "w.pth")
    assert sentence(caught)


def test_names_and_shapes_of_the_full_videomae():
    with torch.device("meta"):
        model = models.build("vit_base")
    theirs = videomae_blocks("", 768, 12)
    theirs |= {"patch_embed.proj.weight": (768, 3, 2, 16, 16), "patch_embed.proj.bias": (768,)}
    assert theirs == {k: tuple(v.shape) for k, v in model.state_dict().items()}


def hub_network(hub, kind, **more):
    config = dict(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=24)
    config |= dict(num_hidden_layers=3, num_attention_heads=2, intermediate_size=96, initializer_range=0.2)
    config |= dict(decoder_hidden_size=12, decoder_num_hidden_layers=2, decoder_num_attention_heads=3)
    model = getattr(hub, kind)(hub.VideoMAEConfig(**config, decoder_intermediate_size=40, **more)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.7 if "norm" in name else 0.0, 0.2)
    return model


@pytest.mark.parametrize(
    "kind, more",
    [
        ("VideoMAEModel", dict(use_mean_pooling=True)),
        ("VideoMAEForPreTraining", dict(use_mean_pooling=False)),
        ("VideoMAEForVideoClassification", dict(num_labels=5)),
    ],
)
def test_hugging_face_files(tmp_path, kind, more):
    "By names, by the folder with its config.json, and as an encoder in three lines."
    from mvnb import own

    hub = pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    theirs = hub_network(hub, kind, **more)
    theirs.save_pretrained(tmp_path / "theirs")
    hub.VideoMAEImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]).save_pretrained(
        tmp_path / "theirs"
    )
    encoder = own.load_encoder(tmp_path / "theirs")
    x = own.prepare(torch.randint(0, 256, (2, 3, 4, 16, 16), dtype=torch.uint8), encoder)
    body = getattr(theirs, "videomae", theirs)
    with torch.no_grad():
        tokens = body.encoder(body.embeddings(x.transpose(1, 2), None)).last_hidden_state
        near(encoder.tokens(x), tokens)
    assert (encoder.clips.length, encoder.clips.size) == (4, 16)
    assert tuple(encoder.mean) == (0.1, 0.2, 0.3) and tuple(encoder.std) == (0.5, 0.6, 0.7)
    headed = models.build("vit_base", 5, **VIT).eval()
    report = models.load_weights(headed, tmp_path / "theirs" / "model.safetensors")
    assert report.layout == "Hugging Face's VideoMAE" and not report.trouble
    with torch.no_grad():
        near(headed.tokens(x), tokens)
        if kind == "VideoMAEForVideoClassification":
            near(headed(x), theirs(x.transpose(1, 2)).logits)
        else:
            assert not any(name.startswith("fc.") for name in report.loaded)
    why = models.account(headed, tmp_path / "theirs" / "model.safetensors").why
    assert "momentum encoder" not in set(why)


def test_pixels_are_those_of_the_code_that_trained(tmp_path):
    "A file's layout says how its clips were normalised; a file of this library has the library's."
    from mvnb import own

    torch.save(
        mcl_pretrained(values(mcl_shapes((64, 128, 256, 512), (3, 4, 6, 3))), 2048), tmp_path / "m.pth"
    )
    encoder = own.load_encoder(tmp_path / "m.pth", "r2plus1d_50")
    assert (encoder.mean, encoder.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert encoder.clips.size == 224
    meta = {"recipe": {"backbone": "r2plus1d_50", "clips": {"length": 16, "size": 112}}}
    models.save_weights(models.build("r2plus1d_50"), tmp_path / "own.safetensors", meta)
    ours = own.load_encoder(tmp_path / "own.safetensors")
    assert (ours.mean, ours.std, ours.clips.size) == (own.MEAN, own.STD, 112)


# --- torchvision


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "s3d"])
def test_torchvision_files(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lively(getattr(video, name)(weights=None, num_classes=3))
    torch.save(theirs.state_dict(), tmp_path / f"{name}.pth")
    ours = models.build(name, 3).eval()
    report = models.load_weights(ours, tmp_path / f"{name}.pth")
    assert len(report.loaded) == len(theirs.state_dict()) and report.layout == "torchvision"
    assert not report.remark and set(models.account(ours, tmp_path / f"{name}.pth").fate) == {"taken"}
    features = models.build(name)
    assert models.load_weights(features, tmp_path / f"{name}.pth").missing == []


def test_moco_r2plus1d_has_its_projection_head_in_fc(tmp_path):
    "FAME's code, its other backbone."
    source = lively(models.build("r2plus1d_18", **SMALL))
    state = {f"module.encoder_q.{k}": v for k, v in source.state_dict().items()}
    state |= {f"module.encoder_q.fc.{n}.weight": torch.randn(8, 16) for n in (0, 2)}
    torch.save({"state_dict": state}, tmp_path / "moco.pth.tar")
    target = models.build("r2plus1d_18", 5, **SMALL)
    report = models.load_weights(target, tmp_path / "moco.pth.tar")
    assert sorted(report.dropped) == ["fc.0.weight", "fc.2.weight"]
    with torch.no_grad():
        assert torch.equal(source.features(clip()), target.eval().features(clip()))


# --- what goes wrong is one sentence


def sentence(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_tensors_are_named_with_the_address(tmp_path):
    content = fame_pretrained(i3d())
    gone = [k for k in content["state_dict"] if k.startswith("module.encoder_q.mixed_4b")]
    for name in gone:
        del content["state_dict"][name]
    torch.save(content, tmp_path / "i3d.pth.tar")
    model = i3d()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(models.WeightsError) as caught:
        models.load_weights(model, tmp_path / "i3d.pth.tar")
    text = sentence(caught)
    assert (
        f"{sum('num_batches' not in name for name in gone)} missing (mixed_4b.branch_0.conv3d.weight" in text
    )
    assert "https://drive.google.com/file/d/1_-_yzR_esiY0IYKVYr_zjv7NlO43LcUL" in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (models.account(model, tmp_path / "i3d.pth.tar").fate == "missing").sum() > 10


def test_a_wrong_shape_names_both(tmp_path):
    content = fame_pretrained(i3d())
    content["state_dict"]["module.encoder_q.conv3d_2b_1x1.conv3d.weight"] = torch.zeros(6, 5, 1, 1, 1)
    torch.save(content, tmp_path / "i3d.pth.tar")
    with pytest.raises(models.WeightsError) as caught:
        models.load_weights(i3d(), tmp_path / "i3d.pth.tar")
    assert (
        "1 of another shape (conv3d_2b_1x1.conv3d.weight [6, 5, 1, 1, 1], here [6, 6, 1, 1, 1])"
        in sentence(caught)
    )


def test_an_unknown_layout_names_the_known_ones(tmp_path):
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(9, 3)}, tmp_path / "vit.pth")
    for act in (models.load_weights, models.account):
        with pytest.raises(models.WeightsError, match="none of its 1 tensors fits I3D") as caught:
            act(i3d(), tmp_path / "vit.pth")
        assert "PyVRL" in sentence(caught)


def test_code_in_a_published_file_is_never_run(tmp_path):
    class Stranger:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    content = fame_pretrained(i3d())
    content["args"] = Stranger()
    torch.save(content, tmp_path / "i3d.pth.tar")
    for act in (models.load_weights, models.account):
        with pytest.raises(models.WeightsError, match="not plain weights") as caught:
            act(i3d(), tmp_path / "i3d.pth.tar")
        assert sentence(caught)
    assert not (tmp_path / "ran").exists()


def test_an_own_encoder_from_such_a_file_sees_the_library_s_pixels(tmp_path):
    from mvnb import own

    torch.save(fame_pretrained(models.build("i3d")), tmp_path / "i3d.pth.tar")
    encoder = own.load_encoder(tmp_path / "i3d.pth.tar", "i3d")
    assert (encoder.mean, encoder.std) == (own.MEAN, own.STD)
    assert {m.eps for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm3d)} == {1e-5}
