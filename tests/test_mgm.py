"""MGM: which tokens are hidden, what the loss is, and that a sample's mask does not depend on its batch."""

import copy

import numpy as np
import pytest
import torch

from safetensors import safe_open

from mvnb import clips, datasets, flow, methods, models, quality, recipes, runs, tokens
from mvnb.augment import MEAN, STD
from mvnb.clips import ClipDataset
from mvnb.papers.mgm.method import MASKS, MGM
from mvnb.train import Schedule, fit

PLAIN = dict(gray=0.0, p_jitter=0.0, blur=0.0, flip=0.0)
TINY = dict(backbone="vit_tiny", width=24, depth=2, heads=2, decoder_depth=1, seed=5, photometric=PLAIN)
GRID = (2, 4, 4)  # of clips of 4 frames at 32×32, in tubelets of 2×8×8


def make_batch(size=4, side=32, epoch=0, seed=0, cells=4):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(0, 256, (size, 1, 3, 4, side, side), dtype=torch.uint8, generator=generator)
    return {
        "clip": clip,
        "mv": torch.randn(size, 1, 4, 2, cells, cells, generator=generator),
        "has_mv": torch.rand(size, 1, 4, cells, cells, generator=generator) < 0.8,
        "index": torch.arange(size),
        "epoch": epoch,
        "step": 0,
    }


def taken(batch, rows):
    "Some samples of a batch."
    return {name: value[rows] if torch.is_tensor(value) else value for name, value in batch.items()}


@pytest.mark.parametrize("kind", tokens.TOKENS)
@pytest.mark.parametrize("ratio", [None, 0.5, 0.9])
def test_every_sample_hides_the_same_number(kind, ratio):
    mask = MGM(mask=kind, ratio=ratio, **TINY).hide(make_batch(6))
    assert mask.shape == (6, *GRID)
    assert set(mask.flatten(1).sum(1).tolist()) == {tokens.hidden_count(kind, GRID, ratio)}


@pytest.mark.parametrize("kind", tokens.TOKENS)
def test_a_mask_belongs_to_its_sample(kind):
    "Other samples in the batch, or another order, change nothing; another epoch or seed does."
    method, batch = MGM(mask=kind, ratio=0.5, **TINY), make_batch(8)
    mask = method.hide(batch)
    rows = torch.tensor([6, 1, 4])
    torch.testing.assert_close(method.hide(taken(batch, rows)), mask[rows])
    later = method.hide(batch | {"epoch": 1})
    other = MGM(mask=kind, ratio=0.5, **TINY | dict(seed=6)).hide(batch)
    drawn = kind != "mgm_sparse"  # where it leaves nothing to chance but ties
    assert later.equal(mask) != drawn and other.equal(mask) != drawn


def test_a_moving_square_is_hidden():
    "One block of 2×2 cells moves in each tubelet; with γ = 0.5 the rectangle covers it."
    batch = make_batch(16, cells=8)
    batch["mv"].zero_()
    batch["has_mv"].fill_(True)
    moved = torch.zeros(16, 2, 8, 8)
    places = torch.randint(1, 6, (16, 2), generator=torch.Generator().manual_seed(1))
    for sample, (row, column) in enumerate(places.tolist()):
        batch["mv"][sample, 0, :, 0, row : row + 2, column : column + 2] = 3.0
        moved[sample, :, row : row + 2, column : column + 2] = 1.0
    share = tokens.hidden_share(MGM(ratio=0.5, jitter=0.0, **TINY).hide(batch), moved)
    blind = tokens.hidden_share(MGM(mask="random", ratio=0.5, **TINY).hide(batch), moved)
    assert share.min() > 0.75 and share.mean() > 0.95
    assert blind.mean() < 0.7


def test_absent_vectors_count_as_none():
    batch = make_batch()
    batch["has_mv"].fill_(False)
    frozen = make_batch()
    frozen["mv"].zero_()
    method = MGM(**TINY)
    assert method.hide(batch).equal(method.hide(frozen))


def test_a_flip_takes_the_mask_along():
    batch = make_batch()
    clip, mask = MGM(**TINY).inputs_of(batch)
    flipped, its = MGM(**TINY | dict(photometric=PLAIN | dict(flip=1.0))).inputs_of(batch)
    torch.testing.assert_close(flipped, clip.flip(-1))
    assert its.equal(mask.flip(-1)) and not its.equal(mask)


def _pixels(clip, t, y, x, colour):
    "One colour of one tubelet, in the order of time, height and width."
    return clip[colour, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].reshape(-1).double()


def test_the_loss_is_that_of_a_loop():
    "Over samples, tokens and colours, with targets cut out of the clip by hand."
    method, batch = MGM(**TINY), make_batch(3)
    clip = (batch["clip"][:, 0] / 255 - torch.tensor(MEAN)[:, None, None, None]) / torch.tensor(STD)[
        :, None, None, None
    ]
    mask = method.hide(batch)
    guess = method.mae(clip, mask)
    errors = []
    for sample in range(3):
        for place, (t, y, x) in enumerate(mask[sample].nonzero().tolist()):
            for colour in range(3):
                pixels = _pixels(clip[sample], t, y, x, colour)
                wanted = (pixels - pixels.mean()) / (pixels.std() + 1e-6 / STD[colour])
                errors.append((guess.prediction[sample, place, colour::3].double() - wanted).square())
    torch.testing.assert_close(method(batch)["loss"].double(), torch.cat(errors).mean(), rtol=1e-5, atol=1e-6)


def test_visible_pixels_alone_reach_the_encoder():
    "Noise under the mask changes the targets, and nothing of what the decoder says about them."
    method, batch = MGM(**TINY).eval(), make_batch(2)
    clip, mask = method.inputs_of(batch)
    under = tokens.token_pixels(mask, clip.shape[2:])[:, None]
    noisy = torch.where(under, torch.randn_like(clip), clip)
    with torch.no_grad():
        first, second = (method.mae(x, mask).prediction for x in (clip, noisy))
    torch.testing.assert_close(first, second)


def test_autocast_gives_a_finite_loss_near_that_of_float32():
    method, batch = MGM(**TINY), make_batch(8)
    exact = method(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(batch)["loss"]
    rough.backward()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_divided_attention_learns_too():
    method = MGM(**TINY | dict(backbone="timesformer_tiny"))
    method(make_batch())["loss"].backward()
    assert method.mae.mask_token.grad.abs().sum() > 0


def test_gray_clips_and_one_channel():
    method = MGM(**TINY | dict(photometric=PLAIN | dict(one_channel=True)), channels=1)
    clip, _ = method.inputs_of(make_batch())
    assert clip.shape[1] == 1 and method(make_batch())["loss"].isfinite()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", tokens.TOKENS)
def test_a_gpu_hides_what_a_cpu_hides(kind):
    batch = make_batch(8)
    there = {n: v.cuda() if torch.is_tensor(v) and n != "index" else v for n, v in batch.items()}
    method = MGM(mask=kind, **TINY)
    here, on_gpu = method.hide(batch), copy.deepcopy(method).cuda().hide(there)
    assert on_gpu.is_cuda and on_gpu.cpu().equal(here)


def test_only_masks_that_follow_motion_ask_for_it():
    assert MGM(**TINY, motion_grid=12).clip_options == dict(motion=True, motion_grid=12)
    assert MGM(mask="tube", **TINY).clip_options == {}
    batch = {name: value for name, value in make_batch().items() if name not in ("mv", "has_mv")}
    assert MGM(mask="smm", **TINY)(batch)["loss"].isfinite()
    with pytest.raises(ValueError, match="motion in the batch"):
        MGM(**TINY)(batch)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(mask="cube"), "no token mask 'cube'"),
        (dict(ratio=1.0), "ratio is 1.0"),
        (dict(jitter=-1), "jitter is -1"),
        (dict(jitter=float("nan")), "jitter is nan"),
        (dict(reduce="sum"), "reduce 'sum'"),
        (dict(motion_grid=0), "motion_grid is 0"),
        (dict(backbone="r3d_tiny", width=None, depth=None, heads=None), None),
    ],
)
def test_options_that_there_are_not(wrong, said):
    if said is None:
        with pytest.raises(ValueError, match="needs a transformer"):
            MGM("r3d_tiny")
        return
    with pytest.raises(ValueError, match=said):
        methods.build("mgm", **TINY | wrong)


@pytest.mark.parametrize(("mask", "ratio"), [("tube", 0.97), ("tube", 0.02), ("random", 0.995)])
def test_a_ratio_that_hides_all_or_nothing_of_a_small_grid_is_refused(mask, ratio):
    method = MGM("vit_tiny", mask=mask, ratio=ratio)
    batch = dict(clip=torch.zeros(1, 1, 3, 8, 32, 32, dtype=torch.uint8), index=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"hides (64|0) of 64 tokens"):
        method(batch | dict(epoch=torch.tensor(0), label=torch.tensor([0]), step=torch.tensor(0)))


def test_divided_attention_costs_a_whole_pass():
    "The decoder costs a quarter; joint attention sees 1 of 4 tokens, forwards and backwards."
    assert methods.passes("mgm", {"backbone": "vit_tiny"}) == 3 / 4 + 1 / 4
    assert methods.passes("mgm", {"backbone": "timesformer_tiny"}) == 3 + 1 / 4


def test_clips_that_do_not_divide_are_refused():
    batch = make_batch(side=36)
    with pytest.raises(ValueError, match="whole tubelets 2×8×8"):
        MGM(**TINY)(batch)


def test_two_pretrainings_are_one(puppets_root, tmp_path):
    "With motion vectors from files: the same weights, to the last bit, by the cache and by loader processes."
    index = datasets.load("puppets-s", "train", root=puppets_root, scale=0.05)
    clip = dict(length=4, stride=2, size=32, views=1, motion=True, motion_grid=4)
    plan = Schedule(epochs=9, batch_size=8, optimizer="adamw", lr=1e-3, max_steps=6)
    weights = []
    for name, workers in (("alone", 0), ("helped", 2)):
        method = MGM(**TINY, motion_grid=4)
        options = dict(seed=0, device="cpu", progress=False, tensorboard=False, workers=workers)
        fit(method, ClipDataset(index, **clip), plan, folder=tmp_path / name, **options)
        weights.append(method.state_dict())
    for one, other in zip(*(state.values() for state in weights)):
        assert one.equal(other)


@pytest.mark.real
def test_real_videos_are_masked_where_they_move(shared_data):
    "UCF101 (MPEG-4) and Kinetics (H.264): the token that moves most is hidden in nearly every tubelet."
    paths = sorted((shared_data / "mini").glob("*/*_g03_c01.avi"))[:6]
    paths += sorted((shared_data / "clips" / "kinetics400").glob("*.mp4"))[:2]
    names = [str(path.relative_to(shared_data)) for path in paths]
    index = datasets.Index("files", "train", shared_data, names, np.zeros(len(names), int), ("one",))
    data = ClipDataset(index, length=8, stride=2, size=112, views=1, motion=True, train=False, mode="uniform")
    batch = next(iter(clips.batches(data, len(names), 0, shuffle=False)))
    length = torch.hypot(*batch["mv"][:, 0].unbind(2)).unflatten(1, (4, 2)).amax(2)
    method = MGM("vit_tiny", ratio=0.5, tubelet=(2, 16, 16), photometric=PLAIN)
    most = torch.nn.functional.adaptive_max_pool2d(length, (7, 7)).flatten(2)  # [B,T',49]
    moving = most.amax(2) > 0
    hidden = method.hide(batch).flatten(2).gather(2, most.argmax(2)[..., None])[..., 0]
    assert moving.float().mean() > 0.5
    assert hidden[moving].float().mean() > 0.95
    assert method(batch)["loss"].isfinite()


# ---------------------------------------------------------------- with a GPU

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@cuda
@pytest.mark.parametrize("kind", tokens.TOKENS)
def test_the_same_tokens_are_hidden_on_the_gpu(kind):
    from mvnb.train import to_device

    method, batch = MGM(mask=kind, **TINY), make_batch(16, cells=8)
    there = method.hide(to_device(batch, torch.device("cuda")))
    assert there.is_cuda and there.cpu().equal(method.hide(batch))


@cuda
@pytest.mark.parametrize("kind", tokens.TOKENS)
def test_a_step_on_the_gpu_waits_for_nothing(kind):
    from mvnb.train import to_device

    method, batch = MGM(mask=kind, **TINY), make_batch()
    expected = method(batch)["loss"].item()
    task, batch = method.cuda().train(), to_device(batch, torch.device("cuda"))
    task(batch)["loss"].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = task(batch)["loss"]
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(expected, rel=1e-3)


@cuda
def test_a_step_on_the_gpu_in_bf16_and_compiled():
    from mvnb.train import to_device

    method, batch = MGM(**TINY), make_batch()
    expected = method(batch)["loss"].item()
    task, batch = method.cuda().train(), to_device(batch, torch.device("cuda"))
    clip, mask = task.inputs_of(batch)
    count = tokens.hidden_count("mgm", GRID, None)
    compiled = torch.compile(task.mae, fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = compiled(clip, mask, count).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=2e-2)


def test_a_stored_pretraining_keeps_its_decoder(puppets_root, tmp_path, monkeypatch):
    "The method that comes back guesses as the trained one did: its loss on a batch is the last checkpoint's."
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    recipe = recipes.pretraining(recipes.profile("smoke", "mgm"), "mgm", "puppets-s", "vit", 0, mask="tube")
    made = {}
    build = methods.build

    def noted(*args, **options):
        made["method"] = build(*args, **options)
        return made["method"]

    monkeypatch.setattr(methods, "build", noted)
    result = runs.ensure(recipe, "cpu", 0, progress=False)
    trained = made["method"]
    again = runs.trained(result)
    assert again is not trained and not again.training
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert not any(
        key.startswith("backbone.") for key in safe_open(result.folder / runs.DECODER, "pt").keys()
    )
    (result.folder / runs.DECODER).unlink()
    with pytest.raises(models.WeightsError, match="decoder was not kept"):
        runs.trained(result)


# ---------------------------------------------------------------- masks to explore


def vectors_of(batch):
    return batch["mv"][:, 0], batch["has_mv"][:, 0]


@pytest.mark.parametrize("name", tokens.TOKENS)
def test_a_mask_of_a_clip_is_what_the_method_hides(name):
    kind, batch = MASKS[name], make_batch(6)
    clip, given = batch["clip"][:, 0], dict(ratio=0.5, token=8, seed=5)
    motion = dict(motion=vectors_of(batch)) if kind.guided else {}
    mask = kind.make(clip, **given, **motion)
    hidden = MGM(mask=name, ratio=0.5, **TINY).hide(batch)
    assert kind.guided == tokens.TOKENS[name].guided and kind.hides and mask.dtype == torch.bool
    assert torch.equal(mask, hidden.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert torch.equal(kind.make(clip.float() / 255, **given, **motion), mask)
    rows = [4, 1]  # a clip's mask does not depend on its batch
    some = dict(motion=tuple(part[rows] for part in motion["motion"])) if motion else {}
    assert torch.equal(kind.make(clip[rows], **given, **some, index=rows), mask[rows])
    pictures = kind.stages(clip, **given, **motion)
    assert torch.equal(pictures["time hidden"], mask.float().mean(1))


@pytest.mark.parametrize("name", ["mgm", "mgm_sparse"])
def test_a_clip_alone_is_guided_by_its_flow(name):
    clip = quality.films("puppets-u", "still", 2)[0]
    fields = [flow.frames_motion(one, "dis") for one in clip]
    motion = tuple(torch.stack(part) for part in zip(*fields))
    make = MASKS[name].make
    assert torch.equal(make(clip), make(clip, motion))
    assert torch.equal(make(clip, seed=1), make(clip)) == (name == "mgm_sparse")  # where ties alone are drawn
    with pytest.raises(ValueError, match="whole tubelets 2×16×16"):
        make(clip[..., :60])
    with pytest.raises(ValueError, match="ratio is 1"):
        make(clip, ratio=1)
