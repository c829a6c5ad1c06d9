"Token masks against a slow loop written from the paper's equations, and what they must hold for every clip."

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mvnb import masks, tokens

quick = settings(max_examples=60, deadline=None)
GRIDS = st.tuples(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9))
RATIOS = st.floats(0.5, 0.95)
KINDS = list(tokens.TOKENS)
GUIDED = [kind for kind, found in tokens.TOKENS.items() if found.guided]


def chance(seed):
    return torch.Generator().manual_seed(seed)


def noise_of(kind, grid, batch, seed=0):
    "Random numbers of a batch, [B,k]."
    count = sum(math.prod(shape) for shape in tokens.noise_shapes(kind, grid).values())
    return torch.rand(batch, count, dtype=torch.float64, generator=chance(seed))


def by_name(kind, grid, noise):
    "The random numbers of a batch by their names."
    shapes = tokens.noise_shapes(kind, grid)
    parts = noise.split([math.prod(shape) for shape in shapes.values()], 1)
    return {name: part.reshape(len(noise), *shapes[name]) for name, part in zip(shapes, parts)}


def in_a_row(parts):
    "Random numbers by name as one tensor [B,k]."
    return torch.cat([part.flatten(1) for part in parts.values()], 1)


def moving(grid, finer, batch, seed, kind="noise"):
    "Motion [B,T',h·finer,w·finer]: noise; few levels, which tie; or motion that pauses, once at the start."
    tubelets, rows, columns = grid
    size = (batch, tubelets, rows * finer, columns * finer)
    motion = torch.rand(size, generator=chance(seed))
    if kind == "levels":
        return (motion * 3).floor()
    if kind == "pauses":
        still = torch.rand(batch, tubelets, generator=chance(seed + 1)) < 0.5
        still[0, 0] = True
        motion[still] = 0
    return motion


# ---------------------------------------------------------------- the oracle


def oracle_walk(start, steps_u, limit, extent):
    "Step 2: sizes of all tubelets. Steps within the limit, summing to zero, cumulated, kept in [1, extent]."
    steps = [limit * (2 * float(u) - 1) for u in steps_u]
    if steps:
        average = sum(steps) / len(steps)
        steps = [s - average for s in steps]
        largest = max(abs(s) for s in steps)
        if largest > limit > 0:
            steps = [s * limit / largest for s in steps]
        if limit == 0:
            steps = [0.0] * len(steps)
    sizes = [start]
    for s in steps:
        sizes.append(sizes[-1] + s)
    return [min(max(size, 1.0), float(extent)) for size in sizes]


def oracle_centre(field, tie, inside, grid):
    "Step 3: a point in a block with the most motion, x and y in patches; None without motion."
    most = max(max(row) for row in field)
    if most <= 0:
        return None
    best = [(i, j) for i, row in enumerate(field) for j, value in enumerate(row) if value == most]
    i, j = best[math.floor(tie * len(best))]
    return (j + inside[0]) / len(field[0]) * grid[2], (i + inside[1]) / len(field) * grid[1]


def oracle_distance(box, i, j, u):
    "Steps 5 and 6: how far the middle of patch (i, j) lies outside of a box x0, x1, y0, y1."
    along_x = max(box[0] - (j + 0.5), (j + 0.5) - box[1])
    along_y = max(box[2] - (i + 0.5), (i + 0.5) - box[3])
    return max(along_x, along_y) + 0.001 * min(along_x, along_y) + 1e-6 * u


def oracle_sides(centre, size, extent, u_low, u_high):
    "Steps 4 and 5: the two sides on an axis, inside the frame, then each moved by up to a quarter."
    middle = min(max(centre, size / 2), extent - size / 2)
    return middle - size / 2 + (u_low - 0.5) / 2, middle + size / 2 + (u_high - 0.5) / 2


def oracle_mgm(motion, drawn, grid, ratio, jitter):
    "The dense mask of one clip from Eq. 7, one token after the other. `drawn`: nested lists of numbers."
    tubelets, h, w = grid
    hidden = round(ratio * tubelets * h * w)
    widths = oracle_walk(ratio**0.5 * w, drawn["step"][0], jitter * w / 14, w)
    heights = oracle_walk(ratio**0.5 * h, drawn["step"][1], jitter * h / 14, h)
    centre = drawn["place"][0] * w, drawn["place"][1] * h
    far = {}
    for t in range(tubelets):
        inside = drawn["inside"][0][t], drawn["inside"][1][t]
        centre = oracle_centre(motion[t], drawn["tie"][t], inside, grid) or centre
        (left, right), (top, bottom) = drawn["side"]
        box = (
            *oracle_sides(centre[0], widths[t], w, left[t], right[t]),
            *oracle_sides(centre[1], heights[t], h, top[t], bottom[t]),
        )
        for i in range(h):
            for j in range(w):
                far[t, i, j] = oracle_distance(box, i, j, drawn["token"][t][i][j])
    mask = torch.zeros(grid, dtype=torch.bool)
    for place in sorted(far, key=far.get)[:hidden]:
        mask[place] = True
    return mask


@given(
    GRIDS,
    RATIOS,
    st.sampled_from((0, 0.5, 2, 20)),
    st.integers(1, 3),
    st.sampled_from(("noise", "levels", "pauses")),
    st.integers(0, 999),
)
@quick
def test_dense_mgm_is_what_the_loop_makes(grid, ratio, jitter, finer, kind, seed):
    motion = moving(grid, finer, 3, seed, kind)
    noise = noise_of("mgm", grid, 3, seed)
    found = masks.mgm_tokens(motion, ratio, jitter, grid=grid, noise=noise)
    parts = by_name("mgm", grid, noise)
    for b in range(3):
        drawn = {name: part[b].tolist() for name, part in parts.items()}
        assert torch.equal(found[b], oracle_mgm(motion[b].tolist(), drawn, grid, ratio, jitter))


def test_dense_mgm_at_the_size_of_the_paper():
    grid = (8, 14, 14)
    motion = moving(grid, 2, 2, 5, "pauses")
    noise = noise_of("mgm", grid, 2, 5)
    found = masks.mgm_tokens(motion, grid=grid, noise=noise)
    for b in range(2):
        drawn = {name: part[b].tolist() for name, part in by_name("mgm", grid, noise).items()}
        assert torch.equal(found[b], oracle_mgm(motion[b].tolist(), drawn, grid, 0.75, 2))


# ---------------------------------------------------------------- the number of hidden tokens


@pytest.mark.parametrize("kind", KINDS)
@given(GRIDS, RATIOS, st.integers(0, 999))
@quick
def test_every_sample_hides_the_same_number(kind, grid, ratio, seed):
    motion = moving(grid, 2, 5, seed, "pauses")
    mask = tokens.token_mask(kind, grid, ratio, 5, motion=motion, generator=chance(seed))
    assert mask.dtype == torch.bool and mask.shape == (5, *grid)
    whole = kind in ("tube", "block", "smm_sparse", "mgm_sparse")
    per_tubelet = round(ratio * grid[1] * grid[2])
    expected = grid[0] * per_tubelet if whole else round(ratio * math.prod(grid))
    assert mask.flatten(1).sum(1).tolist() == [expected] * 5
    assert tokens.hidden_count(kind, grid, ratio) == expected
    if whole:
        assert (mask.flatten(2).sum(2) == per_tubelet).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_decides(kind):
    grid = (4, 6, 6)
    motion = moving(grid, 2, 8, 0, "pauses")
    make = lambda seed: tokens.token_mask(kind, grid, 0.6, motion=motion, generator=chance(seed))
    assert torch.equal(make(3), make(3))
    assert not torch.equal(make(3), make(4))


# ---------------------------------------------------------------- a sample's mask is its own


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_and_the_precision_change_nothing(kind):
    grid = (8, 7, 7)
    motion = moving(grid, 2, 12, 1, "pauses")
    noise = noise_of(kind, grid, 12).float()
    make = lambda m, n: tokens.token_mask(kind, grid, 0.75, motion=m, noise=n)
    together = make(motion, noise)
    assert torch.equal(make(motion.double(), noise), together)
    assert torch.equal(make(motion, noise.double()), together)
    order = torch.randperm(12, generator=chance(2))
    assert torch.equal(make(motion[order], noise[order]), together[order])
    parts = [make(m, n) for m, n in zip(motion.split(5), noise.split(5))]
    assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_a_sample_depends_on_seed_epoch_and_index_only(kind):
    grid = (4, 5, 6)
    noise = tokens.sample_noise(kind, grid, 7, 2, [3, 11, 5])
    assert torch.equal(tokens.sample_noise(kind, grid, 7, 2, torch.tensor([5, 3])), noise[[2, 0]])
    for other in ((8, 2), (7, 3)):
        assert not torch.equal(tokens.sample_noise(kind, grid, *other, [3, 11, 5]), noise)
    assert not torch.equal(tokens.sample_noise(kind, grid, 7, 2, [3, 11, 5], "view 1"), noise)
    assert noise.dtype == torch.float64 and 0 <= noise.min() and noise.max() < 1
    assert tokens.token_mask(kind, grid, motion=moving(grid, 1, 3, 0), noise=noise).shape == (3, *grid)


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_is_read_back(kind):
    "On tensors without values nothing can be read, so nothing waits for a device."
    grid = (4, 6, 6)
    motion = moving(grid, 2, 3, 0).to("meta")
    mask = tokens.token_mask(kind, grid, 0.75, motion=motion, noise=noise_of(kind, grid, 3).to("meta"))
    assert mask.shape == (3, *grid) and mask.is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_as_on_a_cpu(kind):
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    grid = (8, 14, 14)
    motion = moving(grid, 2, 64, 1, "pauses")
    noise = noise_of(kind, grid, 64)
    there = tokens.token_mask(kind, grid, motion=motion.cuda(), noise=noise.cuda())
    assert torch.equal(there.cpu(), tokens.token_mask(kind, grid, motion=motion, noise=noise))


# ---------------------------------------------------------------- what the masks follow


@given(GRIDS, RATIOS, st.integers(0, 999))
@quick
def test_dense_mgm_flips_with_its_motion(grid, ratio, seed):
    motion = moving(grid, 2, 4, seed)  # without ties: these are numbered in reading order
    parts = by_name("mgm", grid, noise_of("mgm", grid, 4, seed))
    mirrored = {name: part.clone() for name, part in parts.items()}
    mirrored["place"][:, 0] = 1 - parts["place"][:, 0]
    mirrored["inside"][:, 0] = 1 - parts["inside"][:, 0]
    mirrored["side"][:, 0] = 1 - parts["side"][:, 0].flip(1)
    mirrored["token"] = parts["token"].flip(-1)
    mask = masks.mgm_tokens(motion, ratio, grid=grid, noise=in_a_row(parts))
    flipped = masks.mgm_tokens(motion.flip(-1), ratio, grid=grid, noise=in_a_row(mirrored))
    assert torch.equal(flipped, mask.flip(-1))


@given(GRIDS, RATIOS, st.integers(0, 999))
@quick
def test_sparse_mgm_flips_with_its_motion(grid, ratio, seed):
    motion = moving(grid, 1, 4, seed, "levels")
    u = noise_of("mgm_sparse", grid, 4, seed).view(4, *grid)
    mask = masks.mgm_tokens(motion, ratio, sparse=True, noise=u.flatten(1))
    flipped = masks.mgm_tokens(motion.flip(-1), ratio, sparse=True, noise=u.flip(-1).flatten(1))
    assert torch.equal(flipped, mask.flip(-1))


@pytest.mark.parametrize("ratio", (0.5, 0.75, 0.9))
def test_a_moving_square_is_hidden(ratio):
    "A square of 4x4 blocks (2x2 tokens) that crosses the frame: almost all of it is hidden."
    motion = torch.zeros(32, 8, 28, 28)
    for t in range(8):
        motion[:, t, 12:16, 3 * t : 3 * t + 4] = 5.0
    dense = masks.mgm_tokens(motion, ratio, generator=chance(0), grid=(8, 14, 14))
    sparse = masks.mgm_tokens(motion, ratio, generator=chance(0), grid=(8, 14, 14), sparse=True)
    assert tokens.hidden_share(dense, motion).min() > 0.9
    assert tokens.hidden_share(dense, motion).mean() > 0.99
    assert (tokens.hidden_share(sparse, motion) == 1).all()
    wandering = masks.smm_tokens((8, 14, 14), ratio, 32, chance(0))
    assert tokens.hidden_share(wandering, motion).mean() < tokens.hidden_share(dense, motion).mean()


def middles(mask):
    "Mean place (x, y) of the hidden tokens of each tubelet, float [T',2]."
    return torch.stack([m.nonzero().float().mean(0).flip(0) + 0.5 for m in mask])


def test_without_motion_the_rectangle_stays():
    "All centres where it began; and after motion stops, where it was last."
    grid = (6, 10, 10)
    noise = noise_of("mgm", grid, 4)
    place = by_name("mgm", grid, noise)["place"] * 10
    mask = masks.mgm_tokens(torch.zeros(4, *grid), 0.25, 0, noise=noise)
    for b in range(4):
        expected = place[b].clamp(2.5, 7.5).float()
        assert (middles(mask[b]) - expected).abs().max() < 0.5
    motion = torch.zeros(4, *grid)
    motion[:, 2, 3, 6] = 1
    mask = masks.mgm_tokens(motion, 0.25, 0, noise=noise)
    for b in range(4):
        assert (middles(mask[b])[:2] - place[b].clamp(2.5, 7.5).float()).abs().max() < 0.5
        assert (middles(mask[b])[2:] - torch.tensor([6.5, 3.5])).abs().max() < 1


def test_ties_are_drawn():
    "Of blocks that move alike each is chosen, and about as often."
    motion = torch.zeros(4000, 1, 6, 6)
    motion[:, 0, [0, 2, 5], [5, 1, 3]] = 2.0
    noise = noise_of("mgm", (1, 6, 6), 4000)
    x, y = tokens._centres(motion, by_name("mgm", (1, 6, 6), noise), (1, 6, 6))
    found = (y.floor() * 6 + x.floor()).long().flatten().bincount(minlength=36)
    assert found.nonzero().flatten().tolist() == [5, 13, 33]
    assert found[[5, 13, 33]].min() > 1200


@given(st.integers(1, 12), st.floats(0, 5), st.integers(0, 999))
@quick
def test_jitter_sums_to_zero_and_stays_in_the_limit(steps, limit, seed):
    found = tokens._zero_sum(torch.rand(6, steps, dtype=torch.float64, generator=chance(seed)), limit)
    assert found.shape == (6, steps)
    assert found.sum(1).abs().max() < 1e-9
    assert found.abs().max() <= limit * (1 + 1e-9)


def test_without_jitter_every_tubelet_has_the_same_size():
    mask = masks.mgm_tokens(moving((8, 14, 14), 2, 16, 0), 0.5, 0, chance(0), grid=(8, 14, 14))
    extents = torch.stack([mask.any(2).sum(-1), mask.any(3).sum(-1)])
    assert (extents - 0.5**0.5 * 14).abs().max() < 1.6
    jittered = masks.mgm_tokens(moving((8, 14, 14), 2, 16, 0), 0.5, 4, chance(0), grid=(8, 14, 14))
    assert jittered.flatten(2).sum(2).float().std() > 3 * mask.flatten(2).sum(2).float().std()


@given(GRIDS, RATIOS, st.sampled_from(("noise", "levels")), st.integers(0, 999))
@quick
def test_sparse_mgm_hides_what_moves_most(grid, ratio, kind, seed):
    motion = moving(grid, 2, 3, seed, kind)
    mask = masks.mgm_tokens(motion, ratio, generator=chance(seed), grid=grid, sparse=True)
    tubelets, h, w = grid
    patches = motion.view(3, tubelets, h, 2, w, 2).mean((3, 5))
    assume(0 < round(ratio * h * w) < h * w)
    least_hidden = torch.where(mask, patches, math.inf).flatten(2).amin(2)
    most_seen = torch.where(mask, -math.inf, patches).flatten(2).amax(2)
    assert (least_hidden >= most_seen - 1e-6).all()


def test_sparse_mgm_draws_among_equal_patches():
    motion = torch.zeros(2000, 1, 4, 4)
    motion[:, 0, 1, 2] = 1
    share = masks.mgm_tokens(motion, 0.5, generator=chance(0), sparse=True).float().mean((0, 1))
    assert share[1, 2] == 1
    share[1, 2] = 7 / 15
    assert (share - 7 / 15).abs().max() < 0.06


def test_motion_coarser_than_tokens_is_repeated():
    motion = torch.zeros(1, 2, 3, 3)
    motion[:, :, 1, 2] = 1
    mask = masks.mgm_tokens(motion, 1 / 9, generator=chance(0), grid=(2, 6, 6), sparse=True)
    expected = torch.zeros(1, 2, 6, 6, dtype=torch.bool)
    expected[:, :, 2:4, 4:6] = True
    assert torch.equal(mask, expected)


@given(GRIDS, RATIOS, st.floats(0, 20), st.integers(0, 999))
@quick
def test_sparse_smm_is_one_pattern_that_wraps(grid, ratio, speed, seed):
    "Every tubelet is the first one rolled, by no more than the speed allows."
    tubelets, h, w = grid
    mask = masks.smm_tokens(grid, ratio, 2, chance(seed), speed=speed, sparse=True)
    for sample in mask:
        for t in range(tubelets):
            rolls = [
                (y, x)
                for y in range(h)
                for x in range(w)
                if torch.equal(sample[0].roll((y, x), (0, 1)), sample[t])
            ]
            assert rolls
            if t * speed * max(h, w) / 14 < 0.5:
                assert (0, 0) in rolls


def test_sparse_smm_leaves_on_one_side_and_enters_on_the_other():
    grid = (3, 1, 4)
    parts = by_name("smm_sparse", grid, torch.zeros(1, 8, dtype=torch.float64))
    parts["patch"][0, 0] = torch.tensor([0.9, 0.8, 0.7, 0.1])
    parts["velocity"][0, 0] = 0.9999999
    parts["velocity"][0, 1] = 0.5
    mask = masks.smm_tokens(grid, 0.25, 1, speed=3.5, sparse=True, noise=in_a_row(parts))
    assert mask[0, :, 0].int().tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]


@given(st.tuples(st.integers(1, 8), st.integers(4, 14), st.integers(4, 14)), RATIOS, st.integers(0, 999))
@quick
def test_the_wandering_rectangle_is_slow_and_solid(grid, ratio, seed):
    "Each tubelet's hidden tokens fill their bounding box but for a ragged border."
    mask = masks.smm_tokens(grid, ratio, 4, chance(seed))
    for sample in mask.flatten(0, 1):
        rows, columns = sample.any(1).nonzero().flatten(), sample.any(0).nonzero().flatten()
        inner = sample[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
        assert inner.all()


def test_smm_moves_no_faster_than_allowed():
    grid = (8, 14, 14)
    drawn = by_name("smm", grid, noise_of("smm", grid, 50))
    size = torch.full((50, 8), 6.0, dtype=torch.float64)
    velocity = 2 * (2 * drawn["velocity"][:, 0] - 1)
    start = tokens._wander(drawn["place"][:, 0], velocity, size, 14)
    assert start.min() >= 0 and start.max() <= 8
    assert (start[:, 1:] - start[:, :-1]).abs().max() <= 2
    free = (start[:, 1:] > 0) & (start[:, 1:] < 8)
    assert torch.allclose((start[:, 1:] - start[:, :-1])[free], velocity[free])


def test_tube_and_block_stand_still():
    for make in (masks.tube_tokens, masks.block_tokens):
        mask = make((6, 9, 11), 0.6, 20, chance(0))
        assert (mask == mask[:, :1]).all()
        assert len({tuple(one.flatten().tolist()) for one in mask[:, 0]}) > 10
    for one in masks.block_tokens((6, 9, 11), 0.6, 20, chance(0))[:, 0]:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        assert one[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]].all()


def test_random_tokens_are_hidden_alike():
    share = masks.random_tokens((2, 3, 4), 0.75, 4000, chance(0)).float().mean(0)
    assert (share - 0.75).abs().max() < 0.03


# ---------------------------------------------------------------- motion of a tubelet


def oracle_tubelets(field, known, reduce):
    "Lengths of a field [T,2,h,w] over pairs of frames, one place after the other: nested lists."
    steps, _, h, w = field.shape
    length = torch.zeros(steps, h, w)
    for t in range(steps):
        for i in range(h):
            for j in range(w):
                if known[t, i, j]:
                    length[t, i, j] = math.hypot(*field[t, :, i, j].tolist())
    if steps % 2:
        length = torch.cat([length, length[-1:]])
        known = torch.cat([known, known[-1:]])
    out = torch.zeros(len(length) // 2, h, w)
    for t in range(len(out)):
        for i in range(h):
            for j in range(w):
                pair = [length[s, i, j].item() for s in (2 * t, 2 * t + 1) if known[s, i, j]]
                if pair:
                    out[t, i, j] = max(pair) if reduce == "max" else sum(pair) / len(pair)
    if reduce != "smooth":
        return out
    smooth = torch.zeros_like(out)
    for t in range(len(out)):
        for i in range(h):
            for j in range(w):
                smooth[t, i, j] = out[t, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean()
    return smooth


@pytest.mark.parametrize("reduce", tokens.REDUCE)
@pytest.mark.parametrize("steps", (6, 5))
def test_tubelet_motion_is_what_the_loop_makes(reduce, steps):
    field = torch.randn(2, steps, 2, 4, 5, generator=chance(0))
    known = torch.rand(2, steps, 4, 5, generator=chance(1)) < 0.7
    found = tokens.tubelet_motion(field, known, reduce)
    expected = torch.stack([oracle_tubelets(f, k, reduce) for f, k in zip(field, known)])
    assert torch.allclose(found, expected, atol=1e-6)
    everywhere = torch.ones_like(known)
    assert torch.equal(
        tokens.tubelet_motion(field, None, reduce), tokens.tubelet_motion(field, everywhere, reduce)
    )


def test_the_last_step_of_flow_counts_twice():
    flow = torch.zeros(1, 7, 2, 3, 3)
    flow[:, 6, 0] = 4
    assert tokens.tubelet_motion(flow, reduce="mean")[0, :, 0, 0].tolist() == [0, 0, 0, 4]


# ---------------------------------------------------------------- shares and drawing


def test_hidden_share_counts_pixels():
    mask = torch.rand(3, 2, 4, 5, generator=chance(0)) < 0.5
    region = torch.rand(3, 4, 16, 10, generator=chance(1)) < 0.2
    pixels = tokens.token_pixels(mask, region.shape[1:])
    expected = [(p & r).sum().item() / r.sum().item() for p, r in zip(pixels, region)]
    assert torch.allclose(tokens.hidden_share(mask, region), torch.tensor(expected))
    coarse = torch.rand(3, 2, 2, 5, generator=chance(2))
    fine = coarse.repeat_interleave(2, 2)
    assert torch.allclose(
        tokens.hidden_share(mask, coarse), (mask * fine).sum((1, 2, 3)) / fine.sum((1, 2, 3))
    )
    assert tokens.hidden_share(mask, torch.zeros(3, 2, 4, 5)).isnan().all()


def test_motion_that_is_not_a_number_counts_as_none():
    motion = moving((4, 6, 6), 1, 2, 0)
    motion[:, :, 0, 0] = 0
    broken = motion.clone()
    broken[:, :, 0, 0] = math.nan
    for kind in GUIDED:
        noise = noise_of(kind, (4, 6, 6), 2)
        make = lambda m: tokens.token_mask(kind, (4, 6, 6), motion=m, noise=noise)
        assert torch.equal(make(broken), make(motion))


def test_masks_has_them_too():
    for name in ("random", "tube", "block", "smm", "mgm"):
        assert getattr(masks, f"{name}_tokens") is getattr(tokens, f"{name}_tokens")
        assert f"{name}_tokens" in masks.__all__


def test_an_empty_batch_has_no_masks():
    for kind in KINDS:
        assert tokens.token_mask(kind, (2, 3, 3), motion=torch.zeros(0, 2, 3, 3)).shape == (0, 2, 3, 3)


# ---------------------------------------------------------------- errors


MOTION = torch.zeros(2, 4, 8, 8)


@pytest.mark.parametrize(
    "call,said",
    [
        (lambda: masks.random_tokens((2, 3, 3), 0.0, 1), "ratio is 0.0"),
        (lambda: masks.tube_tokens((2, 3, 3), 1, 1), "ratio is 1"),
        (lambda: masks.block_tokens((2, 3, 3), -0.5, 1), "ratio is -0.5"),
        (lambda: masks.smm_tokens((2, 3, 3), 1.5, 1, sparse=True), "ratio is 1.5"),
        (lambda: masks.mgm_tokens(MOTION, math.nan), "ratio is nan"),
        (lambda: masks.random_tokens((2, 3), 0.5, 1), "a token grid is"),
        (lambda: masks.smm_tokens((2, 0, 3), 0.5, 1), "a token grid is"),
        (lambda: masks.block_tokens((2, 2.5, 3), 0.5, 1), "a token grid is"),
        (lambda: masks.smm_tokens((2, 3, 3), 0.5, 1, speed=-1), "speed is -1"),
        (lambda: masks.mgm_tokens(MOTION, jitter=-2), "jitter is -2"),
        (lambda: masks.mgm_tokens(MOTION[0]), "motion is [B,T',h,w]"),
        (lambda: masks.mgm_tokens(MOTION[:, :, None]), "`tubelet_motion` makes it"),
        (lambda: masks.mgm_tokens(MOTION, grid=(4, 3, 8)), "do not divide each other"),
        (lambda: masks.mgm_tokens(MOTION, grid=(2, 4, 4)), "motion has 4 tubelets"),
        (lambda: masks.mgm_tokens(MOTION, noise=torch.rand(2, 9)), "needs noise of shape [2,"),
        (lambda: tokens.token_mask("cube", (2, 3, 3)), "no token mask 'cube'"),
        (lambda: tokens.token_mask("mgm", (2, 3, 3), batch=2), "pass motion"),
        (lambda: tokens.token_mask("tube", (2, 3, 3)), "how many masks"),
        (lambda: tokens.tubelet_motion(torch.zeros(1, 4, 3, 8, 8)), "are [B,T,2,h,w]"),
        (
            lambda: tokens.tubelet_motion(torch.zeros(1, 4, 2, 8, 8), torch.ones(1, 4, 8, 9) > 0),
            "has_motion is",
        ),
        (lambda: tokens.tubelet_motion(torch.zeros(1, 4, 2, 8, 8), reduce="sum"), "choose one of max"),
        (lambda: tokens.tubelet_motion(torch.zeros(1, 5, 2, 8, 8), tubelet=4), "5 steps do not fill"),
        (lambda: tokens.hidden_share(torch.ones(1, 2, 3, 3) > 0, MOTION), "mask and region are"),
        (lambda: tokens.hidden_share(torch.ones(2, 4, 3, 3) > 0, MOTION), "do not divide each other"),
        (lambda: tokens.token_pixels(torch.ones(2, 4, 3, 3) > 0, (8, 48, 50)), "does not divide"),
    ],
)
def test_errors_say_what_is_wrong(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
