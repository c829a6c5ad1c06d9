"""Backbones against published numbers, torchvision and TensorFlow's padding rule; weights in and out."""

import math
import os
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models import video

from mvnb import models

SMALL = dict(widths=(4, 8, 8, 16), stem=(4, 3, 4), blocks=(1, 1, 1, 1))


def small(num_classes=None, **kw):
    return models.build("r2plus1d_18", num_classes, **{**SMALL, **kw})


def clip(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_start():
    torch.manual_seed(0)


# --- the published networks


@pytest.mark.parametrize("name, millions", [("r2plus1d_18", 31.51), ("r3d_18", 33.37), ("s3d", 8.32)])
def test_parameters_with_400_classes(name, millions):
    with torch.device("meta"):
        model = models.build(name, 400)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_i3d_numbers():
    about = models.describe("i3d", 16, 224)
    assert about["parameters"] == pytest.approx(12.29, abs=0.005)
    assert about["gflops"] == pytest.approx(27.8, abs=0.1)
    assert about["map"] == (2, 7, 7) and about["dim"] == 1024


def hooked_macs(model, x):
    "Multiply-adds of all convolutions, outputs × weights per output, counted with hooks."
    total, handles = [0], []

    def count(module, inputs, output):
        total[0] += output.numel() * module.weight[0].numel()

    for m in model.modules():
        if isinstance(m, nn.Conv3d):
            handles.append(m.register_forward_hook(count))
    model.features(x)
    return total[0]


@pytest.mark.parametrize("name", ["r2plus1d_18", "r2plus1d_10", "r3d_18", "s3d"])
def test_describe_counts_multiply_adds(name):
    with torch.device("meta"):
        expected = hooked_macs(models.build(name), torch.empty(1, 3, 16, 112, 112))
    assert models.describe(name, 16, 112)["gflops"] == pytest.approx(expected / 1e9, rel=1e-6)


@pytest.mark.parametrize(
    "name, map_",
    [
        ("r2plus1d_18", (2, 7, 7)),
        ("r2plus1d_10", (2, 7, 7)),
        ("r3d_18", (2, 7, 7)),
        ("s3d", (2, 3, 3)),
        ("i3d", (2, 4, 4)),
    ],
)
def test_maps_at_112(name, map_):
    assert models.describe(name, 16, 112)["map"] == map_


def test_ten_layers_are_one_block_per_stage():
    with torch.device("meta"):
        ten, full = models.build("r2plus1d_10"), models.build("r2plus1d_18")
    ten, full = ten.state_dict(), full.state_dict()
    assert {k for k in full if ".1.conv" not in k and not k.startswith("fc")} >= set(ten)
    assert {k.split(".")[1] for k in ten if k.startswith("layer")} == {"0"}
    assert all(ten[k].shape == full[k].shape for k in ten)


@pytest.mark.parametrize("name, frames, size", [("r2plus1d_18", 4, 32), ("r3d_18", 4, 32), ("s3d", 16, 224)])
def test_torchvision_state_dict_loads_by_name(name, frames, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(video, name)(weights=None, num_classes=11).eval()
    for m in theirs.modules():  # batch norm that does something
        if isinstance(m, nn.BatchNorm3d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    ours = models.build(name, 11).eval()
    ours.load_state_dict(theirs.state_dict())
    x = clip(2, 3, frames, size, size) if size < 100 else clip(1, 3, frames, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-6)


# --- I3D

I3D_NAMES = """
conv3d_1a_7x7.conv3d.weight
conv3d_1a_7x7.batch3d.running_var
conv3d_2b_1x1.conv3d.weight
conv3d_2c_3x3.batch3d.bias
mixed_3b.branch_0.conv3d.weight
mixed_3b.branch_1.0.conv3d.weight
mixed_3b.branch_1.1.batch3d.weight
mixed_3c.branch_2.0.batch3d.running_mean
mixed_4b.branch_2.1.conv3d.weight
mixed_4f.branch_3.1.conv3d.weight
mixed_5c.branch_3.1.batch3d.bias
conv3d_0c_1x1.conv3d.weight
conv3d_0c_1x1.conv3d.bias
""".split()


def test_i3d_names_and_shapes():
    with torch.device("meta"):
        state = models.build("i3d", 400).state_dict()
    assert set(I3D_NAMES) <= set(state)
    assert {k.split(".")[0] for k in state} == {
        "conv3d_1a_7x7",
        "conv3d_2b_1x1",
        "conv3d_2c_3x3",
        "conv3d_0c_1x1",
        *(f"mixed_{n}" for n in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")),
    }
    assert state["conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["mixed_4f.branch_1.1.conv3d.weight"].shape == (320, 160, 3, 3, 3)
    assert state["mixed_5c.branch_3.1.conv3d.weight"].shape == (128, 832, 1, 1, 1)
    assert state["conv3d_0c_1x1.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    assert not any(k.endswith("conv3d.bias") for k in state if not k.startswith("conv3d_0c"))
    assert models.build("i3d", 2, width=0.1).conv3d_1a_7x7.batch3d.eps == 1e-3


def windows(size, kernel, stride):
    "TensorFlow's SAME rule, from its documentation: ceil(size/stride) windows; the odd zero comes after."
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    starts = [i * stride - total // 2 for i in range(out)]
    return [[(t if 0 <= t < size else None) for t in range(s, s + kernel)] for s in starts]


def slow_same(x, kernel, stride, reduce):
    "Apply `reduce(patch [C,k,k,k], inside [k,k,k])` to every SAME window of x [C,T,H,W]."
    grids = [windows(n, k, s) for n, k, s in zip(x.shape[1:], kernel, stride)]
    out = [[[None] * len(grids[2]) for _ in grids[1]] for _ in grids[0]]
    for a, ts in enumerate(grids[0]):
        for b, ys in enumerate(grids[1]):
            for c, xs in enumerate(grids[2]):
                inside = np.zeros((len(ts), len(ys), len(xs)), bool)
                patch = np.zeros((len(x), *inside.shape))
                for i, t in enumerate(ts):
                    for j, y in enumerate(ys):
                        for k, z in enumerate(xs):
                            if None not in (t, y, z):
                                patch[:, i, j, k] = x[:, t, y, z]
                                inside[i, j, k] = True
                out[a][b][c] = reduce(patch, inside)
    return np.moveaxis(np.array(out), -1, 0)


@pytest.mark.parametrize("kernel, stride", [(7, 2), (3, 1), (3, 2), (1, 1), (2, 2)])
@pytest.mark.parametrize("shape", [(4, 6, 5), (5, 7, 8)])
def test_same_convolution_against_windows(kernel, stride, shape):
    unit = models.Unit3D(2, 3, kernel, stride, classifier=True)  # the bare convolution
    nn.init.normal_(unit.conv3d.weight)
    nn.init.zeros_(unit.conv3d.bias)
    x, w = clip(1, 2, *shape), unit.conv3d.weight.detach().double().numpy()
    want = slow_same(
        x[0].double().numpy(), (kernel,) * 3, (stride,) * 3, lambda p, inside: (w * p).sum((1, 2, 3, 4))
    )
    np.testing.assert_allclose(unit(x)[0].detach().numpy(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kernel, stride",
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
@pytest.mark.parametrize("shape", [(4, 6, 5), (5, 7, 8), (1, 1, 3)])
def test_same_pool_against_windows(kernel, stride, shape):
    x = clip(1, 2, *shape)  # negative values too: padding must not win
    want = slow_same(x[0].double().numpy(), kernel, stride, lambda p, inside: p[:, inside].max(1))
    np.testing.assert_allclose(models.SamePool(kernel, stride)(x)[0].numpy(), want, rtol=1e-6)


@given(size=st.integers(1, 60), kernel=st.integers(1, 7), stride=st.integers(1, 3))
def test_same_padding_gives_ceil(size, kernel, stride):
    before, after = models.same_padding(size, kernel, stride)
    assert after - before in (0, 1)
    if kernel >= stride:
        assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)


def test_i3d_is_not_symmetric_padding():
    "Symmetric padding shifts the stem's grid by a pixel and changes the features."
    net = models.build("i3d", width=0.1).eval()
    x, conv = clip(1, 3, 8, 32, 32), net.conv3d_1a_7x7.conv3d
    with torch.no_grad():
        ours = net.conv3d_1a_7x7(x)
        symmetric = F.relu(net.conv3d_1a_7x7.batch3d(F.conv3d(x, conv.weight, None, 2, 3)))
    assert ours.shape == symmetric.shape and not torch.allclose(ours, symmetric)


# --- the contract


@pytest.mark.parametrize("name", ["r2plus1d_tiny", "r3d_tiny", "i3d_tiny", "r2plus1d_50_tiny", "r2d_50_tiny"])
@pytest.mark.parametrize("frames, size", [(8, 48), (5, 33)])
def test_contract(name, frames, size):
    feature, logits = models.build(name).eval(), models.build(name, 7, dropout=0.5).eval()
    x = clip(2, 3, frames, size, size)
    with torch.no_grad():
        last = feature.features(x)
        assert last.shape[:2] == (2, feature.dim) and last.ndim == 5
        torch.testing.assert_close(feature(x), last.mean((2, 3, 4)))
        assert logits(x).shape == (2, 7)
        torch.testing.assert_close(feature(x)[:1], feature(x[:1]), rtol=1e-4, atol=1e-5)  # samples do not mix


def test_dropout_only_before_the_classifier_and_only_in_training():
    model, x = small(3, dropout=0.9), clip(4, 3, 4, 16, 16)
    with torch.no_grad():
        model.train()
        assert torch.equal(model.features(x), model.features(x)) and not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", list(models.BACKBONES))
def test_all_names_build(name):
    with torch.device("meta"):
        assert models.build(name).dim > 0
        assert models.build(name, 3)(torch.empty(1, 3, 16, 64, 64)).shape == (1, 3)


# --- batch norm's epsilon

OWN_EPS = {
    "i3d": 1e-3,
    "i3d_tiny": 1e-3,
    "s3d": 1e-3,
    "i2d": 1e-3,
    "r3d_18_pyvrl": 1e-3,
    "r2plus1d_18_pyvrl": 1e-3,
}  # all others 1e-5


def norms(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", list(models.BACKBONES))
def test_epsilon_of_every_batch_norm(name):
    with torch.device("meta"):
        plain = models.build(name)
        if not norms(plain):  # a transformer
            with pytest.raises(ValueError, match="has no batch norm"):
                models.build(name, bn_eps=0.02)
            return
        given = models.build(name, bn_eps=0.02)
    assert {m.eps for m in norms(plain)} == {OWN_EPS.get(name, 1e-5)}
    assert {m.eps for m in norms(given)} == {0.02} and len(norms(given)) == len(norms(plain))


def test_epsilon_changes_no_weight_and_acts_as_in_the_formula(tmp_path):
    torch.manual_seed(3)
    plain = models.build("i3d_tiny").eval()
    torch.manual_seed(3)
    given = models.build("i3d_tiny", bn_eps=0.5).eval()
    assert same(plain, given)
    first, x = given.conv3d_1a_7x7, clip(2, 3, 8, 32, 32)
    with torch.no_grad():
        first.batch3d.running_var.fill_(0.25)
        before = plain.conv3d_1a_7x7
        before.batch3d.eps = 0.0
        torch.testing.assert_close(first(x), before(x) / (0.25 + 0.5) ** 0.5)  # its variance is 1
    path = models.save_weights(given, tmp_path / "w.safetensors")
    again = models.build("i3d_tiny", weights=str(path), bn_eps=0.5).eval()
    assert torch.equal(again(x), given(x))
    assert not torch.allclose(models.build("i3d_tiny", weights=str(path)).eval()(x), given(x))


@pytest.mark.parametrize("eps", [0, -1e-5, float("nan"), float("inf")])
def test_an_impossible_epsilon_is_refused(eps):
    with pytest.raises(ValueError, match="bn_eps"):
        models.build("i3d_tiny", bn_eps=eps)


def test_an_epsilon_without_effect_is_refused(monkeypatch):
    class Bare(models.Backbone):
        def __init__(self, num_classes=None, dropout=0.0):
            super().__init__(3, num_classes, dropout)

    monkeypatch.setitem(models.BACKBONES, "bare", (Bare, {}))
    assert models.build("bare").dim == 3
    with pytest.raises(ValueError, match="no batch norm"):
        models.build("bare", bn_eps=1e-5)


def test_describe_takes_an_epsilon():
    assert models.describe("i3d_tiny", 8, 32, bn_eps=1e-5) == models.describe("i3d_tiny", 8, 32)


def test_bf16_autocast_and_gradient():
    model = small(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(clip(2, 3, 4, 32, 32)), torch.tensor([0, 2]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "args, sentence",
    [(("r2plus1d18",), "did you mean"), (("resnet",), "there are"), (("i3d", None, 0.0), "takes|positional")],
)
def test_unknown_names(args, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        models.build(*args)


def test_unknown_settings_and_shapes():
    with pytest.raises(ValueError, match="depth"):
        models.build("i3d", depth=3)
    with pytest.raises(ValueError, match=r"\[B,3,T,H,W\]"):
        small()(torch.zeros(2, 4, 16, 16))
    with pytest.raises(ValueError, match="mlp"):
        models.projection_head("cubic", 8)


@pytest.mark.parametrize(
    "kind, shapes", [("linear", [(128, 16), (128,)]), ("mlp", [(16, 16), (16,), (128, 16), (128,)])]
)
def test_heads(kind, shapes):
    assert [tuple(p.shape) for p in models.projection_head(kind, 16).parameters()] == shapes


def test_the_head_of_i3d_has_two_layers():
    with torch.device("meta"):
        dim = models.build("i3d").dim
    head = models.projection_head("mlp", dim, 128)
    assert [tuple(p.shape) for p in head.parameters()] == [(1024, 1024), (1024,), (128, 1024), (128,)]
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear"]
    assert head(torch.randn(2, dim)).shape == (2, 128)


# --- weights


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_round_trip_with_meta(tmp_path):
    a, b = small(3), small(3)
    a.stem[1].running_mean.fill_(2)
    meta = {"recipe": {"epochs": 3}, "name": "ü"}
    path = models.save_weights(a, tmp_path / "deep" / "w.safetensors", meta)
    report = models.load_weights(b, path)
    assert same(a, b) and report.meta == meta
    assert not (report.missing or report.unexpected or report.mismatched or report.dropped)
    assert os.listdir(path.parent) == ["w.safetensors"]


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "encoder_q.", "module.encoder_q.", "state.net.0."]
)
@pytest.mark.parametrize(
    "nest",
    [
        lambda s: s,
        lambda s: {"epoch": 3, "state_dict": s},
        lambda s: {"a": {"model": s}, "optimizer": {"x": torch.ones(2)}},
    ],
)
def test_prefixes_and_nesting(tmp_path, prefix, nest):
    a, b = small(), small()
    torch.save(nest({prefix + k: v for k, v in a.state_dict().items()}), tmp_path / "w.pt")
    report = models.load_weights(b, tmp_path / "w.pt")
    assert same(a, b) and report.prefix == prefix


def test_of_query_and_key_encoder_the_query_is_taken(tmp_path):
    q, k, b = small(), small(), small()
    state = {f"encoder_k.{n}": v for n, v in k.state_dict().items()}
    state |= {f"encoder_q.{n}": v for n, v in q.state_dict().items()}
    state["queue"] = torch.randn(128, 64)
    state["encoder_q.fc.0.weight"] = torch.randn(16, 16)
    state["encoder_q.fc.2.weight"] = torch.randn(128, 16)
    torch.save({"state_dict": state}, tmp_path / "moco.pth.tar")
    report = models.load_weights(b, tmp_path / "moco.pth.tar")
    assert same(q, b) and sorted(report.dropped) == ["fc.0.weight", "fc.2.weight"]


def test_our_own_method_gives_its_backbone(tmp_path):
    from mvnb.methods.contrast import MoCo

    method, b = MoCo("r2plus1d_18", queue=8, seed=3, **SMALL), small()
    with torch.no_grad():
        for p in method.contrast.key_backbone.parameters():
            p.zero_()
    models.load_weights(b, models.save_weights(method, tmp_path / "method.safetensors"))
    assert same(method.backbone, b)


def test_classifier_of_other_size_is_dropped_and_the_own_one_kept(tmp_path):
    a, b = small(3), small(5)
    mine = b.fc.weight.clone()
    report = models.load_weights(b, models.save_weights(a, tmp_path / "w.safetensors"))
    assert sorted(report.dropped) == ["fc.bias", "fc.weight"] and "dropped" in str(report)
    assert torch.equal(b.fc.weight, mine) and torch.equal(a.stem[0].weight, b.stem[0].weight)


def test_old_checkpoints_without_batch_counts_load(tmp_path):
    a, b = small(), small()
    torch.save({k: v for k, v in a.state_dict().items() if "num_batches" not in k}, tmp_path / "w.pt")
    assert models.load_weights(b, tmp_path / "w.pt").missing == []


def test_strictness(tmp_path):
    a, b = small(), small()
    state = a.state_dict()
    lost, other = "layer1.0.conv1.0.0.weight", "layer2.0.conv1.0.0.weight"
    state.pop(lost)
    state |= {other: torch.zeros(1, 2, 3, 4, 5), "more.weight": torch.ones(1)}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    before = b.state_dict()[lost].clone()
    with pytest.raises(models.WeightsError, match="w.safetensors.*missing.*unexpected.*shape"):
        models.load_weights(b, tmp_path / "w.safetensors")
    report = models.load_weights(b, tmp_path / "w.safetensors", strict=False)
    assert (
        report.missing == [lost] and report.unexpected == ["more.weight"] and report.mismatched[0][0] == other
    )
    assert torch.equal(b.state_dict()[lost], before) and torch.equal(a.stem[0].weight, b.stem[0].weight)


def test_another_network_is_refused_and_nothing_changed(tmp_path):
    b = small()
    before = {k: v.clone() for k, v in b.state_dict().items()}
    path = models.save_weights(models.build("i3d", width=0.05), tmp_path / "i3d.safetensors")
    for strict in (True, False):
        with pytest.raises(models.WeightsError, match="none of its .* tensors fits"):
            models.load_weights(b, path, strict)
    assert all(torch.equal(v, before[k]) for k, v in b.state_dict().items())


class Stranger:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"model": Stranger(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(models.WeightsError, match="w.pt: not plain weights"):
        models.read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, content",
    [
        ("w.safetensors", b""),
        ("w.safetensors", b"not weights at all"),
        ("w.pt", b""),
        ("w.pt", b"hello"),
        ("w.safetensors", None),
        ("w.pt", None),
        ("w.npz", b"x"),
        ("empty.pt", "empty"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    if content is None:  # cut short
        good = tmp_path / ("full" + path.suffix)
        if path.suffix == ".safetensors":
            models.save_weights(small(), good)
        else:
            torch.save(small().state_dict(), good)
        content = good.read_bytes()[:-1000]
    if content == "empty":
        torch.save({"epoch": 3}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(models.WeightsError, match=name):
        models.load_weights(small(), path)


def test_missing_file_and_wrong_suffix(tmp_path):
    with pytest.raises(models.WeightsError, match="no such file"):
        models.load_weights(small(), tmp_path / "none.pt")
    with pytest.raises(models.WeightsError, match="safetensors"):
        models.save_weights(small(), tmp_path / "w.pt")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    a = small()
    path = models.save_weights(a, tmp_path / "w.safetensors")
    old = path.read_bytes()

    def full(handle):
        raise OSError(28, "disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"w\.safetensors: .* MB could not be written: no room \(disk full\)"):
        models.save_weights(small(), path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["w.safetensors"]


def test_saved_weights_can_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        path = models.save_weights(small(), tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_stages_need_a_width_and_a_number_of_blocks_each():
    with pytest.raises(ValueError, match="different numbers of stages"):
        models.build("r2plus1d_18", widths=(8, 8, 16))
    with pytest.raises(ValueError, match="one of each per stage"):
        models.build("r2plus1d_tiny", widths=(8, 8, 16, 16))
    model = models.build("r3d_18", widths=(8, 8), blocks=(1, 2))
    assert model.features(torch.rand(1, 3, 4, 32, 32)).shape[1] == model.dim == 8


def test_a_registered_class_is_built_by_name(monkeypatch):
    class Flat(models.Backbone):
        def __init__(self, num_classes=None, dropout=0.0, dim=4):
            super().__init__(dim, num_classes, dropout)

        def features(self, clip):
            return clip.mean(1, keepdim=True).expand(-1, self.dim, -1, -1, -1)

    monkeypatch.setattr(models, "BACKBONES", dict(models.BACKBONES))
    models.register("flat", Flat, dim=6)
    assert models.build("flat").dim == 6 and models.build("flat", dim=3).dim == 3
    assert models.build("flat")(clip(2, 3, 4, 5, 5)).shape == (2, 6)


@pytest.mark.parametrize("name", ["r2plus1d_tiny", "r3d_tiny", "i3d_tiny"])
def test_a_seed_gives_the_same_weights(name):
    torch.manual_seed(7)
    a = models.build(name, 3)
    torch.manual_seed(7)
    assert same(a, models.build(name, 3)) and not same(a, models.build(name, 3))


@pytest.mark.parametrize("conv", ["2plus1d", "3d"])
def test_a_plain_network_is_its_convolutions_in_a_row(conv):
    "Against the layers applied one by one with torch's functions."
    torch.manual_seed(0)
    model = models.Plain3D(conv, widths=(4, 6), strides=((1, 2), (2, 2)), channels=1).eval()
    x = clip = torch.randn(2, 1, 6, 16, 16)
    layers = [layer for name in ("stem", *model.stages) for layer in getattr(model, name)]
    for norm in layers[1::3]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    sides = [(1, 5), (2, 3)]
    for number, convolution in enumerate(layers[::3]):
        stage = number // 2 if conv == "2plus1d" else number
        time, kernel = sides[stage]
        if conv == "2plus1d":
            options = [dict(stride=(1, 2, 2), padding=(0, kernel // 2, kernel // 2))]
            options += [dict(stride=(time, 1, 1), padding=(1, 0, 0))]
            option = options[number % 2]
        else:
            option = dict(stride=(time, 2, 2), padding=(1, kernel // 2, kernel // 2))
        norm = layers[3 * number + 1]
        x = torch.nn.functional.conv3d(x, convolution.weight, **option)
        mean, var = (v.view(-1, 1, 1, 1) for v in (norm.running_mean, norm.running_var))
        x = ((x - mean) / (var + norm.eps).sqrt() * norm.weight.view(-1, 1, 1, 1)).relu()
    assert x.shape == (2, 6, 3, 4, 4)
    torch.testing.assert_close(model.features(clip), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["r2plus1d_tiny", "r3d_tiny", "i3d_tiny", "r2plus1d_50_tiny", "r2plus1d_18", "i3d"]
)
def test_networks_for_gray_clips(name):
    about = models.describe(name, 8, 32, channels=1)
    assert about["parameters"] < models.describe(name, 8, 32)["parameters"]
    with torch.device("meta"):
        model = models.build(name, channels=1).eval()
        assert model(torch.empty(2, 1, 8, 32, 32)).shape == (2, model.dim)
        with pytest.raises(ValueError, match=r"takes clips \[B,1,T,H,W\]"):
            model(torch.empty(2, 3, 8, 32, 32))


# --- bottlenecks, single frames, and weights of pictures


def randomised(model):
    "Batch norm as after a training: means, variances and weights of its own; values stay near 1."
    make = torch.Generator().manual_seed(3)
    for m in norms(model):
        for tensor, low, high in (
            (m.running_mean, -0.2, 0.2),
            (m.running_var, 0.5, 2.0),
            (m.weight, 0.2, 0.6),
        ):
            tensor.data.copy_(torch.rand(tensor.shape, generator=make) * (high - low) + low)
    return model.eval()


@pytest.mark.parametrize(
    "name, frames, millions", [("r2plus1d_50", 16, 27.3), ("r2d_50", 1, 23.5), ("s3d", 16, 7.9)]
)
def test_parameters_as_mcl_prints_them(name, frames, millions):
    "Its Table 3, which has one decimal; R(2+1)D-50 also by hand."
    about = models.describe(name, frames, 224)
    assert round(about["parameters"], 1) == millions
    if name == "r2plus1d_50":
        widths = {64: 3, 128: 4, 256: 6, 512: 3}
        temporal = sum(3 * width**2 * blocks for width, blocks in widths.items()) + 3 * 64 * 3 * 49
        two = sum(p.numel() for n, p in torchvision.models.resnet50().named_parameters() if n[:2] != "fc")
        assert about["parameters"] * 1e6 == two + temporal
        assert about["map"] == (4, 7, 7) and about["dim"] == 2048


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "torchvision's ResNet-50 after no training, and a checkpoint as MoCo would have written it."
    torch.manual_seed(0)
    two = randomised(torchvision.models.resnet50())
    state = {f"module.encoder_q.{k}": v for k, v in two.state_dict().items() if k[:2] != "fc"}
    state |= {k.replace("_q.", "_k."): torch.zeros_like(v) for k, v in state.items()}
    path = tmp_path_factory.mktemp("moco") / "moco_v2.pth.tar"
    torch.save({"epoch": 200, "state_dict": state}, path)
    maps = nn.Sequential(*list(two.children())[:-2])
    return maps.eval(), path


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_an_inflated_network_sees_every_fourth_frame_as_the_2d_one_does(pictures):
    two, path = pictures
    model = models.build("r2plus1d_50")
    report = models.inflate(model, path)
    x = clip(1, 3, 16, 64, 64)
    with torch.no_grad():
        found = model.eval().features(x)
        assert found.shape == (1, 2048, 4, 2, 2)
        for t in range(4):
            close(found[:, :, t], two(x[:, :, 4 * t + 1]))
        still = x[:, :, 5:6].expand(-1, -1, 16, -1, -1)
        close(model(still), two(x[:, :, 5]).mean((2, 3)))
    assert report.prefix == "module.encoder_q." and not report.missing
    assert sum(fate.why == "the identity" for fate in report.fates) == 3 + 4 + 6 + 3
    assert all(fate.why == "momentum encoder" for fate in report.fates if "encoder_k" in fate.theirs)


def test_a_network_of_single_frames_is_the_2d_one(pictures):
    two, path = pictures
    model = models.build("r2d_50")
    models.inflate(model, path)
    x = clip(2, 3, 3, 64, 64)
    with torch.no_grad():
        found = model.eval().features(x)
        for t in range(3):
            close(found[:, :, t], two(x[:, :, t]))


def test_i2d_is_googlenet_over_frames():
    torch.manual_seed(0)
    theirs = randomised(torchvision.models.googlenet(aux_logits=False, init_weights=False))
    ours = models.build("i2d", 1000)
    ours.load_state_dict(theirs.state_dict())
    x = clip(2, 3, 3, 64, 64)
    with torch.no_grad():
        features = ours.eval().features(x)
        assert features.shape == (2, 1024, 3, 2, 2)
        each = torch.stack([theirs(x[:, :, t]) for t in range(3)]).mean(0)  # linear behind the mean
        close(ours(x), each)


def test_what_cannot_be_inflated_changes_nothing(pictures, tmp_path):
    two, path = pictures
    state = {"module.encoder_q." + k: v for k, v in torchvision.models.resnet50().state_dict().items()}
    del state["module.encoder_q.layer1.0.bn2.weight"]
    state["module.encoder_q.conv1.weight"] = torch.rand(64, 3, 5, 5)
    torch.save(state, tmp_path / "short.pth")
    model = models.build("r2plus1d_50")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(models.WeightsError, match=r"1 missing \(layer1.0.bn2.weight\).*conv1.weight.*5, 5"):
        models.inflate(model, tmp_path / "short.pth")
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_time_is_mixed_by_the_temporal_convolutions_alone():
    "A change in one quarter of a clip reaches the others only with them."
    for time, reached in ((True, True), (False, False)):
        torch.manual_seed(0)
        model = models.build("r2plus1d_50_tiny", time=time).eval()
        x = clip(1, 3, 8, 32, 32)
        other = x.clone()
        other[:, :, :2] += 1  # the stem takes two frames at a time
        with torch.no_grad():
            difference = (model.features(x) - model.features(other)).abs().amax((0, 1, 3, 4))
        assert difference[0] > 0 and bool(difference[1:].any()) == reached


def test_clips_shorter_than_the_first_convolution_are_refused():
    with pytest.raises(ValueError, match="clips of 3 frames are too short: the first convolution takes 4"):
        models.build("r2plus1d_50", widths=(4, 4), blocks=(1, 1))(clip(1, 3, 3, 32, 32))


CONVOLUTIONAL = ["r2plus1d_tiny", "r3d_tiny", "i3d_tiny", "r2plus1d_50_tiny", "r2d_50_tiny", "s3d"]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_last_convolution_is_read_and_in_the_graph(name):
    model, x = models.build(name).eval(), clip(2, 3, 8, 64, 64)
    feature, last = models.with_last_map(model, x)
    assert last.ndim == 5 and last.shape[:2] == (2, model.dim)
    torch.testing.assert_close(feature, model(x))
    (gradient,) = torch.autograd.grad(feature.sum(), last)
    assert gradient.shape == last.shape and gradient.any()
    negative = (last < 0).any().item()  # before batch norm and rectifier, where there is such a layer
    assert negative == (model.last_layer is not None)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "r2plus1d_18_pyvrl", "r2plus1d_50"])
def test_the_last_layer_is_the_last_convolution(name):
    with torch.device("meta"):
        model = models.build(name)
    inside = [n for n, m in model.named_modules() if isinstance(m, nn.Conv3d) and "downsample" not in n]
    assert inside[-1].startswith(model.last_layer)
