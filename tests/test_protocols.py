"Protocols: against brute force and hand calculation, with unreadable videos, on puppets and on real video."

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings as hypothesis_settings, strategies as st
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from train_toys import Evaluated  # noqa: E402

from mvnb.augment import Photometric, normalize, to_float  # noqa: E402
from mvnb.protocols import (
    Classifier,
    ClipFeature,
    Protocol,
    classifier_head,
    evaluate,
    extract,
    finetune,
    linear_probe,
    neighbours,
    retrieval,
    retrieve,
    true_rank,
)  # noqa: E402
from mvnb.train import Schedule  # noqa: E402

QUIET = dict(device="cpu", progress=False)
SHORT = Schedule(epochs=2, batch_size=4, lr=0.05)


class Net(nn.Module):
    "A backbone with batch norm and dropout, so that a wrong mode shows."

    dim = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.Dropout(0.5)
        )

    def features(self, clip):
        return self.body(clip)

    def forward(self, clip):
        return self.features(clip).mean((2, 3, 4))


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- retrieval ----------------------------------------------------------------------------------
def brute_force(query, query_labels, gallery, gallery_labels, ks, centre=True):
    if centre:
        query, gallery = query - query.mean(0), gallery - gallery.mean(0)
    hits = {k: 0 for k in ks}
    for q, y in zip(query, query_labels):
        nearness = [float(np.dot(q, g) / (np.linalg.norm(q) * np.linalg.norm(g))) for g in gallery]
        order = sorted(range(len(gallery)), key=lambda i: -nearness[i])
        for k in ks:
            hits[k] += any(gallery_labels[i] == y for i in order[:k])
    return {k: 100 * n / len(query) for k, n in hits.items()}


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(2, 60), st.integers(2, 8), st.integers(1, 6))
def test_retrieval_equals_brute_force(seed, q, g, dim, classes):
    rng = np.random.default_rng(seed)
    query, gallery = rng.normal(3, 2, (q, dim)), rng.normal(-1, 1, (g, dim))
    a, b = rng.integers(0, classes, q), rng.integers(0, classes, g)
    ks = (1, 5, 10, 20, 50)
    assert retrieval(query.astype(np.float32), a, gallery.astype(np.float32), b, ks) == pytest.approx(
        brute_force(query, a, gallery, b, ks)
    )


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(2, 40), st.integers(2, 8), st.integers(1, 6))
def test_retrieval_without_centring_equals_brute_force(seed, q, g, dim, classes):
    rng = np.random.default_rng(seed)
    query, gallery = rng.normal(1, 2, (q, dim)), rng.normal(-1, 1, (g, dim))
    a, b = rng.integers(0, classes, q), rng.integers(0, classes, g)
    found = retrieval(query.astype(np.float32), a, gallery.astype(np.float32), b, (1, 5), centre=False)
    assert found == pytest.approx(brute_force(query, a, gallery, b, (1, 5), centre=False))


def test_without_centring_only_the_direction_of_a_feature_counts():
    query, gallery = (
        torch.tensor([[9.0, 0.5], [8.0, 3.0]]),
        torch.tensor([[9.0, 2.0], [1.0, 0.0], [2.0, 1.0]]),
    )
    assert neighbours(query, gallery, 1, centre=False)[:, 0].tolist() == [1, 2]
    scaled = gallery * torch.tensor([[5.0], [0.1], [30.0]])
    assert neighbours(query, scaled, 1, centre=False)[:, 0].tolist() == [1, 2]
    angle = torch.atan2(gallery[:, 1], gallery[:, 0]) - torch.atan2(query[:, 1], query[:, 0])[:, None]
    assert torch.equal(neighbours(query, gallery, 3, centre=False), angle.abs().argsort(1))


def test_pieces_of_the_score_matrix_do_not_matter():
    query, gallery = torch.randn(37, 5), torch.randn(23, 5)
    assert torch.equal(neighbours(query, gallery, 7), neighbours(query, gallery, 7, chunk=50))
    assert neighbours(query, gallery, 99).shape == (37, 23)


def test_retrieval_ignores_each_splits_offset_and_scale():
    query, gallery, a, b = torch.randn(20, 5), torch.randn(30, 5), torch.arange(20) % 4, torch.arange(30) % 4
    assert retrieval(query, a, gallery, b) == retrieval(query * 7 + 3, a, gallery * 0.1 - 5, b)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(query=torch.full((4, 3), float("nan"))), "query features are not finite"),
        (dict(gallery=torch.ones(6, 2)), "3 numbers"),
        (dict(query_labels=[0, 1, 2, -1]), "below 0"),
        (dict(gallery_labels=[0]), "needs a label"),
        (dict(gallery=torch.ones(6)), "shape"),
    ],
)
def test_impossible_retrievals_are_named(change, message):
    good = dict(
        query=torch.randn(4, 3),
        query_labels=[0, 1, 2, 3],
        gallery=torch.randn(6, 3),
        gallery_labels=[0, 1, 2, 3, 0, 1],
    )
    with pytest.raises(ValueError, match=message):
        retrieval(**{**good, **change})


def test_unreadable_videos_in_retrieval():
    net = Net()
    gallery, query = Evaluated(12, broken=(4,)), Evaluated(9, broken=(0, 8))
    found = retrieve(net, gallery, {"t": query}, Protocol(ks=(1, 12)), **QUIET)["t"]
    g, q = (extract(net, x, "cpu", pool="features", progress=False) for x in (gallery, query))
    keep_g, keep_q = [i for i in range(12) if i != 4], [i for i in range(9) if i not in (0, 8)]
    expected = brute_force(
        q.values[keep_q].numpy(),
        q.labels[keep_q].numpy(),
        g.values[keep_g].numpy(),
        g.labels[keep_g].numpy(),
        (1,),
    )
    assert found["R@1"] == pytest.approx(expected[1] * 7 / 9) and found["R@12"] == pytest.approx(100 * 7 / 9)
    assert (
        found["n"] == 9
        and found["failed"] == ["a/0.avi", "c/8.avi"]
        and found["failed_gallery"] == ["b/4.avi"]
    )


def test_retrieval_leaves_one_line_per_query_from_which_every_recall_follows(tmp_path):
    import csv

    net, gallery, query = Net(), Evaluated(12, broken=(4,)), Evaluated(9, broken=(0, 8))
    found = retrieve(net, gallery, {"t": query}, Protocol(ks=(1, 3, 7)), folder=tmp_path, **QUIET)["t"]
    with open(tmp_path / "predictions" / "t.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [l["path"] for l in lines] == [str(p) for p in query.index.paths] and [
        l["ok"] for l in lines
    ] == list("011111110")
    rank = np.array([int(l["rank"]) for l in lines])
    assert (rank[[0, 8]] == -1).all() and {
        k: 100 * ((rank >= 0) & (rank < k)).mean() for k in (1, 3, 7)
    } == pytest.approx({k: found[f"R@{k}"] for k in (1, 3, 7)})
    g, q = (extract(net, x, "cpu", pool="features", progress=False) for x in (gallery, query))
    unit = lambda x: (x - x.mean(0)) / np.linalg.norm(x - x.mean(0), axis=1, keepdims=True)
    keep_g, keep_q = [i for i in range(12) if i != 4], range(1, 8)
    near = np.argsort(-unit(q.values[list(keep_q)].numpy()) @ unit(g.values[keep_g].numpy()).T, axis=1)
    for i, order in zip(keep_q, near):
        classes = [int(g.labels[keep_g[j]]) for j in order[:7]]
        own = int(q.labels[i])
        assert int(lines[i]["predicted"]) == classes[0] and rank[i] == (
            classes.index(own) if own in classes else -1
        )


def clip_features(net, data, i, pool, normalize_clips):
    "The feature of a video from its definition, in double precision: [D]."
    found = []
    for clip in data.sample(i, 0)[0]:
        with torch.no_grad():
            last_map = net.features(normalize(to_float(clip[None])))[0].double().numpy()
        if pool == "mean":
            feature = last_map.mean((1, 2, 3))
        else:
            c, t, h, w = last_map.shape
            feature = []
            for place in np.ndindex(c, t, h // 2, w // 2):
                channel, frame, y, x = place
                block = last_map[channel, frame, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                feature.append(block.max())
            feature = np.array(feature)
        found.append(feature / np.sqrt((feature**2).sum()) if normalize_clips else feature)
    return sum(found) / len(found)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("normalize_clips", [True, False])
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_every_way_of_retrieval_equals_its_definition(tmp_path, pool, normalize_clips, centre):
    net, gallery, query = Net().train(), Evaluated(13, broken=(4,)), Evaluated(9, broken=(0,))
    protocol = Protocol(ks=(1, 3), pool=pool, normalize_clips=normalize_clips, centre=centre, batch_size=4)
    found = retrieve(net, gallery, {"t": query}, protocol, folder=tmp_path, **QUIET)["t"]
    assert net.training and all(module.training for module in net.modules())
    net.eval()
    g = np.stack([clip_features(net, gallery, i, pool, normalize_clips) for i in range(13) if i != 4])
    q = np.stack([clip_features(net, query, i, pool, normalize_clips) for i in range(1, 9)])
    labels = [i % 3 for i in range(1, 9)], [i % 3 for i in range(13) if i != 4]
    expected = brute_force(q, labels[0], g, labels[1], (1, 3), centre)
    assert {k: found[f"R@{k}"] for k in (1, 3)} == pytest.approx({k: v * 8 / 9 for k, v in expected.items()})
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "retrieval.safetensors")["t"][1:].double().numpy()
    np.testing.assert_allclose(stored, q, rtol=1e-4, atol=1e-5)


def test_the_three_ways_differ_on_made_up_features():
    "Each option is seen at work: the nearest video is another one."

    class Told(nn.Module):
        "Features of a clip are its first two pixels, as a map of the same value at every place but one."

        def features(self, clip):
            return clip[:, :1, :2, 0, :1].transpose(1, 2)[..., None].expand(-1, -1, 1, 2, 2) * weight

        def forward(self, clip):
            return self.features(clip).mean((2, 3, 4))

    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    clips = torch.rand(3, 3, 4, 4, 4)
    mean, maxima = ClipFeature(Told())(clips), ClipFeature(Told(), "max")(clips)
    first = clips[:, 0, :2, 0, 0]
    torch.testing.assert_close(mean, first / 4)
    torch.testing.assert_close(maxima, first)
    unit = ClipFeature(Told(), "max", normalize=True)(clips)
    torch.testing.assert_close(unit, first / first.norm(dim=1, keepdim=True))


def test_clips_of_one_length_weigh_the_same():
    "A long feature outvotes a short one in the mean, unless each clip is normalised."
    long, short = torch.tensor([10.0, 0.0]), torch.tensor([0.0, 1.0])
    plain, normalised = (long + short) / 2, (long / 10 + short) / 2

    class Told(nn.Module):
        def forward(self, clip):
            bright = clip.mean((1, 2, 3, 4)) > 0
            return torch.where(bright[:, None], long, short)

    class Two(Evaluated):
        def sample(self, i, epoch):
            return torch.stack([torch.full((3, 2, 4, 4), v, dtype=torch.uint8) for v in (255, 0)]), 0

    for wanted, normalize_clips in ((plain, False), (normalised, True)):
        network = ClipFeature(Told(), normalize=normalize_clips)
        out = extract(network, Two(3, views=2), "cpu", pool="features", progress=False)
        torch.testing.assert_close(out.values, wanted.expand(3, 2))


def test_maxima_need_a_map_of_two_by_two():
    with pytest.raises(ValueError, match="at least 2×2, this is 1×4"):
        ClipFeature(Net(), "max")(torch.rand(1, 3, 4, 1, 4))
    with pytest.raises(ValueError, match="'mean' or 'max'"):
        ClipFeature(Net(), "sum")


# ---- extraction ---------------------------------------------------------------------------------
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_ten_clips_are_averaged_as_by_hand(batch_size):
    data, model = Evaluated(7, views=10), Classifier(Net(), 3)
    before, modes = weights(model), [m.training for m in model.modules()]
    softmax = extract(model, data, "cpu", 10, batch_size, progress=False)
    features = extract(model.backbone, data, "cpu", 10, batch_size, pool="features", progress=False)
    assert same(before, weights(model)) and modes == [m.training for m in model.modules()]
    assert softmax.labels.tolist() == [i % 3 for i in range(7)] and softmax.ok.all()
    model.eval()
    for i in range(7):
        clips, _ = data.sample(i, 0)
        expected, pooled = np.zeros(3), np.zeros(6)
        with torch.no_grad():
            for clip in clips:
                x = normalize(to_float(clip[None]))
                logits = model(x)[0].double().numpy()
                expected += np.exp(logits) / np.exp(logits).sum() / 10
                pooled += model.backbone(x)[0].double().numpy() / 10
        assert softmax.values[i].tolist() == pytest.approx(expected, rel=1e-5)
        assert features.values[i].tolist() == pytest.approx(pooled, rel=1e-4)


def test_extract_refuses_what_would_mislead():
    with pytest.raises(ValueError, match="the data set has 3"):
        extract(Net(), Evaluated(4), "cpu", views=10)
    with pytest.raises(ValueError, match="'softmax', 'features', 'none'"):
        extract(Net(), Evaluated(4), "cpu", pool="max")
    broken = Net()
    broken.body[0].weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        extract(broken, Evaluated(4), "cpu", progress=False)


def test_bf16_changes_little():
    a, b = (
        extract(Classifier(Net(), 3), Evaluated(6), "cpu", precision=p, progress=False).values
        for p in ("32", "bf16")
    )
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.03, atol=0.01)


# ---- accuracy -----------------------------------------------------------------------------------
@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 9), st.integers(1, 4))
def test_rank_equals_sorting(seed, n, classes, levels):
    rng = np.random.default_rng(seed)
    scores, labels = (
        rng.integers(0, levels, (n, classes)).astype(np.float32),
        rng.integers(0, classes, n),
    )  # many ties
    expected = [
        sorted(range(classes), key=lambda c: (-s[c], c == y)).index(y) for s, y in zip(scores, labels)
    ]
    assert true_rank(torch.from_numpy(scores), torch.from_numpy(labels)).tolist() == expected


def test_ties_and_scores_that_are_no_numbers_are_no_wins():
    collapsed = torch.full((3, 4), 0.25)
    assert true_rank(collapsed, torch.tensor([0, 2, 3])).tolist() == [3, 3, 3]
    assert true_rank(collapsed * torch.nan, torch.tensor([0, 2, 3])).tolist() == [3, 3, 3]
    labels = torch.arange(4).repeat(3)
    for features in (torch.ones(12, 5), torch.zeros(12, 5)):
        for centre in (True, False):
            found = retrieval(features, labels, features, labels, (1, 5, 9, 10), centre)
            assert found == {1: 0, 5: 0, 9: 0, 10: 100}  # nine videos are of other classes


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_without_a_score_are_refused(label):
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        true_rank(torch.rand(2, 3), torch.tensor([0, label]))


def test_accuracy_by_hand_with_unreadable_videos(tmp_path):
    class Told(nn.Module):
        "Says for each video what the table says; the first pixel of a video is its number."

        def forward(self, clip):
            return table[(clip[:, 0, 0, 0, 0] * 0.22803 + 0.43216).mul(255).round().long()]

    class Numbered(Evaluated):
        def sample(self, i, epoch):
            return torch.full((self.views, 3, 2, 4, 4), int(i), dtype=torch.uint8), 0

    table = torch.randn(20, 8)
    data = Numbered(20, broken=(3, 10), classes=8)
    result = evaluate(Told(), data, predictions=tmp_path / "p" / "t.csv", **QUIET)
    labels, right1, right5, confusion = [i % 8 for i in range(20)], 0, 0, np.zeros((8, 8), int)
    for i, y in enumerate(labels):
        if i in (3, 10):
            continue
        best = np.argsort(-table[i].numpy(), kind="stable")
        right1 += y == best[0]
        right5 += y in best[:5]
        confusion[y, best[0]] += 1
    assert result["top1"] == pytest.approx(100 * right1 / 20) and result["top5"] == pytest.approx(
        100 * right5 / 20
    )
    assert (
        result["n"] == 20
        and result["failed"] == ["d/3.avi", "c/10.avi"]
        and result["confusion"] == confusion.tolist()
    )
    json.dumps(result)
    rows = list(csv.DictReader(open(tmp_path / "p" / "t.csv")))
    assert [r["path"] for r in rows] == list(data.index.paths) and [r["ok"] for r in rows].count("0") == 2
    for k, top in ((1, "top1"), (5, "top5")):
        assert 100 * np.mean([0 <= int(r["rank"]) < k for r in rows]) == pytest.approx(result[top])
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["t.csv"]


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_average_over_clips_by_hand(tmp_path, average):
    class Told(nn.Module):
        "Logits of a clip by its number; the first pixel says which clip it is."

        def forward(self, clip):
            return table[(clip[:, 0, 0, 0, 0] * 0.22803 + 0.43216).mul(255).round().long()]

    class Numbered(Evaluated):
        def sample(self, i, epoch):
            numbers = 3 * int(i) + torch.arange(3)
            return numbers.to(torch.uint8).view(3, 1, 1, 1, 1).expand(3, 3, 2, 4, 4), 0

    table = 4 * torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    data = Numbered(20, broken=(7,), classes=6)
    result = evaluate(Told(), data, average=average, predictions=tmp_path / "t.csv", **QUIET)
    rows = list(csv.DictReader(open(tmp_path / "t.csv")))
    right, differ = {1: 0, 5: 0}, 0
    for i in range(20):
        if i == 7:
            assert rows[i]["predicted"] == rows[i]["rank"] == "-1" and rows[i]["probability"] == ""
            continue
        z = table[3 * i : 3 * i + 3].double().numpy()
        softmax = (np.exp(z) / np.exp(z).sum(1, keepdims=True)).mean(0)
        mean = z.mean(0)
        differ += softmax.argmax() != mean.argmax()
        scores = softmax if average == "softmax" else mean
        probability = softmax if average == "softmax" else np.exp(mean) / np.exp(mean).sum()
        order = np.argsort(-scores).tolist()
        for k in right:
            right[k] += i % 6 in order[:k]
        assert int(rows[i]["predicted"]) == order[0] and int(rows[i]["rank"]) == order.index(i % 6)
        assert float(rows[i]["probability"]) == pytest.approx(probability[order[0]], abs=1e-5)
    assert differ >= 2  # the two averages are told apart by this table
    assert result["top1"] == pytest.approx(100 * right[1] / 20)
    assert result["top5"] == pytest.approx(100 * right[5] / 20)


def test_ranks_by_logits_survive_a_softmax_that_overflows(tmp_path):
    class Told(nn.Module):
        def forward(self, clip):
            return torch.tensor([[0.0, 500.0, 300.0, 100.0, 50.0, 25.0]]).expand(len(clip), -1)

    data = Evaluated(6, classes=6)
    result = evaluate(Told(), data, average="logits", predictions=tmp_path / "t.csv", **QUIET)
    assert result["top5"] == pytest.approx(100 * 5 / 6)  # only class 0 is beyond the five largest
    ranks = [row["rank"] for row in csv.DictReader(open(tmp_path / "t.csv"))]
    assert ranks == ["5", "0", "1", "2", "3", "4"]


def test_an_unknown_average_is_refused():
    with pytest.raises(ValueError, match="'softmax' or 'logits'"):
        evaluate(Net(), Evaluated(3), average="mean", **QUIET)


@pytest.mark.parametrize("run", [finetune, linear_probe])
def test_the_average_of_a_protocol_reaches_the_test(tmp_path, run):
    done = {}
    for average in ("softmax", "logits"):
        protocol = Protocol(SHORT, average=average)
        folder = tmp_path / average
        results = run(Net(), Evaluated(12, views=1), Evaluated(9), protocol, folder=folder, **QUIET)
        expected = evaluate(
            results.classifier, Evaluated(9), average=average, predictions=folder / "again.csv", **QUIET
        )
        assert results["test"] == expected
        done[average] = (folder / "predictions" / "test.csv").read_text()
        assert done[average] == (folder / "again.csv").read_text()
    assert done["softmax"] != done["logits"]


# ---- classifier ---------------------------------------------------------------------------------
def batch_of(data, n=6):
    return next(data.batches(n, 0, shuffle=False))


def test_loss_by_hand():
    model, batch = (
        Classifier(Net(), 3, normalize=True, label_smoothing=0.1).eval(),
        batch_of(Evaluated(6, views=2)),
    )
    with torch.no_grad():
        out = model(batch)
    losses, right = [], []
    for v in range(2):
        for clip, label in zip(batch["clip"][:, v], batch["label"].tolist()):
            with torch.no_grad():
                f = model.backbone(normalize(to_float(clip[None])))[0].double().numpy()
            logits = (
                model.head.weight.detach().double().numpy() @ (f / np.linalg.norm(f))
                + model.head.bias.detach().double().numpy()
            )
            logp = logits - np.log(np.exp(logits).sum())
            losses.append(-0.9 * logp[label] - 0.1 * logp.mean())
            right.append(logits.argmax() == label)
    assert out["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5) and out[
        "acc"
    ].item() == pytest.approx(np.mean(right))


def test_photometric_augmentation_is_a_function_of_epoch_and_sample():
    model, batch = Classifier(Net(), 3, photometric=Photometric(), views=2), batch_of(Evaluated(6, views=2))
    a, b, other = model.augmented(batch), model.augmented(batch), model.augmented({**batch, "epoch": 1})
    assert (
        torch.equal(a, b)
        and not torch.equal(a, other)
        and not torch.equal(a[:6], model.augmented({**batch, "clip": batch["clip"].flip(1)})[6:])
    )
    part = {k: v[2:4] if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    torch.testing.assert_close(model.augmented(part)[:2], a[2:4])


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_means_frozen(tmp_path, frozen):
    net = Net()
    before = weights(net)
    protocol = Protocol(SHORT, dropout=0.3, normalize=True)
    run = linear_probe if frozen else finetune
    results = run(
        net,
        Evaluated(12, views=1),
        {"a": Evaluated(6), "b": Evaluated(7, broken=(1,))},
        protocol,
        folder=tmp_path,
        **QUIET,
    )
    assert same(before, weights(net))  # the caller's backbone is never touched
    after = weights(results.classifier.backbone)
    assert same(before, after) == frozen  # batch norm's statistics included
    assert list(results) == ["a", "b"] and results["b"]["n"] == 7 and results["b"]["failed"] == ["b/1.avi"]
    assert (
        results.fit.steps == 6
        and (tmp_path / "losses.csv").exists()
        and (tmp_path / "head.safetensors").exists() == frozen
    )
    assert sorted(p.name for p in (tmp_path / "predictions").iterdir()) == ["a.csv", "b.csv"]
    again = run(
        net,
        Evaluated(12, views=1),
        {"a": Evaluated(6), "b": Evaluated(7, broken=(1,))},
        protocol,
        folder=tmp_path,
        **QUIET,
    )
    assert again == results and again.fit.resumed == 6


def test_a_frozen_forward_keeps_no_graph():
    model = Classifier(Net(), 3, frozen=True).train()
    assert not model.backbone.training and model.head.training
    model(batch_of(Evaluated(6)))["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]


# ---- cached linear probe ------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [2, 3])
def test_cached_probe_equals_logistic_regression(tmp_path, classes):
    net, train, test = (
        Net(),
        Evaluated(24, views=2, broken=(5,), classes=classes),
        Evaluated(9, classes=classes),
    )
    before = weights(net)
    results = linear_probe(
        net, train, test, Protocol(cached=True, normalize=True, C=3.0), folder=tmp_path, **QUIET
    )
    assert same(before, weights(net)) and results.fit is None and (tmp_path / "head.safetensors").exists()
    features, labels = [], []
    net.eval()
    for i in (i for i in range(24) if i != 5):
        with torch.no_grad():
            f = net(normalize(to_float(train.sample(i, 0)[0]))).double()
        features.append(f / f.norm(dim=1, keepdim=True))
        labels += [i % classes] * 2
    features, labels = torch.cat(features), torch.tensor(labels)
    w, b = (
        torch.zeros(classes, 6, dtype=torch.float64, requires_grad=True),
        torch.zeros(classes, dtype=torch.float64, requires_grad=True),
    )
    solver = torch.optim.LBFGS([w, b], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def objective():
        solver.zero_grad()
        penalty = w.pow(2).sum() / 2 if classes > 2 else (w[1] - w[0]).pow(2).sum() / 2
        loss = 3.0 * nn.functional.cross_entropy(features @ w.T + b, labels, reduction="sum") + penalty
        loss.backward()
        return loss

    solver.step(objective)
    head = results.classifier.head
    ours, theirs = (
        torch.softmax(features @ x.double().T + y.double(), 1).detach()
        for x, y in ((head.weight, head.bias), (w, b))
    )
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


def mean_features(net, data, skip=()):
    "Mean feature of each video's clips, divided by its length; videos that can be read."
    net.eval()
    rows = []
    with torch.no_grad():
        for i in (i for i in range(len(data)) if i not in skip):
            mean = net(normalize(to_float(data.sample(i, 0)[0]))).double().mean(0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("C", [1.0, 30.0])
def test_the_svm_is_scikit_learn_s(tmp_path, classes, C):
    "liblinear on mean features, with an unreadable video in training and one in the test."
    from sklearn.svm import LinearSVC

    net = Net()
    train = Evaluated(24, views=2, broken=(5,), classes=classes)
    test = Evaluated(9, views=2, broken=(4,), classes=classes)
    before = weights(net)
    protocol = Protocol(cached=True, svm=True, normalize=True, C=C)
    results = linear_probe(net, train, test, protocol, folder=tmp_path, **QUIET)
    assert same(before, weights(net)) and (tmp_path / "head.safetensors").exists()
    labels = np.array([i % classes for i in range(24) if i != 5])
    theirs = LinearSVC(C=C, dual=False, loss="squared_hinge", max_iter=5000)
    theirs.fit(mean_features(net, train, (5,)), labels)
    chosen = theirs.predict(mean_features(net, test, (4,)))
    rows = list(csv.DictReader(open(tmp_path / "predictions" / "test.csv")))
    assert [int(row["predicted"]) for row in rows if row["ok"] == "1"] == chosen.tolist()
    right = (chosen == [i % classes for i in range(9) if i != 4]).sum()
    assert results["test"]["top1"] == pytest.approx(100 * right / 9) and len(results["test"]["failed"]) == 1


def test_the_svm_minimises_its_objective():
    "Squared hinge of each class against the rest, and the penalty of bias and weights, by LBFGS."
    from mvnb.protocols import fit_svm

    make = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=make, dtype=torch.float64), torch.arange(60) % 3
    solved = fit_svm(x, y, C=0.7)
    for label in range(3):
        sign = torch.where(y == label, 1.0, -1.0).double()
        w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def objective():
            solver.zero_grad()
            hinge = (1 - sign * (x @ w[:4] + w[4])).clamp_min(0)
            loss = w.square().sum() / 2 + 0.7 * hinge.square().sum()
            loss.backward()
            return loss

        solver.step(objective)
        found = np.append(solved.coef_[label], solved.intercept_[label])
        np.testing.assert_allclose(found, w.detach().numpy(), atol=2e-3)


def test_c_is_chosen_on_the_training_videos():
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import LinearSVC

    from mvnb.protocols import fit_svm

    make = torch.Generator().manual_seed(1)
    y = torch.arange(90) % 3
    x = F.one_hot(y, 3).float() + 1.5 * torch.randn(90, 3, generator=make)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = {C: cross_val_score(LinearSVC(C=C, dual=False), x, y, cv=folds).mean() for C in (1e-4, 1.0)}
    assert scores[1e-4] != scores[1.0]
    assert fit_svm(x, y, (1e-4, 1.0)).C == max(scores, key=scores.get)
    with pytest.raises(ValueError, match="one class"):
        fit_svm(x, torch.zeros(90, dtype=torch.long))


def test_an_svm_reads_training_videos_as_it_reads_tests(puppets_root, tmp_path):
    "A data set of random clips is cut anew: evenly, with the protocol's number of clips."
    from mvnb import datasets, protocols

    index = datasets.load("puppets-u", "train", root=puppets_root, scale=0.06).limit(2)
    protocol = Protocol(length=4, size=32, views=3, cached=True, svm=True, normalize=True, C=1.0)
    at_random = protocols.clips_of(index, protocol, train=True)
    seen = []

    class Spy(Net):
        def forward(self, clip):
            seen.append(len(clip))
            return super().forward(clip)

    first = linear_probe(Spy(), at_random, index, protocol, folder=tmp_path / "a", **QUIET)
    assert sum(seen) == 2 * 3 * len(index)
    second = linear_probe(Spy(), index, index, protocol, folder=tmp_path / "b", **QUIET)
    assert first["test"] == second["test"]


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(svm=True), "use cached=True, layers=1"),
        (dict(cached=True, svm=True, layers=2), "Protocol.svm is one layer"),
        (dict(cached=True, C=(1.0,)), "several with svm=True"),
        (dict(cached=True, svm=True, C=(1.0, 0.0)), "use a number above 0"),
    ],
)
def test_an_impossible_svm_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Protocol(**options)


def test_a_class_never_seen_is_never_chosen(tmp_path):
    train = Evaluated(12, classes=3)
    train.index.labels = np.array([0, 2] * 6)
    results = linear_probe(Net(), train, Evaluated(9), Protocol(cached=True), folder=tmp_path, **QUIET)
    assert all(row[1] == 0 for row in results["test"]["confusion"]) and results["test"]["n"] == 9
    train.index.labels = np.zeros(12, int)
    with pytest.raises(ValueError, match="at least two"):
        linear_probe(Net(), train, Evaluated(9), Protocol(cached=True), folder=tmp_path, **QUIET)


def test_training_needs_a_schedule(tmp_path):
    with pytest.raises(ValueError, match="its schedule is None"):
        finetune(Net(), Evaluated(6), Evaluated(6), Protocol(), folder=tmp_path, **QUIET)


@pytest.mark.parametrize(
    "bad",
    [
        dict(dropout=1.0),
        dict(views=0),
        dict(precision="16"),
        dict(C=0),
        dict(label_smoothing=-0.1),
        dict(average="mean"),
        dict(pool="sum"),
    ],
)
def test_impossible_protocols_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Protocol(**bad)


# ---- puppets and real video ---------------------------------------------------------------------
def test_puppets_by_all_protocols(tmp_path, puppets_root):
    from mvnb import datasets, models

    index = {
        s: datasets.load("puppets-u", s, root=puppets_root, scale=0.15)
        for s in ("train", "test-biased", "test-unbiased")
    }
    tests = {k: v for k, v in index.items() if k != "train"}
    torch.manual_seed(0)
    net = models.build("r3d_tiny")
    protocol = Protocol(
        Schedule(epochs=1, batch_size=8, lr=0.01, max_steps=2),
        length=4,
        size=32,
        views=2,
        train_views=2,
        cache="memory",
        ks=(1, 5),
    )
    tuned = finetune(net, index["train"], tests, protocol, folder=tmp_path / "f", **QUIET)
    probed = linear_probe(
        net,
        index["train"],
        tests,
        replace(protocol, cached=True, normalize=True),
        folder=tmp_path / "l",
        **QUIET,
    )
    found = retrieve(net, index["train"], tests, protocol, folder=tmp_path / "r", **QUIET)
    for results in (tuned, probed, found):
        assert list(results) == list(tests) and all(
            results[k]["n"] == len(tests[k]) and results[k]["failed"] == [] for k in tests
        )
        json.dumps(results)
    assert (
        probed["test-biased"]["top1"] > probed["test-unbiased"]["top1"] + 15
    )  # an untrained network sees scenes
    from safetensors.torch import load_file

    assert {k: len(v) for k, v in load_file(tmp_path / "r" / "retrieval.safetensors").items()} == {
        "gallery": 48,
        **{k: len(v) for k, v in tests.items()},
    }


def test_real_videos_and_a_missing_one(tmp_path, shared_data):
    from mvnb import datasets, models

    train = datasets.load(
        "ucf101", "train", root=shared_data / "mini", annotations=shared_data / "annotations" / "mini"
    ).limit(3)
    test = datasets.load(
        "ucf101", "test", root=shared_data / "mini", annotations=shared_data / "annotations" / "mini"
    ).limit(1)
    paths = list(test.paths)
    paths[2] = "Surfing/v_Surfing_g99_c01.avi"
    test = replace(test, paths=tuple(paths))
    torch.manual_seed(0)
    protocol = Protocol(length=4, size=32, views=3, cached=True, normalize=True)
    results = linear_probe(models.build("r3d_tiny"), train, test, protocol, folder=tmp_path, **QUIET)["test"]
    assert results["n"] == 6 and results["failed"] == [paths[2]] and np.sum(results["confusion"]) == 5
    rows = list(csv.DictReader(open(tmp_path / "predictions" / "test.csv")))
    assert rows[2]["rank"] == "-1" and results["top1"] == pytest.approx(
        100 * sum(r["rank"] == "0" for r in rows) / 6
    )


@pytest.mark.parametrize("field,value", [("stride", (1, 2)), ("stride", 0), ("views", 1.5), ("layers", None)])
def test_whole_numbers_are_asked_for(field, value):
    with pytest.raises(ValueError, match=f"Protocol.{field} is"):
        Protocol(**{field: value})


# ---- regularisation of transformers -------------------------------------------------------------
STRONG = dict(mixup=0.8, cutmix=1.0, label_smoothing=0.1, erasing=0.5, randaugment=(7, 4, 0.5))


def regular(views=2, seed=0):
    protocol = Protocol(**STRONG)
    return Classifier(Net(), 3, views=views, seed=seed, label_smoothing=0.1, regularisation=protocol)


def test_the_loss_of_a_mixed_batch_by_hand():
    "Clips and targets of every view, in the order of the views, against log-probabilities in NumPy."
    data = Evaluated(6, views=2)
    steps = list(data.batches(2, 0, shuffle=False))
    for batch in steps:
        model = regular().eval()
        share, box = model.mix.draw(0, 0, batch["step"], (8, 8))
        clips = model.augmented(batch)
        seen = clips.clone()
        if box is None:
            seen = share * clips + (1 - share) * clips.flip(0)
        else:
            top, left, h, w = box
            seen[..., top : top + h, left : left + w] = clips.flip(0)[..., top : top + h, left : left + w]
        labels = batch["label"].tolist() * 2
        with torch.no_grad():
            logp = model.logits(seen).double().log_softmax(1).numpy()
            out = model(batch)
        losses, right = [], []
        for i, (own, other) in enumerate(zip(labels, labels[::-1])):
            target = np.full(3, 0.1 / 3)
            target[own] += 0.9 * share
            target[other] += 0.9 * (1 - share)
            losses.append(-(target * logp[i]).sum())
            right.append(logp[i].argmax() == target.argmax())
        assert out["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)
        assert out["acc"].item() == pytest.approx(np.mean(right))
    assert {model.mix.draw(0, 0, b["step"], (8, 8))[1] is None for b in steps} == {True, False}


def test_augmentation_happens_in_the_stated_order():
    batch = batch_of(Evaluated(6, views=2))
    model = regular()
    model.photometric = Photometric(gray=0, p_jitter=0, blur=0, flip=0.5)
    got = model.augmented(batch)
    for view in range(2):
        which, stream = (0, 0, batch["index"]), f"view/{view}"
        x = to_float(batch["clip"][:, view])
        x = model.randaugment.apply(x, model.randaugment.draw(*which, stream))
        x = normalize(model.photometric.apply(x, model.photometric.draw(*which, stream)))
        x = model.erasing.apply(x, model.erasing.draw(*which, (8, 8), stream))
        assert torch.equal(got[6 * view : 6 * view + 6], x)
    plain = Classifier(Net(), 3, views=2).augmented(batch)
    assert not torch.equal(plain, got) and torch.equal(plain[:6], normalize(to_float(batch["clip"][:, 0])))


def test_a_clip_is_augmented_alike_in_any_batch():
    data = Evaluated(6)
    model = regular(views=3)
    whole = model.augmented(batch_of(data))
    alone = model.augmented(batch_of(data, 1))
    assert torch.allclose(alone, whole[::6], atol=1e-5)


@pytest.fixture(scope="module")
def noise_videos(tmp_path_factory):
    "Twelve videos of three classes, as an index of files."
    from mvnb import datasets, video

    folder = tmp_path_factory.mktemp("noise")
    paths = [f"{'abc'[i % 3]}/{i}.mp4" for i in range(12)]
    for i, path in enumerate(paths):
        (folder / path).parent.mkdir(exist_ok=True)
        frames = np.random.default_rng(i).integers(0, 256, (14, 6, 8, 3)).astype(np.uint8)
        video.write_video(folder / path, frames.repeat(6, 1).repeat(6, 2))
    return datasets.Index("folder", "train", folder, paths, [i % 3 for i in range(12)], ["a", "b", "c"])


def test_what_a_training_sees_does_not_depend_on_the_readers(noise_videos):
    from mvnb.clips import batches
    from mvnb.protocols import clips_of

    protocol = Protocol(**STRONG, length=4, size=24, repeats=2, sampling="segments", scales=(1, 0.75))
    train = clips_of(noise_videos, protocol, train=True, seed=3)
    assert train.views == 2 and train.same_time and train.scales == (1, 0.75)
    model, seen = regular(seed=3), {}
    for workers, start in ((0, 0), (2, 0), (0, 1)):
        for batch in batches(train, 4, 1, workers=workers, start=start):
            labels = batch["label"].repeat(2)
            clips, targets = model.mixed(batch, model.augmented(batch), labels)
            before = seen.setdefault(batch["step"], (clips, targets))
            assert torch.equal(clips, before[0]) and torch.equal(targets, before[1])
    assert len(seen) == 3 and not torch.equal(seen[0][1], seen[1][1])


def test_a_transformer_is_fine_tuned_and_tested_with_everything(tmp_path, noise_videos):
    from mvnb import models
    from mvnb.protocols import clips_of

    net = models.build("vit_tiny", width=24, depth=3)
    before = weights(net)
    protocol = Protocol(
        Schedule(epochs=2, batch_size=4, lr=0.01, optimizer="adamw"),
        **STRONG,
        **dict(drop_path=0.2, repeats=2, length=4, size=24, sampling="segments", views=6, crops=3),
    )
    runs = [
        finetune(net, noise_videos, noise_videos, protocol, folder=tmp_path / name, seed=1, **QUIET)
        for name in "ab"
    ]
    assert runs[0].fit.losses == runs[1].fit.losses and len(runs[0].fit.losses) == 6
    assert runs[0]["test"] == runs[1]["test"] and runs[0]["test"]["n"] == 12
    assert [block.drop.share for block in net.blocks] == [0, 0, 0] and same(before, weights(net))
    tuned = runs[0].classifier
    assert [block.drop.share for block in tuned.backbone.blocks] == pytest.approx([0, 0.1, 0.2])
    tested = clips_of(noise_videos, protocol)
    assert (tested.views, tested.crops, tested.places) == (6, 3, 3)
    tuned.eval()
    right = []
    for i in range(12):
        views = normalize(to_float(tested.read(i)["clip"]))
        with torch.no_grad():
            right.append(int(tuned.logits(views).softmax(1).mean(0).argmax()) == i % 3)
    assert runs[0]["test"]["top1"] == pytest.approx(100 * np.mean(right))


@pytest.mark.parametrize("off", ["mixup", "cutmix", "erasing", "randaugment", "drop_path", "repeats"])
def test_each_option_changes_the_training(tmp_path, noise_videos, off):
    from mvnb import models

    net = models.build("vit_tiny", width=24, depth=3)
    on = dict(STRONG, drop_path=0.5, repeats=2)
    none = dict(mixup=0.0, cutmix=0.0, erasing=0.0, randaugment=(), drop_path=0.0, repeats=1)
    losses = []
    for options in (on, on | {off: none[off]}):
        schedule = Schedule(epochs=2, batch_size=4, lr=0.01, optimizer="adamw")
        protocol = Protocol(schedule, length=4, size=24, views=1, **options)
        done = finetune(
            net, noise_videos, noise_videos, protocol, folder=tmp_path / str(len(losses)), **QUIET
        )
        losses.append(done.fit.losses)
    assert losses[0] != losses[1]


def test_drop_path_needs_blocks_that_can_be_skipped():
    from mvnb import models
    from mvnb.protocols import with_drop_path

    assert with_drop_path(net := Net(), 0.0) is net
    with pytest.raises(ValueError, match="drop_path 0.1 on Net"):
        with_drop_path(Net(), 0.1)
    for name in ("vit_tiny", "timesformer_tiny"):
        built = with_drop_path(models.build(name, depth=5), 0.4)
        wanted = models.build(name, depth=5, drop_path=0.4)
        assert [b.drop.share for b in built.blocks] == pytest.approx([b.drop.share for b in wanted.blocks])


@pytest.mark.parametrize(
    "bad,match",
    [
        (dict(mixup=-1), "mixup -1"),
        (dict(cutmix=-0.5), "cutmix -0.5"),
        (dict(erasing=1.5), "1.5"),
        (dict(randaugment=(7,)), "randaugment"),
        (dict(randaugment=(12, 4, 0.5)), "magnitude 12"),
        (dict(drop_path=1.0), "drop_path"),
        (dict(repeats=0), "repeats"),
        (dict(crops=0), "crops"),
        (dict(repeats=2, train_views=2), "repeats and train_views"),
    ],
)
def test_impossible_regularisation_is_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        Protocol(**bad)


def test_a_probe_that_normalises_over_the_batch():
    "Features of any scale train alike; a test clip's score does not depend on its batch; nothing is learnt."
    torch.manual_seed(0)
    head = classifier_head(6, 3, batch_norm=True)
    assert [name for name, _ in head.named_parameters()] == ["1.weight", "1.bias"]
    features = torch.randn(64, 6)
    scaled = 1000 * features + 7
    torch.testing.assert_close(head.train()(features), head.train()(scaled), atol=1e-4, rtol=1e-4)
    for _ in range(200):
        head(scaled)
    alone = head.eval()(scaled[:1])
    torch.testing.assert_close(alone, head(scaled)[:1])
    torch.testing.assert_close(head(scaled), head.train()(scaled), atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="batch_norm"):
        Protocol(cached=True, batch_norm=True)
