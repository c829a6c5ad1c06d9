"""Mutated video files: a VideoError, or frames that are the same however they are read."""

import os
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from mvnb import puppets, video
from mvnb.video import VideoError

from ._cases import Place, Row, apart, each, flipped, generator, span

TITLE, CASES = "mutated video files", 2600
FRAMES, SIZE = 24, 64
MEMORY = 2 << 30  # bytes that reading a file of 64×64 pixels may take
X265 = {"x265-params": "log-level=error:keyint=8:min-keyint=8:bframes=2:pools=1", "preset": "ultrafast"}
KINDS = {  # name of the file -> encoder, its options
    "mpeg4.avi": ("mpeg4", {"g": 8}),
    "mpeg4_b.avi": ("mpeg4", {"g": 8, "bf": 2}),
    "mpeg4_b.mp4": ("mpeg4", {"g": 8, "bf": 2}),
    "h264.mp4": ("libx264", {"g": 8, "bf": 0, "preset": "veryfast"}),
    "h264_b.mkv": ("libx264", {"g": 8, "bf": 2, "preset": "veryfast"}),
    "hevc_b.mp4": ("libx265", X265),
    "vp8.webm": ("libvpx", {"g": 8, "deadline": "realtime", "cpu-used": 8}),
    "vp9.webm": ("libvpx-vp9", {"g": 8, "deadline": "realtime", "cpu-used": 8}),
    "av1.mp4": ("libsvtav1", {"g": 8, "preset": 12}),
    "mpeg2_b.mpg": ("mpeg2video", {"g": 8, "bf": 2}),
    "mpeg1.mpg": ("mpeg1video", {"g": 8}),
    "msmpeg4.avi": ("msmpeg4v3", {"g": 8}),
    "flv.flv": ("flv", {"g": 8}),
}


def make(folder: Path):
    "Encodes one puppet in every way; a file whose encoder is not here is left out."
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ["SVT_LOG"] = "1"  # errors only
    frames, _ = puppets.render("puppets-u", "wave", 0, seed=1, frames=FRAMES, size=SIZE)
    for name, (codec, options) in KINDS.items():
        try:
            video.av.codec.Codec(codec, "w")
        except ValueError:
            continue
        video.write_video(folder / name, frames, codec=codec, options=options)


# ---------------------------------------------------------------- what is done to a file


def cut(data: bytes, rng) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def dropped(data: bytes, rng) -> bytes:
    gone = span(len(data), rng)
    return data[: gone.start] + data[gone.stop :]


def zeroed(data: bytes, rng) -> bytes:
    gone = span(len(data), rng)
    return data[: gone.start] + bytes(gone.stop - gone.start) + data[gone.stop :]


def doubled(data: bytes, rng) -> bytes:
    twice = span(len(data), rng)
    return data[: twice.stop] + data[twice.start :]


def noisy(data: bytes, rng) -> bytes:
    gone = span(len(data), rng)
    return data[: gone.start] + rng.bytes(gone.stop - gone.start) + data[gone.stop :]


def swapped(data: bytes, rng) -> bytes:
    "Two fields of four bytes change places, both at the beginning or both at the end: there headers are."
    begin = 0 if rng.integers(2) else max(0, len(data) - 1024)
    one, other = (begin + 4 * int(k) for k in rng.integers(min(1024, len(data)) // 4, size=2))
    changed = bytearray(data)
    changed[one : one + 4], changed[other : other + 4] = data[other : other + 4], data[one : one + 4]
    return bytes(changed)


MUTATIONS = {
    "flipped bits": flipped,
    "flipped bits in the header": partial(flipped, within=1024),
    "a cut tail": cut,
    "a dropped span": dropped,
    "a zeroed span": zeroed,
    "a span of noise": noisy,
    "a doubled span": doubled,
    "swapped fields": swapped,
}


# ---------------------------------------------------------------- how a file is read


def asked(function, *args, **options):
    "What a function gives, or its VideoError."
    try:
        return function(*args, **options)
    except VideoError as e:
        return e


def mark(picture) -> tuple:
    "What tells pictures [H,W,3] apart."
    return picture.shape, zlib.crc32(np.ascontiguousarray(picture))


def marks(clip) -> list:
    return [mark(picture) for picture in clip.rgb.permute(1, 2, 3, 0).numpy()]


def in_a_row(path) -> tuple:  # marks, VideoError or None
    "All pictures, one after the other, and what ended them."
    found = []
    try:
        for picture in video.pictures(path):
            found.append(mark(picture))
    except VideoError as e:
        return found, e
    return found, None


def sound_vectors(clip) -> bool:
    "Whether motion is a number everywhere, and 0 where there is none."
    absent = ~clip.has_mv[:, None].expand_as(clip.mv)
    return bool(clip.mv.isfinite().all() and (clip.mv[absent] == 0).all())


def miscounted(path, count, found: list, error) -> str:
    "How the numbers of frames contradict each other, or nothing."
    if isinstance(count, VideoError):
        return f"num_frames refuses what pictures read ({len(found)})" if found else ""
    if len(found) > count or error is None and len(found) != count:
        return f"num_frames {count}, pictures {len(found)}"
    probed = asked(video.probe, path)
    if isinstance(probed, VideoError):
        return "" if error else f"probe refuses what is sound: {probed.reason}"
    damaged = error or "damaged" in probed.reason or "decoding fails" in probed.reason
    return "" if damaged or probed.frames == count else f"num_frames {count}, probe {probed.frames}"


def misread(path, count: int, found: list, error, rng) -> str:
    "How a picture differs from that of the same index in a row, or nothing."
    last = count - 1
    if Path(path).suffix == ".mpg":
        last = max(0, last - 1)  # nothing tells whether the last picture of a stream that breaks off is whole
    some = sorted({0, last, *rng.integers(last + 1, size=3).tolist()})
    for motion in (False, True):
        ways = [[index] for index in some] + [some, some[::-1] + some[:1]]
        for indices in ways:
            clip = asked(video.read_clip, path, indices, motion=motion)
            if isinstance(clip, VideoError):
                continue  # told
            for index, seen in zip(indices, marks(clip)):
                if index < len(found) and seen != found[index]:
                    return f"frame {index} of {count} is another picture{' with motion' * motion}: {indices}"
            if motion and not sound_vectors(clip):
                return f"vectors that are none: {indices}"
    for index in [count] if error else [count, count + 3]:  # behind a damaged frame there may be sound ones
        if not isinstance(asked(video.read_clip, path, [index]), VideoError):
            return f"frame {index} is read, num_frames {count}"
    return ""


def look(path, rng) -> tuple:  # whether it ended as it should, how
    "Reads a file in every way."
    count = asked(video.num_frames, path)
    found, error = in_a_row(path)
    if how := miscounted(path, count, found, error):
        return False, how
    if isinstance(count, VideoError):
        for motion in (False, True):
            if not isinstance(asked(video.read_clip, path, [0], motion=motion), VideoError):
                return False, "read_clip reads what num_frames refuses"
        return True, "VideoError"
    how = misread(path, count, found, error, rng)
    return not how, how or ("VideoError on the way" if error else "sound")


def attempt(case: tuple, folder: Path, seed: int, made: Path) -> tuple:
    "One mutated file."
    number, name, mutation = case
    rng = generator(seed, number)
    path = folder / name
    path.write_bytes(MUTATIONS[mutation]((made / name).read_bytes(), rng))
    right, how = look(path, rng)
    return right, how if right else f"{name}, {mutation}: {how}"


def run(cases: int, seed: int, place: Place) -> list:
    apart(make, place.made)
    names = sorted(path.name for path in place.made.iterdir())
    rows = {mutation: Row(f"video files with {mutation}") for mutation in MUTATIONS}
    mutations = list(MUTATIONS)
    every = []
    for k in range(cases):
        turn = k // len(names)
        every.append((k, names[k % len(names)], mutations[(k + turn) % len(mutations)]))
    function = partial(attempt, seed=seed, made=place.made)
    for case, right, how in each(function, every, TITLE, place, 60, MEMORY, share=20):
        rows[case[2]].count(right, how)
    return [row for row in rows.values() if row.tried]
