"""Transformers: Hugging Face's numbers, tokens against loops, masks that leak nothing, weights both ways."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mvnb import explain, models, protocols, train, vit

TUBELET = (2, 8, 8)
GRID = (4, 3, 4)  # of a clip of 8×24×32
N = math.prod(GRID)
SMALL = dict(width=24, depth=3, heads=2, tubelet=TUBELET)


@pytest.fixture(autouse=True)
def _one_start():
    torch.manual_seed(0)


def clip(batch=2, channels=3, frames=8, height=24, width=32):
    return torch.randn(batch, channels, frames, height, width)


def mask(batch=2, count=36, grid=GRID):
    n = math.prod(grid)
    return (torch.rand(batch, n).argsort(1).argsort(1) < count).view(batch, *grid)


def small(kind="vit_tiny", num_classes=None, **settings):
    model = models.build(kind, num_classes, **{**SMALL, **settings})
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # biases and norms start at 0 and 1: any mix-up of them would stay unseen
            torch.nn.init.normal_(parameter, 0.5 if "norm" in name else 0.0, 0.2)
    return model


def autoencoder(kind="vit_tiny", **settings):
    model = vit.MAE(small(kind), depth=2, **settings)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.3, 0.2)
    return model.eval()


# ---------------------------------------------------------------- patches and positions


def test_patches_by_hand():
    x = clip()
    rows = vit.patchify(x, TUBELET)
    assert rows.shape == (2, N, 2 * 8 * 8 * 3)
    number = 0
    for t in range(GRID[0]):
        for i in range(GRID[1]):
            for j in range(GRID[2]):
                box = x[:, :, 2 * t : 2 * t + 2, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
                want = [
                    box[:, c, f, y, z] for f in range(2) for y in range(8) for z in range(8) for c in range(3)
                ]
                assert torch.equal(rows[:, number], torch.stack(want, 1))
                number += 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tubelet", [(2, 8, 8), (1, 4, 8), (8, 24, 16)])
def test_unpatchify_undoes_patchify(channels, tubelet):
    x = clip(channels=channels)
    assert torch.equal(vit.unpatchify(vit.patchify(x, tubelet), vit.grid_of(x, tubelet), tubelet), x)


def test_embedding_is_the_convolution():
    embed, x = vit.PatchEmbed(3, 10, TUBELET), clip()
    want = embed.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(vit.patchify(x, TUBELET)), want, rtol=1e-5, atol=1e-5)


def test_positions_from_the_formula():
    table = vit.sincos(1568, 10)
    for n in (0, 1, 77, 1567):
        for j in range(10):
            angle = n / 10000 ** (2 * (j // 2) / 10)
            assert table[n, j].item() == pytest.approx(
                math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6
            )


def test_positions_grow_and_are_not_saved():
    positions = vit.Positions(6, 4)
    assert not positions.state_dict()
    assert torch.equal(positions(9), vit.sincos(9, 6))
    assert torch.equal(positions(3), vit.sincos(3, 6))


def test_tokens_are_told_apart_by_place_alone():
    "Without positions the order of tokens does not matter; with them it does."
    model, rows = small().eval(), torch.randn(1, N, 2 * 8 * 8 * 3)
    order = torch.randperm(N)
    with torch.no_grad():
        embedded = model.patch_embed(rows)
        torch.testing.assert_close(model.encode(embedded)[:, order], model.encode(embedded[:, order]))
        placed = model.encode(embedded + model.positions(N))[:, order]
        assert not torch.allclose(placed, model.encode(embedded[:, order] + model.positions(N)), atol=1e-3)


# ---------------------------------------------------------------- attention and blocks


def slow_attention(module, x):
    "For every sample, head and query a sum over keys, in numpy."
    weight, d = module.qkv.weight.detach().double().numpy(), x.shape[-1] // module.heads
    bias = {0: module.q_bias, 1: torch.zeros_like(module.q_bias), 2: module.v_bias}
    x = x.double().numpy()
    q, k, v = [
        x @ weight[i * x.shape[-1] : (i + 1) * x.shape[-1]].T + bias[i].detach().double().numpy()
        for i in range(3)
    ]
    out = np.zeros_like(x)
    for b in range(len(x)):
        for head in range(module.heads):
            part = slice(head * d, head * d + d)
            for i in range(x.shape[1]):
                scores = np.exp(k[b, :, part] @ q[b, i, part] / math.sqrt(d))
                out[b, i, part] = scores / scores.sum() @ v[b, :, part]
    proj = module.proj
    return out @ proj.weight.detach().double().numpy().T + proj.bias.detach().double().numpy()


def test_attention_against_sums():
    module, x = vit.Attention(12, 3), torch.randn(2, 5, 12)
    for bias in (module.q_bias, module.v_bias):
        torch.nn.init.normal_(bias)
    with torch.no_grad():
        np.testing.assert_allclose(module(x).numpy(), slow_attention(module, x), atol=1e-5)
        both = module(torch.stack([x, x + 1]))  # a further leading axis
        torch.testing.assert_close(both, torch.stack([module(x), module(x + 1)]))


def felt(step, x, token):
    "Tokens whose output changes with one token."
    other = x.clone()
    other[0, token] = torch.randn(x.shape[2])
    with torch.no_grad():
        return ((step(other) - step(x)).abs().amax((0, 2)) > 1e-7).view(GRID)


@pytest.mark.parametrize("token", [0, 17, N - 1])
def test_divided_attention_mixes_along_its_axis_only(token):
    block, x = vit.DividedBlock(24, 2, 48), torch.randn(1, N, 24)
    t, rest = divmod(token, 12)
    i, j = divmod(rest, 4)
    time, space = torch.zeros(GRID, dtype=torch.bool), torch.zeros(GRID, dtype=torch.bool)
    time[:, i, j] = True
    space[t] = True
    assert torch.equal(felt(lambda x: block.over_time(x, GRID), x, token), time)
    assert torch.equal(felt(lambda x: block.over_space(x, GRID), x, token), space)
    assert felt(lambda x: block(x, GRID), x, token).all()


def test_divided_attention_is_attention_over_each_line():
    block, x = vit.DividedBlock(24, 2, 48), torch.randn(2, N, 24)
    with torch.no_grad():
        time, space = (
            block.over_time(x, GRID).view(2, *GRID, 24),
            block.over_space(x, GRID).view(2, *GRID, 24),
        )
        place = block.norm0(x).view(2, *GRID, 24)[:, :, 1, 3]
        torch.testing.assert_close(time[:, :, 1, 3], block.attn_time(place))
        frame = block.norm1(x).view(2, *GRID, 24)[:, 2].flatten(1, 2)
        torch.testing.assert_close(space[:, 2].flatten(1, 2), block.attn(frame))


def test_drop_path_leaves_out_samples_and_only_in_training():
    drop, x = vit.DropPath(0.3), torch.ones(5000, 2, 3)
    out = drop(x)
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))  # a sample goes as a whole
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        vit.DropPath(1.0)


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_drop_path_grows_with_depth_and_is_off_in_eval(kind):
    model, x = small(kind, drop_path=0.4), clip(8)
    assert [block.drop.share for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


# ---------------------------------------------------------------- the contract of a backbone


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
@pytest.mark.parametrize("channels", [1, 3])
def test_contract(kind, channels):
    feature, logits = (
        small(kind, channels=channels).eval(),
        small(kind, 7, channels=channels, dropout=0.5).eval(),
    )
    x = clip(channels=channels)
    with torch.no_grad():
        tokens, last = feature.tokens(x), feature.features(x)
        assert tokens.shape == (2, N, 24) and last.shape == (2, 24, *GRID)
        torch.testing.assert_close(feature(x), last.mean((2, 3, 4)))
        torch.testing.assert_close(feature(x), F.layer_norm(tokens.mean(1), (24,)), rtol=1e-4, atol=1e-5)
        assert logits(x).shape == (2, 7)
        torch.testing.assert_close(feature(x)[:1], feature(x[:1]), rtol=1e-4, atol=1e-5)  # samples do not mix
        moved = last[0, :, 1, 2, 3] - last[0, :, 0, 0, 0]  # the map is the tokens, shifted and scaled
        direction = tokens[0, 1 * 12 + 2 * 4 + 3] - tokens[0, 0]
        assert F.cosine_similarity(moved, direction, 0).item() == pytest.approx(1, abs=1e-5)


def test_sizes_of_the_named_networks():
    about = models.describe("vit_base", 16, 224)
    assert about["gflops"] == pytest.approx(180, abs=0.5)
    assert about["parameters"] == pytest.approx(86.2, abs=0.1)
    assert (about["dim"], about["map"]) == (768, (8, 14, 14))
    assert models.describe("vit_small", 16, 224)["parameters"] == pytest.approx(21.9, abs=0.1)
    assert models.describe("timesformer", 16, 224)["map"] == (8, 14, 14)
    for name in ("vit_tiny", "timesformer_tiny"):
        assert models.describe(name, 8, 48)["map"] == (4, 6, 6)
        assert models.describe(name, 8, 48, channels=1)["dim"] == 96


def test_multiply_adds_by_hand():
    width, tokens, hidden = 768, 1568, 3072
    block = 4 * width * width + 2 * width * hidden + 2 * tokens * width
    want = tokens * (1536 * width + 12 * block)
    assert models.describe("vit_base", 16, 224)["gflops"] == pytest.approx(want / 1e9, rel=1e-6)


def test_a_name_is_enough():
    "The room is imported when one of its networks is first built."
    import subprocess
    import sys

    code = (
        "import sys; from mvnb import models; assert 'mvnb.vit' not in sys.modules; "
        "print(type(models.build('timesformer_tiny', 3)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "TimeSformer", done.stderr
    with pytest.raises(ValueError, match="did you mean 'vit_small'"):
        models.build("vit-small")
    with pytest.raises(ValueError, match="'vit_tiny' cannot be built"):
        models.build("vit_tiny", widths=3)


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_maps_that_explain(kind):
    "Class activation maps add up to the score; Grad-CAM and the library's pooling take the map."
    model, x = small(kind, 3).eval(), clip()
    with torch.no_grad():
        maps = explain.last_map(model, x)
        evidence = explain.evidence(maps, model.fc.weight[1]).mean((1, 2, 3)) + model.fc.bias[1]
        torch.testing.assert_close(evidence, model(x)[:, 1], rtol=1e-4, atol=1e-5)
        assert protocols.ClipFeature(model, "max")(x).shape == (2, 24 * 4 * 1 * 2)
    assert explain.cam(model, x).shape == explain.grad_cam(model, x).shape == (2, 8, 24, 32)


# ---------------------------------------------------------------- a learning rate for each depth


def test_layers():
    for prefix in ("", "backbone.", "module.backbone."):
        assert vit.layer_of(prefix + "patch_embed.proj.bias", 12) == 0
        assert vit.layer_of(prefix + "blocks.0.norm1.weight", 12) == 1
        assert vit.layer_of(prefix + "blocks.11.attn.q_bias", 12) == 12
        assert vit.layer_of(prefix + "fc.weight", 12) == 13
    assert vit.layer_of("head.weight", 12) == 13
    assert vit.layer_of("decoder.blocks.0.norm1.weight", 12) == 13


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_parameter_groups(kind):
    model = protocols.Classifier(small(kind), 5)
    groups = vit.parameter_groups(model, 1e-3, 0.5, 0.05)
    given = {id(p): group for group in groups for p in group["params"]}
    assert len(given) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group, layer = given[id(parameter)], vit.layer_of(name, 3)
        assert group["lr"] == pytest.approx(1e-3 * 0.5 ** (4 - layer))
        assert group["scale"] == pytest.approx(0.5 ** (4 - layer))
        assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0)
    assert given[id(model.head.weight)]["lr"] == 1e-3
    torch.optim.AdamW(groups)


def test_parameter_groups_say_what_they_need():
    with pytest.raises(ValueError, match="holds no transformer blocks"):
        vit.parameter_groups(torch.nn.Linear(2, 2), 1e-3)
    with pytest.raises(ValueError, match=r"in \(0, 1\], not 1.5"):
        vit.parameter_groups(small(), 1e-3, 1.5)


def test_vectors_have_no_decay_in_the_common_optimizer():
    "The mask token is a vector, so that nothing has to name it."
    model = autoencoder()
    schedule = train.Schedule(1, 1, optimizer="adamw", decay_norm_bias=False)
    free = train.make_optimizer(model, schedule).param_groups[1]
    assert free["weight_decay"] == 0 and any(p is model.mask_token for p in free["params"])


# ---------------------------------------------------------------- masks


def test_split_and_pick_against_boolean_indexing():
    hidden, x = mask(3, 31), torch.randn(3, N, 5)
    seen, gone = vit.split(hidden)
    assert seen.dtype == gone.dtype == torch.int64
    for row in range(3):
        assert seen[row].tolist() == [n for n in range(N) if not hidden[row].flatten()[n]]
        assert gone[row].tolist() == [n for n in range(N) if hidden[row].flatten()[n]]
    assert torch.equal(vit.pick(x, seen), x[~hidden.flatten(1)].view(3, N - 31, 5))
    assert torch.equal(vit.pick(x, gone), x.gather(1, gone[..., None].expand(-1, -1, 5)))
    assert [part.shape[1] for part in vit.split(torch.zeros_like(hidden))] == [N, 0]


def test_masks_that_do_not_fit():
    model, x = autoencoder(), clip()
    uneven = mask()
    uneven[0] = ~uneven[0]
    with pytest.raises(ValueError, match=r"hides as many tokens in every clip; this one hides \[12, 36\]"):
        model(x, uneven)
    with pytest.raises(ValueError, match="hides 30 tokens in every clip"):
        model(x, mask(), 30)
    with pytest.raises(ValueError, match="a token mask is bool, True = hidden, not float32"):
        model(x, mask().float())
    with pytest.raises(
        ValueError, match=r"the clips have tokens \[2, 4, 3, 4\], the mask is for \[2, 4, 3, 3\]"
    ):
        model(x, mask()[..., :3])
    with pytest.raises(ValueError, match=r"the mask is for \[1, 4, 3, 4\]"):
        model(x, mask(1))


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_clips_that_do_not_fit(kind):
    model = small(kind)
    with pytest.raises(ValueError, match=r"whole tubelets 2×8×8 is needed, this one is \[2, 3, 7, 24, 32\]"):
        model(clip(frames=7))
    with pytest.raises(ValueError, match="must be multiples of the tubelet's"):
        vit.MAE(model)(clip(height=28), mask())
    with pytest.raises(ValueError, match=r"takes clips \[B,3,T,H,W\], got \[2, 1, 8, 24, 32\]"):
        model(clip(channels=1))
    with pytest.raises(ValueError, match=r"got \[3, 8, 24, 32\]"):
        model.features(clip()[0])
    with pytest.raises(ValueError, match="a width of 25 does not split into 2 heads"):
        small(kind, width=25)


# ---------------------------------------------------------------- the masked autoencoder


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
@pytest.mark.parametrize("norm", [True, False])
def test_only_visible_pixels_reach_the_encoder(kind, norm):
    model, x, hidden = autoencoder(kind, norm=norm), clip(), mask()
    rows = vit.patchify(x, TUBELET)
    seen, gone = vit.split(hidden)
    other = rows.scatter(1, gone[..., None].expand(-1, -1, rows.shape[2]), 9.0)
    leaked = rows.scatter(1, seen[:, :1, None].expand(-1, -1, rows.shape[2]), 9.0)
    with torch.no_grad():
        first, second, third = [model.encode(r, hidden, seen) for r in (rows, other, leaked)]
    assert first.shape == (2, N if model.backbone.whole else N - 36, 24)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_prediction_depends_on_no_hidden_pixel(kind):
    model, x, hidden = autoencoder(kind), clip(), mask()
    x.requires_grad_()
    model(x, hidden).prediction.square().sum().backward()
    moved = vit.patchify(x.grad, TUBELET).abs().amax(2) > 0
    assert torch.equal(moved, ~hidden.flatten(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_against_a_loop_over_tokens(channels):
    torch.manual_seed(1)
    model = vit.MAE(small(channels=channels), depth=1).eval()
    x, hidden = clip(channels=channels), mask()
    with torch.no_grad():
        guess = model(x, hidden)
    assert guess.prediction.shape == guess.target.shape == (2, 36, 128 * channels)
    std = vit.STD if channels == 3 else [sum(vit.STD) / 3]
    total = count = 0
    for b in range(2):
        places = [n for n in range(N) if hidden[b].flatten()[n]]
        assert guess.hidden[b].tolist() == places
        for number, n in enumerate(places):
            t, i, j = n // 12, n // 4 % 3, n % 4
            for c in range(channels):
                box = (
                    x[b, c, 2 * t : 2 * t + 2, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
                    .double()
                    .flatten()
                    .numpy()
                )
                want = (box - box.mean()) / (box.std(ddof=1) + 1e-6 / std[c])
                said = guess.prediction[b, number].view(-1, channels)[:, c].double().numpy()
                total += ((said - want) ** 2).sum()
                count += len(want)
    assert guess.loss.item() == pytest.approx(total / count, rel=1e-5)


def test_pixels_as_they_are_can_be_guessed():
    "Targets are the hidden patches themselves, and a perfect guess is the clip."
    model, x, hidden = autoencoder(norm_pix=False), clip(), mask()
    guess = model(x, hidden)
    rows = vit.patchify(x, TUBELET)
    wanted = torch.stack([row[picked] for row, picked in zip(rows, hidden.flatten(1))])
    torch.testing.assert_close(guess.target, wanted, rtol=0, atol=0)
    assert guess.loss.item() == pytest.approx(((guess.prediction - wanted) ** 2).mean().item(), rel=1e-5)
    torch.testing.assert_close(
        vit.reconstruct(model, x, guess._replace(prediction=wanted)), x, rtol=0, atol=0
    )
    with pytest.raises(vit.WeightsError, match="norm_pix=False"):
        vit.to_hf(model, "nowhere")


def test_flat_patches_have_no_target():
    x = torch.full((1, 3, 8, 24, 32), 0.3)
    guess = autoencoder()(x, mask(1))
    assert torch.equal(guess.target, torch.zeros_like(guess.target)) and guess.loss.isfinite()


def test_reconstruction_puts_every_patch_in_its_place():
    model, x, hidden = autoencoder(), clip(), mask()
    with torch.no_grad():
        guess = model(x, hidden)
    right = guess._replace(prediction=guess.target)
    torch.testing.assert_close(vit.reconstruct(model, x, right), x, rtol=1e-4, atol=1e-4)
    rows, made = vit.patchify(x, TUBELET), vit.patchify(vit.reconstruct(model, x, guess), TUBELET)
    differs = (rows != made).any(2)
    assert torch.equal(differs, hidden.flatten(1))
    flat = vit.patchify(vit.reconstruct(model, x, guess._replace(prediction=0 * guess.target)), TUBELET)
    pixels = flat[hidden.flatten(1)].view(-1, 128, 3)
    torch.testing.assert_close(pixels, pixels[:, :1].expand_as(pixels))  # nothing but each colour's mean


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_every_weight_learns(kind):
    "No parameter is left without a gradient, which training over several processes would refuse."
    model = autoencoder(kind).train()
    model(clip(), mask()).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    classifier = small(kind, 3).train()
    classifier(clip()).square().sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_compiles_as_one_graph(kind):
    model, x, hidden = autoencoder(kind).train(), clip(), mask()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    loss = compiled(x, hidden, 36).loss
    torch.testing.assert_close(loss, model(x, hidden).loss)
    loss.backward()
    classifier = small(kind, 3, drop_path=0.2, dropout=0.2).eval()
    whole = torch.compile(classifier, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(x), classifier(x))


@pytest.mark.parametrize("kind", ["vit_tiny", "timesformer_tiny"])
def test_bf16_autocast_is_finite_and_near(kind):
    model, x, hidden = autoencoder(kind).train(), clip(), mask()
    with torch.autocast("cpu", torch.bfloat16):
        guess = model(x, hidden)
        logits = small(kind, 3)(x)
    guess.loss.backward()
    assert guess.loss.dtype == torch.float32 and guess.prediction.dtype == torch.bfloat16
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert guess.loss.item() == pytest.approx(model(x, hidden).loss.item(), rel=0.02)


def test_meta_device():
    with torch.device("meta"):
        model = vit.MAE(models.build("timesformer"))
        guess = model(torch.empty(1, 3, 16, 224, 224), torch.empty(1, 8, 14, 14, dtype=torch.bool), 1176)
    assert guess.prediction.shape == (1, 1176, 1536) and guess.hidden.shape == (1, 1176)


# ---------------------------------------------------------------- where a token looks


def test_attention_map_against_the_matrix():
    model, x = small().eval(), clip()
    block = model.blocks[1]
    with torch.no_grad():
        q, k, _ = block.attn.split(block.norm1(model.tokens(x, 1)))
        weights = (q @ k.transpose(2, 3) / math.sqrt(12)).softmax(3).mean(1)  # [B,N,N]
    for query in ((0, 0, 0), (2, 1, 3)):
        number = (query[0] * 3 + query[1]) * 4 + query[2]
        found = vit.attention_map(model, x, query, layer=1)
        torch.testing.assert_close(found, weights[:, number].view(2, *GRID))
    centre = vit.attention_map(model, x, (2, 1, 2))
    assert torch.equal(vit.attention_map(model, x), centre)


def test_attention_map_of_divided_attention():
    "The product of both steps, written as loops over one sample's places."
    model, x = small("timesformer_tiny").eval(), clip(1)
    block, query = model.blocks[-1], (1, 2, 0)
    place = 2 * 4 + 0
    with torch.no_grad():
        tokens = model.tokens(x, 2)
        lines = block.norm0(tokens).view(4, 12, 24)
        between = block.norm1(tokens + block.over_time(tokens, GRID)).view(4, 12, 24)
        space = block.attn.looked_at(between[1][None], place)[0]
        want = torch.zeros(4, 12)
        for s in range(12):
            want[:, s] = space[s] * block.attn_time.looked_at(lines[:, s][None], 1)[0]
    found = vit.attention_map(model, x, query)
    torch.testing.assert_close(found[0], want.view(GRID))
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


def test_attention_map_says_what_is_missing():
    model, x = small().eval(), clip()
    with pytest.raises(ValueError, match=r"no token \(4, 0, 0\) in a grid of \(4, 3, 4\)"):
        vit.attention_map(model, x, (4, 0, 0))
    with pytest.raises(ValueError, match="no layer 3: there are 3, from 0 to 2"):
        vit.attention_map(model, x, layer=3)


# ---------------------------------------------------------------- weights

SQUARE = dict(frames=8, size=32)


def both_ways(tmp_path, model, **more):
    folder = vit.to_hf(model, tmp_path / "hub", **SQUARE, **more)
    return folder, vit.from_hf(folder)


@pytest.mark.parametrize("norm", [True, False])
def test_autoencoder_there_and_back(tmp_path, norm):
    model = autoencoder(norm=norm, heads=3)
    folder, again = both_ways(tmp_path, model)
    assert not again.training and again.decoder.blocks[0].attn.heads == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    x, hidden = clip(), mask()
    torch.testing.assert_close(again(x, hidden).prediction, model(x, hidden).prediction)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("classes", [None, 5])
def test_backbone_there_and_back(tmp_path, classes):
    model = small(num_classes=classes, channels=1).eval()
    _, again = both_ways(tmp_path, model)
    x = clip(channels=1)
    torch.testing.assert_close(again(x), model(x))
    assert again.num_classes == classes


def test_weights_of_an_autoencoder_load_into_a_backbone(tmp_path):
    model = autoencoder()
    path = models.save_weights(model, tmp_path / "w.safetensors")
    other = small()
    report = models.load_weights(other, path)
    assert report.prefix == "backbone." and not report.trouble
    x = clip()
    torch.testing.assert_close(other.eval().tokens(x), model.backbone.tokens(x))
    headed = models.build(
        "vit_tiny", 3, **SMALL, weights=str(path)
    )  # the head is new, all else from the file
    torch.testing.assert_close(headed.eval().tokens(x), model.backbone.tokens(x))


def spoilt(tmp_path, change=None, **config):
    "A folder whose tensors or configuration were changed."
    folder = vit.to_hf(autoencoder(), tmp_path / "spoilt", **SQUARE)
    tensors = load_file(folder / "model.safetensors")
    if change:
        change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.mark.parametrize(
    "change, config, says",
    [
        (lambda t: t.pop("decoder.norm.bias"), {}, r"does not fit MAE: 1 missing \(decoder.norm.bias\)"),
        (lambda t: t.update(extra=torch.ones(1)), {}, r"1 unexpected \(extra\)"),
        (None, dict(hidden_size=48, intermediate_size=96), r"of another shape \(videomae.embeddings"),
        (None, dict(model_type="timesformer"), "for 'timesformer', not for VideoMAE"),
        (None, dict(qv_bias=False), "qv_bias=False"),
        (None, dict(norm_pix_loss=False), "norm_pix_loss=False"),
        (None, dict(hidden_act="relu"), "hidden_act='relu'"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, config, says):
    with pytest.raises(models.WeightsError, match=says):
        vit.from_hf(spoilt(tmp_path, change, **config))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(models.WeightsError, match="no config.json"):
        vit.from_hf(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(models.WeightsError, match="model.safetensors: no such file"):
        vit.from_hf(tmp_path)
    for kind in (small("timesformer_tiny"), autoencoder("timesformer_tiny"), models.build("r2plus1d_tiny")):
        with pytest.raises(models.WeightsError, match="no counterpart in Hugging Face's VideoMAE"):
            vit.to_hf(kind, tmp_path / "new")
    with pytest.raises(models.WeightsError, match="not made of whole tubelets"):
        vit.to_hf(small(), tmp_path / "new", frames=7, size=32)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- Hugging Face


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("transformers", reason="the extra `hub` is not installed")


CONFIG = dict(
    image_size=32,
    patch_size=8,
    num_frames=8,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=72,
    decoder_hidden_size=12,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=3,
    decoder_intermediate_size=40,
    initializer_range=0.2,
)


def theirs(kind, **changes):
    "A network of theirs whose every weight is random, biases and norms among them."
    model = kind(kind.config_class(**{**CONFIG, **changes})).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.7 if "norm" in name else 0.0, 0.2)
    torch.nn.init.normal_(getattr(model, "mask_token", torch.empty(1)), 0, 0.5)
    return model


def square(channels=3):
    return clip(channels=channels, height=32, width=32), mask(count=48, grid=(4, 4, 4))


def close(ours, other):
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "pooling", [True, False]
)  # False: a layer norm behind the encoder, as the published ones
def test_pretraining_equals_theirs(hub, tmp_path, channels, pooling):
    model = theirs(hub.VideoMAEForPreTraining, num_channels=channels, use_mean_pooling=pooling)
    x, hidden = square(channels)
    model.save_pretrained(tmp_path / "theirs")
    config = model.config.to_dict()
    for ours in (vit.from_hf(tmp_path / "theirs"), vit.from_hf(model.state_dict(), config)):
        with torch.no_grad():
            want, found = model(x.transpose(1, 2), hidden.flatten(1)), ours(x, hidden)
        close(found.prediction, want.logits)
        close(found.loss, want.loss)
        with torch.no_grad():
            encoded = ours.encode(vit.patchify(x, TUBELET), hidden, vit.split(hidden)[0])
            close(encoded, model.videomae(x.transpose(1, 2), hidden.flatten(1)).last_hidden_state)


def test_gradients_equal_theirs(hub):
    model = theirs(hub.VideoMAEForPreTraining)
    ours = vit.from_hf(model.state_dict(), model.config.to_dict())
    x, hidden = square()
    model(x.transpose(1, 2), hidden.flatten(1)).loss.backward()
    ours(x, hidden).loss.backward()
    wanted = dict(model.named_parameters())
    for name, gradient in vit._to_theirs({k: p.grad for k, p in ours.named_parameters()}).items():
        name = name.replace("q_bias", "query.bias").replace("v_bias", "value.bias")
        torch.testing.assert_close(
            gradient, wanted.pop(name).grad, rtol=1e-4, atol=1e-6, msg=lambda m: f"{name}: {m}"
        )
    assert not wanted


@pytest.mark.parametrize("channels", [1, 3])
def test_their_classifier(hub, tmp_path, channels):
    model = theirs(hub.VideoMAEForVideoClassification, num_channels=channels, num_labels=6)
    model.save_pretrained(tmp_path / "theirs")
    ours, (x, _) = vit.from_hf(tmp_path / "theirs"), square(channels)
    with torch.no_grad():
        close(ours(x), model(x.transpose(1, 2)).logits)


def test_a_classifier_that_reads_one_token_is_refused(hub):
    model = theirs(hub.VideoMAEForVideoClassification, use_mean_pooling=False)
    with pytest.raises(models.WeightsError, match="reads one token; here it reads their mean"):
        vit.from_hf(model.state_dict(), model.config.to_dict())


@pytest.mark.parametrize("norm", [True, False])
def test_their_class_opens_our_autoencoder(hub, tmp_path, norm):
    model, (x, hidden) = autoencoder(norm=norm), square()
    folder = vit.to_hf(model, tmp_path / "ours", **SQUARE)
    opened, about = hub.VideoMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        want, found = opened.eval()(x.transpose(1, 2), hidden.flatten(1)), model(x, hidden)
    close(found.prediction, want.logits)
    close(found.loss, want.loss)


def test_their_classes_open_our_backbones(hub, tmp_path):
    (x, _), model = square(), small(num_classes=4).eval()
    folder = vit.to_hf(model, tmp_path / "ours", **SQUARE)
    opened, about = hub.VideoMAEForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.num_labels == 4
    bare = small().eval()
    encoder, about = hub.VideoMAEModel.from_pretrained(
        vit.to_hf(bare, tmp_path / "bare", **SQUARE), output_loading_info=True
    )
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        close(model(x), opened.eval()(x.transpose(1, 2)).logits)
        close(bare.tokens(x), encoder.eval()(x.transpose(1, 2)).last_hidden_state)


def test_position_tables_agree(hub):
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    torch.testing.assert_close(
        vit.sincos(1568, 768), get_sinusoid_encoding_table(1568, 768)[0], rtol=0, atol=1e-7
    )


def test_names_are_of_the_defaults(hub):
    "What a configuration leaves out is what their class takes."
    for name, value in vit._DEFAULTS.items():
        assert getattr(hub.VideoMAEConfig(), name) == value, name


def test_named_networks_are_theirs(hub):
    "Names and shapes of a whole ViT-B, without a number computed."
    with torch.device("meta"):
        ours = vit.MAE(models.build("vit_base"))
        model = hub.VideoMAEForPreTraining(hub.VideoMAEConfig(use_mean_pooling=False))
    shapes = {name: tensor.shape for name, tensor in vit._to_theirs(ours.state_dict()).items()}
    rename = lambda name: name.replace("query.bias", "q_bias").replace("value.bias", "v_bias")
    assert shapes == {rename(name): tensor.shape for name, tensor in model.state_dict().items()}
