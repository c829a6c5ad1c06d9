"Clips of the two halves of a video: two views show the same frames of one half, the others lie in the other."

import numpy as np
import pytest
import torch

from mvnb import clips, datasets

OPTIONS = dict(length=4, stride=2, size=32, views=4, halves=True, seed=3)


@pytest.fixture(scope="module")
def videos(puppets_root):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
        yield datasets.load("puppets-u", "train", scale=0.05)


@pytest.mark.parametrize("guided", [{}, dict(maps="vectors", guide_time=True)])
def test_two_views_share_frames_of_one_half(videos, guided):
    dataset = clips.ClipDataset(videos, **OPTIONS, **guided)
    seen = set()
    for position in range(len(dataset)):
        for epoch in range(6):
            half, times = dataset.half(position, epoch), dataset.times(position, epoch, 40)
            seen.add(half)
            assert np.array_equal(times[0], times[1])
            for view, at in enumerate(times):
                wanted = half if view < 2 else 1 - half
                assert ((at >= 20) == wanted).all(), (view, at)
    assert seen == {0, 1}


def test_both_halves_come_alike_and_starts_are_uniform(videos):
    "14 starts in each half of 40 frames, for clips of 7 frames; by counting."
    dataset = clips.ClipDataset(videos, **OPTIONS)
    draws = [(dataset.half(0, e), dataset.times(0, e, 40)[2, 0]) for e in range(4000)]
    halves = np.array([h for h, _ in draws])
    assert abs(halves.mean() - 0.5) < 0.03
    starts = np.array([s for h, s in draws if h == 1])  # the third view lies in the first half
    count = np.bincount(starts, minlength=14)
    assert len(count) == 14 and (np.abs(count / len(starts) - 1 / 14) < 0.02).all()


def test_a_video_too_short_for_two_clips_is_taken_whole(videos):
    dataset = clips.ClipDataset(videos, **OPTIONS)
    firsts = {int(dataset.times(0, e, 13)[v, 0]) for e in range(300) for v in range(4)}
    assert firsts == set(range(7))


@pytest.mark.parametrize("cache", [None, "memory"])
def test_the_half_is_in_the_batch_however_it_is_read(videos, cache):
    dataset = clips.ClipDataset(videos, **OPTIONS, cache=cache)
    halves = {}
    for workers in (0, 2):
        batch = next(iter(clips.batches(dataset, 6, 2, shuffle=True, workers=workers)))
        halves[workers] = (batch["half"], batch["index"])
        wanted = torch.tensor([dataset.half(i, 2) for i in batch["index"].tolist()])
        assert torch.equal(batch["half"], wanted) and batch["half"].dtype == torch.int64
    assert torch.equal(halves[0][0], halves[2][0])


@pytest.mark.parametrize("wrong", [dict(views=2), dict(train=False), dict(mode="uniform"), dict(still=2)])
def test_what_halves_cannot_go_with(videos, wrong):
    with pytest.raises(ValueError, match="halves needs train"):
        clips.ClipDataset(videos, **OPTIONS | wrong)


def test_halves_change_the_hash(videos):
    plain = clips.ClipDataset(videos, **OPTIONS | dict(halves=False))
    assert clips.ClipDataset(videos, **OPTIONS).hash != plain.hash
