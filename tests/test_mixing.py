"Merging: where each pixel comes from, what stays untouched, and what is refused."

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvnb import masks, mixing

quick = settings(max_examples=40, deadline=None)
KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8]


def noise(size=(4, 3, 5, 12, 10), seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def some_mask(size=(4, 12, 10), seed=1):
    return noise(size, seed) < 0.4


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("over_time", [False, True])
def test_every_value_comes_from_its_source(kind, over_time):
    front, back = ((noise(seed=s) * 200).to(kind) for s in (0, 2))
    mask, order = some_mask((4, 5, 12, 10) if over_time else (4, 12, 10)), torch.tensor([2, 2, 0, 3])
    merged = mixing.merge(front, back, mask, order=order)
    assert merged.dtype == kind
    for b, c, t, i, j in np.ndindex(4, 3, 5, 12, 10):
        m = mask[b, t, i, j] if over_time else mask[b, i, j]
        assert merged[b, c, t, i, j] == (front[b, c, t, i, j] if m else back[order[b], c, t, i, j])


@quick
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_ways_to_the_same_clip(batch, time, height, width, seed):
    "In order, copied, into memory that is there, strided, traced: all the same bits."
    front, back = (
        noise((batch, 3, time, height, width), seed),
        noise((batch, 3, time, height, width), seed + 1),
    )
    mask, order = some_mask((batch, height, width), seed), torch.randperm(batch, generator=generator(seed))
    expected = torch.where(mask[:, None, None], front, back[order])
    out = torch.full_like(front, 7)
    assert torch.equal(mixing.merge(front, back, mask, order=order), expected)
    assert torch.equal(mixing.merge(front, back[order], mask), expected)
    assert mixing.merge(front, back, mask, order=order, out=out) is out and torch.equal(out, expected)
    strided = front.transpose(1, 4).contiguous().transpose(1, 4)
    assert torch.equal(mixing.merge(strided, back, mask, order=order), expected)


def test_identities():
    front, back = noise(), noise(seed=5)
    every, none = torch.ones(4, 12, 10, dtype=torch.bool), torch.zeros(4, 12, 10, dtype=torch.bool)
    assert torch.equal(mixing.merge(front, back, every), front)
    assert torch.equal(mixing.merge(front, back, none), back)
    assert torch.equal(mixing.merge(front, front, some_mask()), front)
    assert torch.equal(mixing.merge(back, front, ~some_mask()), mixing.merge(front, back, some_mask()))


@pytest.mark.parametrize("kind", KINDS)
def test_sources_are_left_alone(kind):
    front, back = ((noise(seed=s) * 200).to(kind) for s in (0, 5))
    before = front.clone(), back.clone()
    mixing.merge(front, back, some_mask())
    assert torch.equal(front, before[0]) and torch.equal(back, before[1])


@pytest.mark.parametrize("kind", [k for k in KINDS if k.is_floating_point])
def test_choosing_is_exact_for_values_far_apart(kind):
    "Tiny and huge, either sign: no rounding from one source into the other."
    values = torch.tensor([0, 1e-7, -1e-7, 1, -3, 1234, -5e4, 6e4, 1 / 3]).to(kind)
    front, back = (
        g.reshape(1, 1, 1, 9, 9).contiguous() for g in torch.meshgrid(values, values, indexing="ij")
    )
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    assert torch.equal(mixing.merge(front, back, mask), back) and torch.equal(
        mixing.merge(front, back, ~mask), front
    )


def test_gradients_reach_both_sources():
    front, back, mask = noise().requires_grad_(), noise(seed=5).requires_grad_(), some_mask()
    mixing.merge(front, back, mask, order=torch.tensor([1, 0, 3, 2])).sum().backward()
    assert torch.equal(front.grad, mask[:, None, None].float().expand_as(front))
    assert torch.equal(back.grad, (~mask[[1, 0, 3, 2]])[:, None, None].float().expand_as(back))


def test_merge_refuses():
    front, mask = noise(), some_mask()
    for match, call in {
        "bool mask": lambda: mixing.merge(front, front, mask.float()),
        "need a bool": lambda: mixing.merge(front, front, mask[:, :5]),
        "one shape and type": lambda: mixing.merge(front, front[:, :, :2], mask),
        "float64": lambda: mixing.merge(front, front.double(), mask),
        "order names": lambda: mixing.merge(front, front, mask, order=torch.arange(3)),
        "does not fit": lambda: mixing.merge(front, front, mask, out=front.half()),
        "shares memory": lambda: mixing.merge(front, front.flip(0), mask, out=front),
        r"\[B,C,T,H,W\]": lambda: mixing.merge(front[0], front[0], mask),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


# ---------------------------------------------------------------- another background


@pytest.mark.parametrize("kind", masks.KINDS)
def test_replacing_is_mask_and_merge(kind):
    clip, order = noise(), torch.tensor([3, 2, 1, 0])
    mask = masks.foreground(clip, kind, 0.3)[:, None, None]
    assert torch.equal(
        mixing.replace_background(clip, 0.3, kind, permutation=order), torch.where(mask, clip, clip[order])
    )
    other = noise(seed=8)
    assert torch.equal(
        mixing.replace_background(clip, 0.3, kind, "intra", other=other), torch.where(mask, clip, other)
    )
    assert mixing.replace_background(clip, 1, kind) is clip


def test_replacing_passes_on_hue_and_memory():
    clip, order, out = noise((4, 3, 4, 40, 40)), torch.tensor([1, 2, 3, 0]), torch.empty(4, 3, 4, 40, 40)
    angle = masks.fame_mask(clip, 0.4, "angle")
    assert mixing.replace_background(clip, 0.4, permutation=order, hue="angle", out=out) is out
    assert torch.equal(out, torch.where(angle[:, None, None], clip, clip[order]))


def test_permutations_follow_the_generator():
    clip = noise((6, 3, 3, 12, 10))
    assert torch.equal(
        mixing.replace_background(clip, generator=generator(3)),
        mixing.replace_background(clip, generator=generator(3)),
    )
    assert torch.equal(
        mixing.replace_background(clip, generator=generator(3)),
        mixing.replace_background(clip, permutation=mixing.draw_order(6, generator(3))),
    )
    orders = torch.stack([mixing.draw_order(6, generator(seed)) for seed in range(600)])
    assert torch.equal(orders.sort(1).values, torch.arange(6).expand(600, 6))
    share = (
        torch.nn.functional.one_hot(orders, 6).double().mean(0)
    )  # a plain permutation: its own place one time in six
    assert ((share - 1 / 6).abs() < 0.08).all()


def test_bytes_and_floats_merge_alike():
    clip, order = (noise((4, 3, 4, 40, 40)) * 255).byte(), torch.tensor([1, 2, 3, 0])
    assert torch.equal(
        mixing.replace_background(clip, permutation=order).float() / 255,
        mixing.replace_background(clip.float() / 255, permutation=order),
    )


def test_views():
    query, key = noise(), noise(seed=8)
    single = mixing.merge_views(query, key, 0.3, generator=generator(1))
    assert single[1] is key and torch.equal(
        single[0], mixing.replace_background(query, 0.3, generator=generator(1))
    )
    draws = generator(1)
    first, second = mixing.draw_order(4, draws), mixing.draw_order(4, draws)
    both = mixing.merge_views(query, key, 0.3, "both", generator=generator(1))
    assert torch.equal(both[0], mixing.replace_background(query, 0.3, permutation=first)) and torch.equal(
        both[1], mixing.replace_background(key, 0.3, permutation=second)
    )
    within = mixing.merge_views(query, key, 0.3, "both", background="intra")
    assert torch.equal(within[0], mixing.merge(query, key, masks.fame_mask(query, 0.3)))
    assert torch.equal(within[1], mixing.merge(key, query, masks.fame_mask(key, 0.3)))
    assert all(a is b for a, b in zip(mixing.merge_views(query, key, 1, "both"), (query, key)))


def test_replacing_refuses():
    clip = noise()
    with pytest.raises(ValueError, match="inter, intra"):
        mixing.replace_background(clip, background="outer")
    with pytest.raises(ValueError, match="other"):
        mixing.replace_background(clip, background="intra")
    with pytest.raises(ValueError, match="single, both"):
        mixing.merge_views(clip, clip, branch="none")
    with pytest.raises(ValueError, match="no mask"):
        mixing.replace_background(clip, kind="grad")
    with pytest.raises(ValueError, match="beta"):
        mixing.replace_background(clip, 0)


def test_compiles_into_one_graph():
    torch._dynamo.reset()
    clip, order = noise((4, 3, 4, 24, 24)), torch.tensor([1, 2, 3, 0])
    compiled = torch.compile(
        lambda x, o: mixing.replace_background(x, 0.3, permutation=o), fullgraph=True, backend="aot_eager"
    )
    assert (
        compiled(clip, order) == mixing.replace_background(clip, 0.3, permutation=order)
    ).float().mean() > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_never_waits():
    clip, mask, order = noise().cuda(), some_mask().cuda(), torch.tensor([1, 2, 3, 0], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        merged = mixing.merge(clip, clip, mask, order=order)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(merged.cpu(), mixing.merge(clip.cpu(), clip.cpu(), mask.cpu(), order=order.cpu()))


# ---------------------------------------------------------------- BE


def test_erasing_follows_its_formula():
    clip, weight, frame = noise(), torch.tensor([0.0, 0.1, 0.3, 1.0]), torch.tensor([4, 0, 2, 1])
    erased = mixing.erase_background(clip, lambda_=weight, frame=frame)
    for b, t in np.ndindex(4, 5):
        torch.testing.assert_close(
            erased[b, :, t], (1 - weight[b]) * clip[b, :, t] + weight[b] * clip[b, :, frame[b]]
        )
    assert torch.equal(erased[0], clip[0])
    out = torch.empty_like(clip)
    assert mixing.erase_background(clip, lambda_=weight, frame=frame, out=out) is out and torch.equal(
        out, erased
    )


def test_erasing_draws_per_sample():
    "A clip whose frame t is t/8 everywhere shows weight and frame of every draw."
    clip = (torch.arange(8.0) / 8)[None, None, :, None, None].expand(2000, 1, 8, 1, 1).clone()
    erased = mixing.erase_background(clip, generator=generator(0))
    assert torch.equal(erased, mixing.erase_background(clip, generator=generator(0)))
    line = erased[:, 0, :, 0, 0]
    weight = 1 - (line[:, 7] - line[:, 0]) * 8 / 7
    assert weight.min() > -1e-5 and weight.max() < 0.3 + 1e-5
    assert abs(weight.mean() - 0.15) < 0.01 and abs(weight.std() - 0.3 / 12**0.5) < 0.01
    clear = weight > 0.02
    frame = (line[clear, 0] / weight[clear] * 8).round().long()
    share = torch.bincount(frame, minlength=8) / clear.sum()
    assert len(share) == 8 and ((share - 1 / 8).abs() < 0.04).all()


def test_erasing_keeps_still_pixels_and_gradients():
    still = noise((2, 3, 1, 6, 6)).expand(2, 3, 5, 6, 6).clone().requires_grad_()
    erased = mixing.erase_background(still, generator=generator(4))
    torch.testing.assert_close(erased, still)
    erased.sum().backward()
    torch.testing.assert_close(still.grad.sum((1, 2, 3, 4)), torch.full((2,), 3.0 * 5 * 36))


def test_erasing_refuses():
    with pytest.raises(ValueError, match="float clip"):
        mixing.erase_background((noise() * 255).byte())
    with pytest.raises(ValueError, match="lambda_max"):
        mixing.erase_background(noise(), 1.5)
    with pytest.raises(ValueError, match=r"\[B,C,T,H,W\]"):
        mixing.erase_background(noise()[0])


def test_new_results_share_no_memory_while_they_live_and_reuse_it_afterwards():
    clip, order, mask = torch.rand(3, 3, 4, 16, 16), torch.tensor([1, 2, 0]), torch.rand(3, 16, 16) > 0.5
    wanted = torch.where(mask[:, None, None], clip, clip[order])
    alive = [mixing.merge(clip, clip, mask, order=order) for _ in range(5)]
    assert len({m.data_ptr() for m in alive}) == 5 and all(torch.equal(m, wanted) for m in alive)
    part, place = alive[-1][1:, :, 2], alive[-1].data_ptr()
    alive.clear()
    others = [mixing.new_like(clip).fill_(7) for _ in range(4)]  # a view keeps the memory of its result
    assert place not in {o.data_ptr() for o in others} and torch.equal(part, wanted[1:, :, 2])
    del part
    assert place in {mixing.new_like(clip).data_ptr() for _ in [0]}


def test_results_made_by_threads_are_apart():
    clip, order = torch.rand(4, 3, 4, 24, 24), torch.tensor([1, 2, 3, 0])

    def work(seed):
        mask = torch.rand(4, 24, 24, generator=torch.Generator().manual_seed(seed)) > 0.5
        wanted = torch.where(mask[:, None, None], clip, clip[order])
        return all(torch.equal(mixing.merge(clip, clip, mask, order=order), wanted) for _ in range(60))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
