"""Files with the names that FAME's and MAC's code and torchvision give to tensors; the values are random."""

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
