"""MCL: what its loss is made of, that maps follow their clips, SeCo's parts, and what a run asks of it."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvnb import methods, models, recipes
from mvnb.augment import Photometric
from mvnb.losses import info_nce, motion_alignment
from mvnb.methods.contrast import MoCo
from mvnb.models import WeightsError
from mvnb.papers.mcl import method as mcl_method
from mvnb.papers.mcl.method import MCL, inside_video
from mvnb.train import Schedule, fit

PLAIN = dict(gray=0.0, p_jitter=0.0, blur=0.0, flip=0.0)
TINY = dict(backbone="r2plus1d_50_tiny", widths=(4, 8), queue=20, dim=8, seed=5, photometric=PLAIN)


def make_batch(size=4, views=2, frames=4, side=32, epoch=0, seed=0):
    make = torch.Generator().manual_seed(seed)
    shape = (size, views, 3, frames, side, side)
    return {
        "clip": torch.randint(0, 256, shape, dtype=torch.uint8, generator=make),
        "map": torch.rand(size, views, frames, side // 8, side // 8, generator=make),
        "half": torch.arange(size) % 2,
        "index": torch.arange(size),
        "epoch": epoch,
        "step": 0,
    }


def by_hand(method, batch, version=3, terms=("S", "T", "ST")):
    "Contrast and alignment of the text, with a hook and torch's own gradient."
    query, key = method.inputs_of(batch)
    negatives, caught = method.contrast.queue.clone(), []
    layer = method.backbone.get_submodule(method.backbone.last_layer)
    handle = layer.register_forward_hook(lambda module, given, out: caught.append(out))
    q = F.normalize(method.contrast.head(method.backbone(query)), dim=1)
    handle.remove()
    with torch.no_grad():
        k = F.normalize(method.contrast.key_head(method.contrast.key_backbone(key)), dim=1)
    (g,) = torch.autograd.grad((q * k).sum(), caught[0], create_graph=True)
    contrast = info_nce(q, k, negatives, method.contrast.temperature)
    return contrast, motion_alignment(g, caught[0], batch["map"][:, 0], version, terms)


@pytest.mark.parametrize("variant", ["v1", "v2", "v3"])
@pytest.mark.parametrize("terms", [("S", "T", "ST"), ("T",), ("S", "ST")])
def test_the_loss_is_contrast_plus_alignment(variant, terms):
    method, batch = MCL(variant=variant, terms=terms, **TINY).train(), make_batch()
    contrast, alignment = by_hand(copy.deepcopy(method), batch, int(variant[1]), terms)
    out = method(batch)
    torch.testing.assert_close(out["contrast"], contrast)
    torch.testing.assert_close(out["alignment"], alignment, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out["loss"], out["contrast"] + out["alignment"])
    assert {"S", "T", "ST"} & set(out) == set(terms)


def test_its_gradient_is_that_of_the_plain_loss():
    "Second differentiation included: every weight of the encoder, and the head."
    method, batch = MCL(**TINY).train(), make_batch()
    plain = copy.deepcopy(method)
    plain.contrast.__dict__["query"] = plain.backbone
    sum(by_hand(plain, batch)).backward()
    method(batch)["loss"].backward()
    for (name, p), other in zip(method.named_parameters(), plain.parameters()):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_without_terms_it_is_moco():
    "With the same seed, to the last bit, in loss, gradient and queue."
    mine, moco = MCL(terms=(), **TINY), MoCo(symmetric=False, **TINY)
    batch = {name: value for name, value in make_batch().items() if name != "map"}
    outs = [method.train()(batch) for method in (mine, moco)]
    for out in outs:
        out["loss"].backward()
    assert outs[0]["loss"].equal(outs[1]["loss"]) and outs[0]["top1"].equal(outs[1]["top1"])
    assert mine.contrast.queue.equal(moco.contrast.queue)
    for mine_, other in zip(mine.parameters(), moco.parameters()):
        assert mine_.grad is None and other.grad is None or mine_.grad.equal(other.grad)


def test_a_flip_takes_the_map_along():
    "Flipped clips with flipped maps have the loss of mirrored ones; without the maps they have not."
    turned = MCL(**TINY | dict(photometric=PLAIN | dict(flip=1.0))).train()
    straight, batch = MCL(**TINY).train(), make_batch()
    mirrored = batch | {name: batch[name].flip(-1) for name in ("clip", "map")}
    found = turned(batch)["alignment"].item()
    assert found == pytest.approx(copy.deepcopy(straight)(mirrored)["alignment"].item(), rel=1e-5)
    other = straight(mirrored | {"map": batch["map"]})["alignment"].item()
    assert found != pytest.approx(other, rel=1e-3)


def test_each_map_is_flipped_with_its_own_clip():
    method = MCL(**TINY | dict(photometric=PLAIN | dict(flip=0.5)))
    batch = make_batch(16)
    drawn = method.photometric.draw(5, 0, batch["index"], "q")["flip"]
    assert 0 < drawn.sum() < 16
    for flipped, given, used in zip(drawn, batch["map"][:, 0], method.motion_of(batch)):
        assert used.equal(given.flip(-1) if flipped else given)


def test_an_alignment_that_counts_twice_at_first():
    batch = make_batch()
    for epoch, times in ((0, 2), (4, 2), (5, 1), (9, 1)):
        out = MCL(double=5, **TINY)(batch | {"epoch": epoch})
        torch.testing.assert_close(out["loss"], out["contrast"] + times * out["alignment"])


def test_evaluation_without_gradients_gives_the_same_numbers():
    method, batch = MCL(**TINY).eval(), make_batch()
    with torch.no_grad():
        inside = method(batch)
    torch.testing.assert_close(inside["loss"], method(batch)["loss"].detach())
    assert method.contrast.pointer.item() == 0


@pytest.mark.parametrize("backbone", ["r2plus1d_tiny", "r3d_tiny", "i3d_tiny", "r2plus1d_50_tiny"])
@pytest.mark.parametrize("variant", ["v2", "v3"])
def test_every_convolutional_network_can_be_aligned(backbone, variant):
    method = MCL(backbone, variant=variant, queue=8, dim=8, photometric=PLAIN).train()
    out = method(make_batch(frames=8))
    out["loss"].backward()
    grads = [p.grad for p in method.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads) and out["alignment"] > 0


@pytest.mark.parametrize("backbone", ["r2d_50_tiny", "i2d"])
def test_networks_of_single_frames_see_the_middle_one_and_align_in_space(backbone):
    method, batch = MCL(backbone, terms="S", queue=8, dim=8, photometric=PLAIN), make_batch(side=64)
    query, key = method.inputs_of(batch)
    assert query.shape == key.shape == (4, 3, 1, 64, 64)
    blank = batch | {"clip": batch["clip"].clone()}
    blank["clip"][:, :, :, [0, 1, 3]] = 0
    assert method.eval()(blank)["loss"].equal(method(batch)["loss"])
    with pytest.raises(ValueError, match="use terms=.'S',."):
        MCL(backbone, queue=8, dim=8)(batch)


# ---------------------------------------------------------------- SeCo


SECO = TINY | dict(objective="seco", order_epochs=10)


def test_seco_s_parts_by_hand():
    "Each key against the queue, the same frames against the other half, and the order."
    method, batch = MCL(terms=(), **SECO).eval(), make_batch(views=4, epoch=4)
    query, *keys = method.inputs_of(batch)
    part = method.contrast
    with torch.no_grad():
        project = lambda heads, feature, n: F.normalize(heads.each[n](feature), dim=1)
        q = [project(part.head, method.backbone(query), n) for n in range(3)]
        k = [[project(part.key_head, part.key_backbone(key), n) for n in range(3)] for key in keys]
    inter, intra = [], []
    for b in range(4):
        for key in k:
            cosines = torch.cat([(q[0][b] @ key[0][b])[None], part.queue @ q[0][b]]) / 0.1
            inter.append(-cosines.log_softmax(0)[0])
        for other in k[1:]:
            pair = torch.stack([q[1][b] @ k[0][1][b], q[1][b] @ other[1][b]]) / 0.1
            intra.append(-pair.log_softmax(0)[0])
    logits = method.order_head(torch.cat([q[2], k[1][2], k[2][2]], 1))
    order = F.cross_entropy(logits, torch.tensor([0, 1, 0, 1]))
    out = method(batch)
    expected = torch.stack(inter).mean() + torch.stack(intra).mean() + 0.4 * order
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(out["intra"], torch.stack(intra).mean())


def test_all_three_keys_enter_the_queue():
    method, batch = MCL(**SECO).train(), make_batch(views=4)
    before = method.contrast.queue.clone()
    method(batch)
    assert method.contrast.pointer.item() == 3 * 4
    changed = (method.contrast.queue != before).any(1)
    assert changed[:12].all() and not changed[12:].any()


def test_the_heads_of_the_keys_follow():
    "All of them, and only at a step of the optimizer."
    method = MCL(momentum=0.5, **SECO).train()
    before = [p.clone() for p in method.contrast.key_head.parameters()]
    with torch.no_grad():
        for p in method.contrast.head.parameters():
            p.add_(1)
    method.contrast.start_step(0)
    for was, now in zip(before, method.contrast.key_head.parameters()):
        torch.testing.assert_close(now, was + 0.5)
    assert len(before) == 3 * 4 and not any(p.requires_grad for p in method.contrast.key_head.parameters())


def test_the_order_part_is_left_out_or_grows():
    batch = make_batch(views=4)
    without = MCL(objective="seco", **TINY)
    out = without({name: value for name, value in batch.items() if name != "half"})
    assert "order" not in out and "order_head" not in str(without.state_dict().keys())
    losses = {}
    for epoch in (0, 5, 10, 20):
        out = MCL(terms=(), **SECO)(batch | {"epoch": epoch})
        losses[epoch] = (out["loss"] / 1).item(), out["order"].item()
    slope = losses[10][0] - losses[0][0]
    assert slope == pytest.approx(losses[0][1], rel=1e-4)
    assert losses[5][0] - losses[0][0] == pytest.approx(slope / 2, rel=1e-4)
    assert losses[20][0] == losses[10][0]
    with pytest.raises(ValueError, match="the half of each query"):
        MCL(**SECO)({name: value for name, value in batch.items() if name != "half"})


def test_inside_a_video_nothing_learnt_costs_log_two():
    q = F.normalize(torch.randn(5, 8), dim=1)
    assert inside_video(q, q, [q, q]).item() == pytest.approx(np.log(2))
    assert inside_video(q, q, [-q]).item() < 1e-6 < inside_video(q, -q, [q]).item()


# ---------------------------------------------------------------- training


class Clips:
    "What mvnb.clips offers of a few random videos with maps."

    hash, failed = "random", {}

    def __len__(self):
        return 8

    def steps_per_epoch(self, batch_size, world=1, drop_last=True):
        return 8 // batch_size

    def batches(self, batch_size, epoch, *, start=0, **_):
        whole = make_batch(8, seed=epoch)
        for step in range(start, 8 // batch_size):
            rows = slice(step * batch_size, (step + 1) * batch_size)
            part = {name: value[rows] for name, value in whole.items() if torch.is_tensor(value)}
            yield part | {"epoch": epoch, "step": step}


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_it_trains_in_the_loop_with_accumulation(tmp_path, precision):
    schedule = Schedule(epochs=3, batch_size=4, accumulate=2, lr=0.05, precision=precision)
    method = MCL(**TINY)
    before = copy.deepcopy(method.backbone.state_dict())
    done = fit(method, Clips(), schedule, folder=tmp_path, device="cpu", progress=False, tensorboard=False)
    assert done.steps == 3 and np.isfinite(done.losses).all()
    assert {"alignment", "contrast", "S", "T", "ST", "top1"} == set(done.metrics)
    moved = [name for name, value in method.backbone.state_dict().items() if not value.equal(before[name])]
    assert set(moved) >= {name for name, _ in method.backbone.named_parameters()}
    assert method.contrast.pointer.item() == 3 * 8 % 20


def test_accumulated_gradients_are_the_sum_of_those_of_the_parts():
    method = MCL(**TINY).eval()
    first, second = make_batch(seed=1), make_batch(seed=2)
    grads = []
    for batches in ([first], [second], [first, second]):
        method.zero_grad()
        for batch in batches:
            method(batch)["loss"].backward()
        grads.append([p.grad.clone() for p in method.parameters() if p.requires_grad])
    for one, two, both in zip(*grads):
        torch.testing.assert_close(one + two, both, rtol=1e-4, atol=1e-6)


def test_alignment_falls_when_trained():
    torch.manual_seed(0)
    method, batch = MCL(**TINY | dict(widths=(8, 16))).train(), make_batch(8, frames=8)
    batch["map"] = torch.zeros_like(batch["map"])
    batch["map"][..., :2, :2] = 1.0  # the upper left corner, always
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 0.01)
    values = []
    for _ in range(40):
        out = method(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        values.append(out["alignment"].item())
    assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("objective", ["nce", "seco"])
def test_a_step_on_the_gpu_waits_for_nothing(objective):
    method = MCL(**TINY | dict(objective=objective)).cuda().train()
    batch = make_batch(views=4)
    index = batch.pop("index")
    batch = {k: v.cuda() if torch.is_tensor(v) else v for k, v in batch.items()} | {"index": index}
    with torch.autocast("cuda", torch.bfloat16):
        method(batch)["loss"].backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            out = method(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    out["loss"].backward()
    assert out["loss"].isfinite()


# ---------------------------------------------------------------- weights from pictures


def pictures(path, backbone="r2d_50_tiny", **settings):
    "A checkpoint as MoCo writes it, of a narrow 2D network with random values; its tensors."
    flat = models.build(backbone, **settings)
    state = {}
    for name, value in flat.state_dict().items():
        value = torch.rand_like(value) if value.is_floating_point() else value
        state[f"module.encoder_q.{name}"] = value[:, :, 0] if value.ndim == 5 else value
    state["module.encoder_q.fc.0.weight"] = torch.randn(flat.dim, flat.dim)
    state["module.encoder_q.fc.0.bias"] = torch.randn(flat.dim)
    state |= {name.replace("_q.", "_k."): torch.zeros_like(value) for name, value in state.items()}
    torch.save({"state_dict": state | {"module.queue": torch.rand(4, 4)}}, path)
    return state


@pytest.mark.parametrize("objective", ["nce", "seco"])
def test_it_starts_from_pictures(tmp_path, monkeypatch, objective):
    "Encoder, key encoder and the head's first layer take the query encoder's values."
    state = pictures(tmp_path / "moco.pth.tar", widths=(4, 8))
    monkeypatch.setenv("MVNB_WEIGHTS_MOCO_RESNET50", str(tmp_path / "moco.pth.tar"))
    method = MCL(**TINY | dict(objective=objective, start="imagenet"))
    for encoder in (method.backbone, method.contrast.key_backbone):
        assert encoder.layer1[0].conv3.weight[:, :, 0].equal(state["module.encoder_q.layer1.0.conv3.weight"])
        slots = encoder.conv1.weight.unbind(2)
        assert slots[0].equal(state["module.encoder_q.conv1.weight"]) and not slots[1].any()
    for head in (method.contrast.head, method.contrast.key_head):
        first = head[0] if objective == "nce" else head.each[0][0]
        assert first.bias.equal(state["module.encoder_q.fc.0.bias"])
    assert set(methods.inputs("mcl", {"start": "imagenet"})) == {"weights of MoCo v2 on ImageNet"}
    needed = methods.inputs("mcl", {"start": "imagenet"})["weights of MoCo v2 on ImageNet"]
    needed.check(None)
    first = needed.hash
    pictures(tmp_path / "moco.pth.tar", widths=(4, 8))
    assert needed.hash != first and methods.inputs("mcl", {}) == {}


def test_an_absent_file_is_named_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_WEIGHTS_MOCO_RESNET50", str(tmp_path / "none.pth.tar"))
    with pytest.raises(WeightsError, match=r"none.pth.tar: no such .*https.*moco_v2_200ep_pretrain.pth.tar"):
        MCL(**TINY | dict(start="imagenet"))
    needed = methods.inputs("mcl", {"start": "imagenet"})["weights of MoCo v2 on ImageNet"]
    with pytest.raises(WeightsError, match="settings.local.ini"):
        needed.check(None)


# ---------------------------------------------------------------- what others ask


def test_what_batches_must_hold():
    "Maps where anything asks for them, guides as in Table 1's rows."
    off = dict(terms=(), guide_time=False, guide_crop=False)
    held = lambda **options: MCL(**TINY | off | options).clip_options
    assert held() == {}
    assert held(terms=("S",), maps="dis") == {"maps": "dis"}
    for time in (True, "median"):
        guides = held(guide_time=time, p_motion=0.7)
        assert guides == {"maps": "tvl1", "guide_time": "median", "p_motion": 0.7}
    assert held(guide_crop=True)["guide_crop"] == "pixels"
    assert held(guide_crop=True, released=True)["guide_crop"] == "lines"
    assert held(guide_crop="lines") == {"maps": "tvl1", "guide_crop": "lines"}
    assert set(MCL(**TINY).clip_options) == {"maps", "guide_time", "p_motion", "guide_crop"}
    assert MCL(**TINY).views == 2 and MCL(**SECO).clip_options["halves"] and MCL(**SECO).views == 4


def test_names_costs_and_words():
    assert methods.owner("mcl") == "mcl" == recipes.paper_of("mcl")
    assert methods.passes("mcl", {}) == 4 and methods.passes("mcl", {"objective": "seco"}) == 6
    assert methods.family("mcl") in recipes.TINY
    assert "variant v2" in methods.described("mcl", {"variant": "v2"})
    known = methods.parameters("mcl")
    assert known["terms"] == ("S", "T", "ST") and known["queue"] == 2048
    recipe = recipes.pretraining(
        recipes.profile("demo", "mcl"), "mcl", "puppets-u", "r2plus1d50", terms=("S",)
    )
    assert recipes.from_json(recipe.json()) == recipe and "terms" in str(recipe)
    given = recipes.from_json(recipe.json())
    photometric = Photometric(**given.photometric)
    built = methods.build(
        "mcl", backbone=given.backbone, photometric=photometric, **given.params, **given.model
    )
    assert built.terms == ("S",)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(objective="moco"), "choose one of nce, seco"),
        (dict(variant="v4"), "choose one of v1, v2, v3"),
        (dict(maps="flow"), "choose one of tvl1, dis, raft, vectors"),
        (dict(terms=("S", "S")), "each once, or none"),
        (dict(terms=("X",)), "use some of S, T, ST"),
        (dict(p_motion=1.5), "p_motion is a probability"),
        (dict(guide_crop="rows"), "choose one of False, True, pixels, lines"),
        (dict(start="kinetics"), "start 'kinetics' is not known"),
        (dict(backbone="vit_tiny", widths=None), "a transformer has none"),
    ],
)
def test_what_it_does_not_have_is_refused(change, sentence):
    given = {name: value for name, value in (TINY | change).items() if value is not None}
    with pytest.raises(ValueError, match=sentence):
        MCL(**given)


def test_a_transformer_without_terms_is_contrasted():
    out = MCL("vit_tiny", terms=(), queue=8, photometric=PLAIN)(make_batch())
    assert out["loss"].isfinite()


def test_batches_without_maps_are_refused():
    batch = {name: value for name, value in make_batch().items() if name != "map"}
    with pytest.raises(ValueError, match=r"\*\*method.clip_options"):
        MCL(**TINY)(batch)
    with pytest.raises(ValueError, match="views=4"):
        MCL(**SECO)(make_batch())


def test_a_checkpoint_brings_everything_back():
    first, second = MCL(**SECO).train(), MCL(**SECO | dict(seed=6)).train()
    first(make_batch(views=4))
    second.load_state_dict(first.state_dict())
    batch = make_batch(views=4, seed=3)
    second.seed = first.seed
    assert first.eval()(batch)["loss"].equal(second.eval()(batch)["loss"])


# ---------------------------------------------------------------- what moves, as a mask


def one_square_moves():
    "A textured square that moves two pixels per frame over a textured scene."
    generator = torch.Generator().manual_seed(0)
    scene = torch.rand(3, 12, 12, generator=generator)
    scene = F.interpolate(scene[None], (96, 96), mode="bilinear")[0]
    square = F.interpolate(torch.rand(1, 3, 6, 6, generator=generator), (24, 24), mode="bilinear")[0]
    frames = scene[:, None].repeat(1, 6, 1, 1)
    truth = torch.zeros(96, 96, dtype=torch.bool)
    for t in range(6):
        frames[:, t, 20:44, 20 + 2 * t : 44 + 2 * t] = square
        truth[20:44, 20 + 2 * t : 44 + 2 * t] = True
    return frames[None], truth


def test_the_mask_of_what_moves_lies_on_what_moves():
    clip, truth = one_square_moves()
    mask = mcl_method.moving_mask(clip)
    assert mask.shape == (1, 96, 96) and mask.sum() == 96 * 96 // 10
    around = F.max_pool2d(truth[None].float(), 9, 1, 4)[0].bool()  # boundaries lie on both sides of an edge
    assert (mask[0] & around).sum() > 0.9 * mask.sum()
    assert torch.equal(mask, mcl_method.moving_mask((255 * clip).round().to(torch.uint8)))
    assert mcl_method.moving_mask(clip, beta=0.3).sum() == int(0.3 * 96 * 96)


def test_flow_is_computed_once_a_clip_and_setting(monkeypatch):
    asked = []

    def flow(clip, how):
        asked.append(how)
        return clip[:2].float().transpose(0, 1)[1:] * (1 if how == "dis" else -1)

    monkeypatch.setattr(mcl_method, "flow", flow)
    mcl_method._flow_of.cache_clear()
    clips = torch.rand(2, 3, 4, 8, 8)
    first = mcl_method._flow(clips, "dis")
    wanted = first.clone()
    first.zero_()  # what was handed out is not what is remembered
    assert torch.equal(mcl_method._flow(clips, "dis"), wanted) and asked == ["dis", "dis"]
    assert torch.equal(mcl_method._flow(clips.flip(0), "dis"), wanted.flip(0)) and len(asked) == 2
    assert torch.equal(mcl_method._flow(clips, "tvl1"), -wanted) and len(asked) == 4
    bytes_ = (255 * clips).to(torch.uint8)
    assert mcl_method._flow(bytes_, "dis").max() > 1 and len(asked) == 6
    mcl_method._flow_of.cache_clear()  # nobody else gets these


def test_a_view_holds_what_moves_and_is_a_box():
    clip, truth = one_square_moves()
    views = [mcl_method.view_mask(clip, seed=seed)[0] for seed in range(20)]
    for view in views:
        ys, xs = torch.nonzero(view, as_tuple=True)
        assert view[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
        assert (view & truth).sum() > 0.5 * truth.sum()
    assert len({tuple(view.flatten().tolist()) for view in views}) > 10
    still = clip[:, :, :1].expand(-1, -1, 6, -1, -1)
    assert mcl_method.view_mask(still).all()


@pytest.mark.parametrize("name", ["mcl_motion", "mcl_view"])
def test_the_explorer_shows_mcl_s_maps(name):
    from mvnb import explore

    view = explore.look(explore.Choice(mask=name))
    wanted = ["flow, middle frame", "boundary of u", "boundary of v", "S-motion", "target of alignment, S"]
    wanted += ["motion map, ST", "T-motion", "target of alignment, ST"]
    assert list(view.stages) == wanted
    maps, target = view.stages["motion map, ST"], view.stages["target of alignment, ST"]
    assert maps.shape == target.shape == (1, 16, 112, 112)
    assert torch.allclose(maps[0, :15].mean(0), view.stages["S-motion"], atol=1e-6)
    assert torch.allclose(view.stages["T-motion"], maps[0].mean((1, 2)))
    assert torch.allclose(
        target[0, 5, 40, 70], maps[0, 4:8, 32:48, 64:80].mean(), atol=1e-6
    )  # a cell of 4×16×16
    if name == "mcl_motion":
        outside = ~view.mask
        assert (view.mixed[:, :, outside] == 0).all() and view.mixed[:, :, view.mask].any()
        assert "alpha_blend(clip, ~mask, 0.0)" in explore.snippet(view.choice)
        return
    ys, xs = torch.nonzero(view.mask, as_tuple=True)
    box = view.clip[:, 0, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] / 255
    whole = F.interpolate(box[None], (112, 112), mode="bilinear", antialias=True)[0]
    assert torch.allclose(view.mixed[:, 0], whole, atol=1e-5)
    assert "explore.cropped(clip, mask)" in explore.snippet(view.choice)
