"CAM, Grad-CAM and shares against oracles written by hand; the model is left as it was."

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings as hyp, strategies as st
from torch import nn

from mvnb import explain, models

torch.manual_seed(0)
FAMILIES = ("r2plus1d_tiny", "r3d_tiny", "i3d_tiny")


class Tiny(models.Backbone):
    "Two convolutions, batch norm, dropout and a classifier; stride 2 on odd lengths, so a flip is exact."

    def __init__(self, classes=3):
        super().__init__(6, classes, dropout=0.5)
        self.first = nn.Sequential(nn.Conv3d(3, 5, 3, padding=1), nn.BatchNorm3d(5), nn.ReLU(True))
        self.second = nn.Sequential(nn.Conv3d(5, 6, 3, 2, 1), nn.BatchNorm3d(6), nn.ReLU(True))
        if classes:
            self.fc = nn.Linear(6, classes)

    def features(self, clip):
        return self.second(self.first(clip))


@pytest.fixture
def net():
    torch.manual_seed(3)
    model = Tiny()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm3d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
    return model


@pytest.fixture
def clip():
    return torch.rand(2, 3, 5, 9, 11, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- CAM


def by_hand(maps, weight, target):
    "CAM with loops, from the definition."
    out = np.zeros((len(maps), *maps.shape[2:]))
    for b in range(len(maps)):
        for d in range(maps.shape[1]):
            out[b] += weight[target[b], d] * maps[b, d]
    return out


def scaled(signed, scale):
    out = []
    for m in signed:
        m = m - m.min() if scale == "minmax" else np.maximum(m, 0)
        out.append(m / m.max() if m.max() > 0 else m)
    return np.stack(out)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mean_of_the_evidence_is_the_logit(name):
    "For every family: the mean of the evidence plus the bias is the logit."
    model, x = models.build(name, num_classes=4).eval(), torch.rand(2, 3, 8, 64, 64)
    for p in model.parameters():
        if p.ndim == 1 and len(p) == 4:
            torch.nn.init.normal_(p, 0, 0.1)
    bias = next(
        p for n, p in model.named_parameters() if n.startswith(model.classifier_prefix) and n.endswith("bias")
    )
    weights, maps = explain.class_weights(model), explain.last_map(model, x)
    with torch.no_grad():
        logits = model(x)
    assert weights.shape == (4, model.dim)
    for c in range(4):
        assert torch.allclose(
            explain.evidence(maps, weights[c]).mean((1, 2, 3)) + bias[c], logits[:, c], atol=1e-4
        )


@pytest.mark.parametrize("scale", explain.SCALES)
@pytest.mark.parametrize("target", [None, 1, torch.tensor([2, 0])])
def test_cam_is_the_weighted_sum_by_hand(net, clip, target, scale):
    net.eval()
    with torch.no_grad():
        maps, said = net.features(clip), net(clip).argmax(1)
    chosen = said if target is None else torch.as_tensor(target).expand(2)
    signed = by_hand(maps.numpy(), net.fc.weight.detach().numpy(), chosen)
    full = F.interpolate(torch.from_numpy(signed)[:, None], size=clip.shape[2:], mode="trilinear")[
        :, 0
    ].numpy()
    got = explain.cam(net.train(), clip, target, scale=scale)
    assert got.shape == (2, 5, 9, 11) and np.allclose(got, scaled(full, scale), atol=1e-5)


def test_a_separate_head_of_any_linear_kind(net, clip):
    bare = Tiny(None)
    bare.load_state_dict(net.state_dict(), strict=False)
    conv = nn.Conv3d(6, 3, 1)
    conv.weight.data = net.fc.weight.data[:, :, None, None, None].clone()
    conv.bias.data = net.fc.bias.data.clone()
    expected = explain.cam(net, clip, 1)
    assert torch.allclose(explain.cam(bare, clip, 1, head=net.fc), expected)
    assert torch.equal(explain.class_weights(conv), net.fc.weight)
    assert torch.allclose(explain.cam(bare, clip, head=net.fc), explain.cam(net, clip))


# ---------------------------------------------------------------- Grad-CAM


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("target", [0, 2])
def test_for_mean_and_linear_layer_grad_cam_is_cam(net, clip, target, pool):
    assert torch.allclose(
        explain.grad_cam(net, clip, target, pool=pool),
        explain.cam(net, clip, target, scale="positive"),
        atol=1e-5,
    )


def test_by_default_the_best_class_is_explained(net, clip):
    with torch.no_grad():
        best = net.eval()(clip).argmax(1)
    assert torch.equal(explain.grad_cam(net, clip), explain.grad_cam(net, clip, best))


def slopes(net, clip, score, layer):
    "Gradient of the score by the layer's output, by central differences in float64, value by value."
    net = net.double().eval()
    with torch.no_grad():
        at = net.first(clip.double())
        if layer is None:
            at = net.second(at)

        def rest(maps):
            last = maps if layer is None else net.second(maps)
            return score(net.classify(last.mean((2, 3, 4))))

        flat, out = at.flatten(1), torch.zeros_like(at).flatten(1)
        for k in range(flat.shape[1]):
            step = torch.zeros_like(flat)
            step[:, k] = 1e-5
            out[:, k] = (rest((flat + step).view_as(at)) - rest((flat - step).view_as(at))) / 2e-5
    return at, out.view_as(at)


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("layer", [None, "first"])
def test_grad_cam_against_finite_differences(net, layer, pool):
    clip = torch.rand(2, 3, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    score = lambda outputs: outputs.softmax(1)[:, 0] + outputs[:, 1] * outputs[:, 2]  # not linear in the map
    got = explain.grad_cam(net, clip, score, layer=layer, pool=pool)
    at, slope = slopes(net, clip, score, layer)
    signed = (at * (slope.mean((2, 3, 4), keepdim=True) if pool else slope)).sum(1)
    full = F.interpolate(signed[:, None], size=clip.shape[2:], mode="trilinear")[:, 0].numpy()
    assert np.allclose(got, scaled(full, "positive"), atol=2e-3) and got.max() == 1


def test_similarity_of_embeddings_through_a_normalised_head(net, clip):
    "A contrastive score: the slope of q·k with respect to a normalised, projected feature, written out."
    head, bare = nn.Linear(6, 4), Tiny(None)
    bare.load_state_dict(net.state_dict(), strict=False)
    key = F.normalize(torch.rand(2, 4), dim=1)
    got = explain.grad_cam(bare, clip, lambda z: (F.normalize(z, dim=1) * key).sum(1), head)
    with torch.no_grad():
        maps = bare.eval().features(clip)
        z = head(maps.mean((2, 3, 4)))
        q, length = F.normalize(z, dim=1), z.norm(dim=1, keepdim=True)
        slope = ((key - (q * key).sum(1, keepdim=True) * q) / length) @ head.weight
        signed = (maps * slope[:, :, None, None, None]).sum(1)
    full = F.interpolate(signed[:, None], size=clip.shape[2:], mode="trilinear")[:, 0].numpy()
    assert np.allclose(got, scaled(full, "positive"), atol=1e-4)


def test_a_flip_of_the_clip_flips_the_map():
    "Exact for a network without a preferred side: mirrored kernels, odd sizes."
    torch.manual_seed(5)
    net = Tiny().eval()
    for m in net.modules():
        if isinstance(m, nn.Conv3d):
            m.weight.data = (m.weight.data + m.weight.data.flip(-1)) / 2
    clip = torch.rand(2, 3, 5, 9, 11)
    for look in (
        lambda x: explain.cam(net, x, 1),
        lambda x: explain.grad_cam(net, x, 1, scale="minmax"),
        lambda x: explain.grad_cam(net, x, 1, layer="first", pool=False),
        lambda x: explain.feature_norm(net, x),
    ):
        assert torch.allclose(look(clip.flip(-1)), look(clip).flip(-1), atol=1e-5)
        assert not torch.allclose(look(clip.flip(-1)), look(clip), atol=1e-2)


def test_a_sample_does_not_depend_on_its_batch(net, clip):
    for look in (
        lambda x: explain.cam(net, x),
        lambda x: explain.grad_cam(net, x, layer="first"),
        lambda x: explain.feature_norm(net, x),
    ):
        assert torch.allclose(look(clip)[1:], look(clip[1:]), atol=1e-5)


@pytest.mark.parametrize(
    "name,layer",
    [
        ("r2plus1d_tiny", "layer2"),
        ("r3d_tiny", "stem.0"),
        ("i3d_tiny", "mixed_3b"),
        ("i3d_tiny", "conv3d_2b_1x1.batch3d"),
        ("s3d", None),
    ],
)
def test_every_family_and_layers_that_work_in_place(name, layer):
    if name == "s3d":
        model, x = models.build(name, num_classes=3), torch.rand(1, 3, 16, 64, 64)
    else:
        model, x = models.build(name, num_classes=3), torch.rand(2, 3, 8, 48, 48)
    got = explain.grad_cam(model, x, layer=layer)
    assert got.shape == (len(x), *x.shape[2:]) and got.min() >= 0 and got.max() <= 1 and got.isfinite().all()
    assert explain.class_weights(model).shape == (3, model.dim)


# ---------------------------------------------------------------- no trace

CALLS = {
    "cam": lambda m, x: explain.cam(m, x),
    "grad_cam": lambda m, x: explain.grad_cam(m, x),
    "layer": lambda m, x: explain.grad_cam(m, x, layer="first", pool=False),
    "norm": lambda m, x: explain.feature_norm(m, x),
    "map": lambda m, x: explain.last_map(m, x),
}


def trace(model):
    return (
        {n: m.training for n, m in model.named_modules()},
        {
            n: (p.requires_grad, None if p.grad is None else p.grad.clone())
            for n, p in model.named_parameters()
        },
        {n: v.clone() for n, v in model.state_dict().items()},
        {
            n: len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for n, m in model.named_modules()
        },
    )


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(a.values(), b.values())
    )


def untouched(before, after):
    assert before[0] == after[0] and before[3] == after[3] and same(before[2], after[2])
    for (r, g), (r2, g2) in zip(before[1].values(), after[1].values()):
        assert r == r2 and (g is g2 is None or torch.equal(g, g2))


@pytest.mark.parametrize("call", CALLS)
def test_the_model_is_left_as_it_was(net, clip, call):
    net.train()
    net.first[1].eval()  # a mixture, as with frozen batch norm
    net.first[0].weight.requires_grad_(False)
    net(clip).sum().backward()
    before, rng = trace(net), torch.get_rng_state()
    CALLS[call](net, clip)
    untouched(before, trace(net))
    assert torch.equal(rng, torch.get_rng_state()) and torch.is_grad_enabled()


@pytest.mark.parametrize("call", CALLS)
def test_also_after_an_error(net, clip, call):
    net.train()
    before = trace(net)
    real, net.second[0].forward = net.second[0].forward, lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        CALLS[call](net, clip)
    net.second[0].forward = real
    untouched(before, trace(net))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_under_callers_without_gradients(net, clip, call, context):
    expected = CALLS[call](net, clip)
    with context():
        got = CALLS[call](net, clip * 1)
        assert not torch.is_grad_enabled() and not got.requires_grad
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("call", CALLS)
def test_frozen_networks_and_autocast(net, clip, call):
    expected = CALLS[call](net, clip)
    net.requires_grad_(False)
    assert torch.allclose(CALLS[call](net, clip), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        got = CALLS[call](net, clip)
    assert got.dtype == torch.float32 and (got - expected).abs().mean() < 0.05 * max(1, expected.abs().max())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("call", CALLS)
def test_a_gpu_says_the_same(net, clip, call):
    expected = CALLS[call](net, clip)
    got = CALLS[call](net.cuda(), clip.cuda())
    assert got.is_cuda and torch.allclose(got.cpu(), expected, atol=1e-2)


# ---------------------------------------------------------------- to the clip's size


@hyp(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(explain.SCALES),
    st.floats(0.01, 1e4),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_maps_fill_the_unit_range(seed, scale, factor, t, h):
    signed = torch.randn(3, t, h, h, generator=torch.Generator().manual_seed(seed)) * factor
    full = explain.to_clip(signed, (4, 9, 8), scale)
    assert full.shape == (3, 4, 9, 8) and full.min() >= 0 and full.max() <= 1
    for one, map in zip(full, signed):
        flat = t * h * h == 1
        if scale == "minmax":
            assert (one == 0).all() if flat else one.max() == 1 and one.min() == 0
        elif (map < 0).all():
            assert (one == 0).all()
        elif flat:
            assert (one - 1).abs().max() < 1e-6  # interpolation rounds


@pytest.mark.parametrize(
    "value,scale,expected",
    [
        (0, "minmax", 0),
        (3.0, "minmax", 0),
        (-3.0, "minmax", 0),
        (0, "positive", 0),
        (-2.0, "positive", 0),
        (2.0, "positive", 1),
    ],
)
def test_constant_maps(value, scale, expected):
    assert (explain.to_clip(torch.full((2, 2, 3, 3), float(value)), (4, 8, 8), scale) == expected).all()


# ---------------------------------------------------------------- shares


@hyp(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_shares_against_loops(seed, per_frame):
    rng = np.random.default_rng(seed)
    b, t, h, w = rng.integers(1, 5, 4)
    map = rng.random((b, t, h, w)) * (rng.random((b, t, h, w)) < 0.7)
    mask = rng.random((b, t, h, w) if per_frame else (b, h, w)) < 0.4
    got = explain.activation_share(torch.from_numpy(map), torch.from_numpy(mask))
    for k in range(b):
        inside = total = pixels = 0
        for i in range(t):
            for y in range(h):
                for x in range(w):
                    m = mask[k, i, y, x] if per_frame else mask[k, y, x]
                    total += map[k, i, y, x]
                    inside += m * map[k, i, y, x]
                    pixels += m
        share, area = inside / total if total else np.nan, pixels / (t * h * w)
        assert np.isclose(got.share[k], share, atol=1e-6, equal_nan=True) and np.isclose(
            got.area[k], area, atol=1e-6
        )
        assert np.isclose(got.ratio[k], share / area if area else np.nan, rtol=1e-4, equal_nan=True)


def test_an_even_map_gives_chance_and_a_perfect_one_everything():
    mask = torch.rand(3, 4, 6, 6) < 0.3
    assert torch.allclose(explain.activation_share(torch.ones(3, 4, 6, 6), mask).ratio, torch.ones(3))
    assert (explain.activation_share(mask.float(), mask).share == 1).all() and (
        explain.activation_share((~mask).float(), mask).share == 0
    ).all()
    assert (
        explain.activation_share(-mask.float() + 0.5 * (~mask), mask).share == 0
    ).all()  # what is negative does not count


@pytest.mark.parametrize(
    "map,mask",
    [
        (torch.rand(2, 4, 6, 6), torch.ones(2, 5, 6, 6, dtype=torch.bool)),
        (torch.rand(2, 4, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)),
        (torch.rand(2, 4, 6, 6), torch.ones(2, 6, 6)),
        (torch.rand(2, 6, 6), torch.ones(2, 6, 6, dtype=torch.bool)),
        (torch.rand(2, 4, 6, 6), torch.ones(6, 6, dtype=torch.bool)),
    ],
)
def test_shapes_that_do_not_match(map, mask):
    with pytest.raises(ValueError, match="a bool mask"):
        explain.activation_share(map, mask)


# ---------------------------------------------------------------- pictures and errors


def test_heat_is_the_picture_and_the_colours():
    clip, map = torch.rand(3, 2, 4, 4), torch.rand(2, 4, 4)
    assert torch.allclose(explain.heat(clip, map, 0), clip) and torch.allclose(
        explain.heat((clip * 255).byte(), map, 1), explain.heat(clip, map, 1)
    )
    low, high = (
        explain.heat(clip, torch.zeros(2, 4, 4), 1)[:, 0, 0, 0],
        explain.heat(clip, torch.ones(2, 4, 4), 1)[:, 0, 0, 0],
    )
    assert low[2] > low[0] and high[0] > high[2]  # blue is nothing, red is much


def test_a_film_strip_for_every_map():
    fig = explain.show_maps(
        torch.rand(3, 6, 8, 8),
        {"a": torch.rand(6, 8, 8), "b": torch.rand(6, 8, 8)},
        torch.rand(6, 8, 8) < 0.5,
        count=4,
    )
    assert len(fig.axes) == 12 and all(ax.images for ax in fig.axes)
    assert [ax.get_ylabel() for ax in fig.axes[::4]] == ["clip", "a", "b"]


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda n, x: explain.cam(Tiny(None), x), "no single linear classifier"),
        (
            lambda n, x: explain.cam(n, x, head=nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))),
            "no single linear",
        ),
        (lambda n, x: explain.grad_cam(n, x, layer="thirds"), "no layer 'thirds'.*first, second"),
        (lambda n, x: explain.cam(n, x, scale="log"), "no scale 'log'"),
        (lambda n, x: explain.grad_cam(n, x, layer="fc"), "ran 0 times"),
    ],
)
def test_errors_say_what_is_wrong(net, clip, call, message):
    with pytest.raises(ValueError, match=message):
        call(net, clip)


def test_features_without_time_and_space_are_an_error(net, clip):
    net.features = lambda x: torch.rand(2, 7, 6)
    with pytest.raises(ValueError, match=r"\[B,D,t,h,w\].*\[2, 7, 6\]"):
        explain.last_map(net, clip)
