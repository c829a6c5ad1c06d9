"What decodes is what is counted: still scenes, cut files, several video streams; and what is refused."

import os
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from mvnb import cli, datasets, video


def picture(n, height, width, still=range(20, 60)):
    "A pattern that drifts, but for a while."
    n = n if n not in still else still[0]
    y, x = np.mgrid[:height, :width]
    gray = (128 + 60 * np.sin((x + 2 * n) / 9) + 40 * np.sin((y - n) / 7)).clip(0, 255)
    return np.repeat(gray[..., None], 3, 2).astype(np.uint8)


def encode(path, frames, rate=25, codec="mpeg4", pixels="yuv420p", **options):
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))


@pytest.mark.parametrize("ending", ["avi", "mp4", "mkv"])
@pytest.mark.parametrize("bframes", [0, 1, 3])
@pytest.mark.parametrize("size", [(96, 160), (240, 320)])
def test_still_scenes_in_mpeg4_are_counted(tmp_path, ending, bframes, size):
    path = tmp_path / f"still.{ending}"
    encode(path, [picture(n, *size) for n in range(90)], bf=bframes, g=250)
    assert video.num_frames(path) == video.probe(path).frames == 90
    last = video.read_clip(path, [0, 89]).rgb[:, 1].permute(1, 2, 0).numpy()
    expected = picture(89, *size)
    assert np.abs(last.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("rate", [1, 2, 24, Fraction(30000, 1001), 50, 1000, 65535])
def test_the_time_of_a_picture_has_as_many_bits_as_its_rate_needs(tmp_path, rate):
    "The uncoded bit lies behind the time; its length follows from the ticks of a second."
    path = tmp_path / "rate.avi"
    encode(path, [picture(n, 64, 96) for n in range(12)], rate, bf=1, g=12)
    with av.open(str(path)) as container:
        header = container.streams.video[0].codec_context.extradata or b""
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    ticks = Fraction(rate).numerator
    bits = video._time_bits(video._time_rate(header or packets[0]))
    assert 2**bits >= ticks and (bits == 1 or 2 ** (bits - 1) < ticks)
    read = video._Vops(header)
    kinds = "".join(read(packet) for packet in packets)
    assert "-" not in kinds and len(kinds) == 12 == video.probe(path).frames
    times = sorted(read.times)
    assert [time - times[0] for time in times] == [n / Fraction(rate) for n in range(12)]


def test_an_uncoded_picture_is_none():
    "Type P, no seconds, a marker, five bits of time, a marker, and the bit that says coded or not."
    for coded in "01":
        bits = "01" + "0" + "1" + "00101" + "1" + coded + "1" * 5
        data = int(bits, 2).to_bytes(2, "big")
        assert video._time_and_coded(data, 25) == (0, 5, coded == "1")
    assert video._Vops(b"")(b"\0\0\1\xb6" + b"\x50\0") == "-"  # without a header, by its length


CODINGS = {
    "h264, open groups": ("libx264", {"x264-params": "open-gop=1:scenecut=0:keyint=12:min-keyint=12"}),
    "h264": ("libx264", {"g": "12", "bf": "2", "sc_threshold": "0"}),
    "hevc, open groups": ("libx265", {"x265-params": "keyint=12:min-keyint=12:scenecut=0:log-level=none"}),
    "mpeg1video": ("mpeg1video", {"g": "12", "bf": "2"}),
    "mpeg2video": ("mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2"}),
    "vp9": ("libvpx-vp9", {"g": "12"}),
}


def test_numbers_of_h264_pictures_are_read(tmp_path):
    "Against x264's own: high profiles with scaling lists, many references, both kinds of start."
    for name, options in {
        "high.mp4": {"x264-params": "cqm=jvt:ref=5:keyint=40:bframes=3:b-pyramid=normal"},
        "high.ts": {"x264-params": "cqm=jvt:ref=5:keyint=40:bframes=3:weightp=0"},
        "baseline.mkv": {"profile": "baseline", "g": "30"},
    }.items():
        path = tmp_path / name
        encode(path, [picture(n, 96, 128, ()) for n in range(60)], 25, "libx264", **options)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            look = video._Slices(stream.codec_context.extradata or b"")
            packets = [bytes(p) for p in container.demux(stream) if p.size]
        numbers = []
        real = look.follow
        look.follow = lambda *found: real(*found) or numbers.append(look.last)
        for packet in packets:
            look(packet)
        assert not look.lost and look.size >= 4 and len(numbers) == 60
        assert max(numbers) >= 10 and numbers[0] == 0
        look(packets[0])
        look(packets[-1])  # between them all the others are missing
        assert look.lost


CUTS = {
    "whole": lambda number, keys: True,
    "begins between key frames": lambda number, keys: number >= 5,
    "begins at a later key frame": lambda number, keys: number >= keys[1],
    "a key frame is lost": lambda number, keys: number != keys[2],
    "a frame is lost": lambda number, keys: number != keys[1] + 3,
}


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    "Sixty frames in every coding."
    folder = tmp_path_factory.mktemp("coded")
    for name, (codec, options) in CODINGS.items():
        encode(folder / f"{name}.mkv", [picture(n, 96, 128, ()) for n in range(60)], 25, codec, **options)
    return folder


def cut(source, target, keeps, anew=False):
    "Copies the packets that are kept, stamped from 0; `anew`: stamped as if none had been left out."
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        packets = [p for p in container.demux(video=0) if p.size]
        keys = [number for number, p in enumerate(packets) if p.is_keyframe]
        stream = out.add_stream_from_template(container.streams.video[0])
        kept = [p for number, p in enumerate(packets) if keeps(number, keys)]
        first = kept[0].dts if kept[0].dts is not None else kept[0].pts
        if anew:
            shown = np.argsort(np.argsort([p.pts for p in kept]))
            times = sorted(p.pts for p in packets)
            steps = [p.dts for p in packets]
            for number, packet in enumerate(kept):
                packet.pts, packet.dts = times[shown[number]], steps[number]
            first = times[0] if steps[0] is None else steps[0]
        for packet in kept:
            packet.stream = stream
            packet.pts -= first
            packet.dts = None if packet.dts is None else packet.dts - first
            out.mux(packet)


def plainly_decoded(path):
    "RGB of the frames that come out of a file, one after the other, up to its end or a fault."
    frames = []
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
    except av.FFmpegError:
        pass
    return frames


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("coding", CODINGS)
def test_one_index_is_one_picture_of_those_that_decode(coded, tmp_path, coding, how, anew):
    for ending in ("mkv", "mp4", {"mpeg4": "avi", "vp9": "webm"}.get(coding, "ts")):
        path = tmp_path / f"cut.{ending}"
        try:
            cut(coded / f"{coding}.mkv", path, CUTS[how], anew)
        except av.FFmpegError:
            continue  # the container does not hold this codec
        expected = plainly_decoded(path)
        if not expected:
            with pytest.raises(video.VideoError, match="no frame of it decodes"):
                video.num_frames(path)
            continue
        assert video.num_frames(path) == video.probe(path).frames == len(expected)
        for number in (len(expected) - 1, len(expected) // 2, 0):
            (alone,) = video.read_clip(path, [number]).rgb.permute(1, 2, 3, 0).numpy()
            assert np.array_equal(alone, expected[number]), (ending, number)
        with pytest.raises(video.VideoError, match="past the end"):
            video.read_clip(path, [len(expected)])


def test_counting_by_decoding_is_done_once_and_shown(coded, tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "clips" / "one"
    folder.mkdir(parents=True)
    keeps = CUTS["begins at a later key frame"]
    cut(coded / "hevc, open groups.mkv", folder / "cut.mkv", keeps)
    (folder / "whole.mkv").write_bytes((coded / "h264.mkv").read_bytes())
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    report = datasets.check(datasets.folder(tmp_path / "clips", "all"), workers=0, progress=False)
    assert "counted by decoding" in str(report) and "come out: 1" in str(report)
    time.sleep(2.1)  # a file that changed a moment ago is not remembered
    count = video.num_frames(folder / "cut.mkv")
    video._scan.cache_clear()
    monkeypatch.setattr(video, "_counted", lambda path, scan: pytest.fail("counted again"))
    assert (
        video.num_frames(folder / "cut.mkv")
        == count
        < video._packet_scan(*video._stamped(folder / "cut.mkv")).packets
    )


@pytest.mark.parametrize("codec, ending", [("mpeg2video", "mkv"), ("mpeg4", "avi"), ("libx264", "mp4")])
def test_vectors_between_fields_are_refused(tmp_path, codec, ending):
    path = tmp_path / f"fields.{ending}"
    options = {"x264-params": "tff=1"} if codec == "libx264" else {"flags": "+ildct+ilme"}
    encode(path, [picture(n, 96, 128, ()) for n in range(12)], 25, codec, **options)
    assert video.read_clip(path, [5]).rgb.shape == (3, 1, 96, 128)
    with pytest.raises(video.NoMotionVectors, match="frame 5 is coded as two fields"):
        video.read_clip(path, [5], motion=True)
    found = video.probe(path)
    assert found.mv_frames == 0 and "12 frames are coded as two fields" in found.reason


def test_a_frame_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "huge.mov"
    side = 9000
    encode(path, [np.zeros((side, side, 3), np.uint8)], 25, "png", pixels="rgb24")
    assert path.stat().st_size < 2e6
    for read in (video.num_frames, video.probe, lambda path: video.read_clip(path, [0])):
        with pytest.raises(video.VideoError, match="9000x9000 pixels; at most 67 million"):
            read(path)


def test_a_packet_that_does_not_come_is_waited_for_a_while(tmp_path, monkeypatch):
    path = tmp_path / "sparse.avi"
    encode(path, [picture(n, 64, 96) for n in range(12)], bf=0, g=12)
    os.truncate(path, 20 << 30)  # nothing but zeros, which take no room on the disk
    monkeypatch.setattr(video, "_PATIENCE", 1)
    with pytest.raises(video.VideoError, match="no answer within 1 seconds"):
        video.num_frames(path)


def two_streams(path, first, second, default=None):
    "A file with two video streams, each (codec, frames, size); `default`: which is marked."
    with av.open(str(path), "w") as out:
        streams = []
        for k, (codec, count, (height, width)) in enumerate((first, second)):
            stream = out.add_stream(codec, rate=25)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if default is not None:
                stream.disposition = Disposition.default if k == default else Disposition(0)
            streams.append(stream)
        for n in range(max(first[1], second[1])):
            for stream, (_, count, (height, width)) in zip(streams, (first, second)):
                if n < count:
                    shade = np.full((height, width, 3), 5 * n, np.uint8)
                    out.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        for stream in streams:
            out.mux(stream.encode(None))


SMALL, BIG = ("mjpeg", 1, (48, 80)), ("libx264", 40, (96, 160))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("default", [None, 1])
def test_a_thumbnail_before_the_video_is_passed_over(tmp_path, ending, default):
    path = tmp_path / f"thumbnail.{ending}"
    two_streams(path, SMALL, BIG, default)
    found = video.probe(path)
    assert (found.codec, found.frames, video.num_frames(path)) == ("h264", 40, 40)
    assert "not read: stream 0 (mjpeg, 80x48, " in found.others
    clip = video.read_clip(path, [0, 39])
    assert clip.rgb.shape == (3, 2, 96, 160) and abs(int(clip.rgb[0, 1, 0, 0]) - 195) < 8
    index = datasets.Index("folder", "all", tmp_path, [path.name], [-1], ())
    assert "h264" in datasets.check(index, workers=0, progress=False).codecs


@pytest.mark.parametrize("ending", ["mkv", "avi"])
def test_without_a_mark_the_larger_video_is_read(tmp_path, ending):
    for order in (0, 1):
        path = tmp_path / f"preview{order}.{ending}"
        both = [("libx264", 40, (48, 80)), BIG]
        two_streams(path, *(both if order else both[::-1]))
        assert (video.probe(path).width, video.num_frames(path)) == (160, 40)


def test_the_marked_video_is_read(tmp_path):
    path = tmp_path / "marked.mkv"
    two_streams(path, BIG, ("libx264", 40, (48, 80)), default=1)
    assert video.probe(path).width == 80 and video.read_clip(path, [3]).rgb.shape[2:] == (48, 80)


def test_the_probe_names_the_others(tmp_path, capsys):
    two_streams(tmp_path / "two.mkv", SMALL, BIG)
    assert cli.main(["probe", str(tmp_path / "two.mkv")]) == 0
    assert "not read: stream 0 (mjpeg, 80x48, 1 frame)" in capsys.readouterr().out
    assert "not read" in video.probe_table([tmp_path / "two.mkv"])


# ---------------------------------------------------------------- display matrices


def with_matrix(path, matrix, ending):
    "A copy of an mp4 whose track header has another display matrix (a, b, c, d)."
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes after the version
    a, b, c, d = (round(65536 * x) for x in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    out = path.with_name(f"{path.stem}_{ending}.mp4")
    out.write_bytes(data)
    return out


def shown(pixels, matrix):
    "What a player shows: the pixel at (x, y) goes to (ax + cy, bx + dy), moved into the frame; by loops."
    a, b, c, d = (int(x) for x in matrix)
    height, width = pixels.shape[:2]
    place = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(height) for x in range(width)}
    left, top = min(x for x, _ in place), min(y for _, y in place)
    size = (height, width) if a else (width, height)
    out = np.zeros((*size, 3), np.uint8)
    for (x, y), value in place.items():
        out[y - top, x - left] = value
    return out


MATRICES = [
    *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],  # turned
    *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],  # mirrored, and turned
]


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    "A texture that moves by (3, 1) pixels from frame to frame."
    texture = (
        np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    )
    frames = [texture[64 - n : 128 - n, 128 - 3 * n : 224 - 3 * n] for n in range(12)]
    path = tmp_path_factory.mktemp("matrix") / "flat.mp4"
    return video.write_video(path, np.stack(frames), options=dict(bf=0, refs=1, crf=10))


@pytest.mark.parametrize("number, matrix", list(enumerate(MATRICES)))
def test_pictures_and_vectors_are_upright_as_a_player_shows_them(drifting, number, matrix):
    flat = video.read_clip(drifting, range(12), motion=True)
    path = with_matrix(drifting, matrix, number)
    up = video.read_clip(path, range(12), motion=True)
    for t in (0, 11):
        stored = flat.rgb[:, t].permute(1, 2, 0).numpy()
        assert np.array_equal(up.rgb[:, t].permute(1, 2, 0).numpy(), shown(stored, matrix))
    a, b, c, d = matrix
    wanted = [a * 3 + c * 1, b * 3 + d * 1]
    middle = up.mv[1:, :, 2:-2, 2:-2].permute(0, 2, 3, 1)[up.has_mv[1:, 2:-2, 2:-2]]
    assert middle.median(0).values.tolist() == wanted
    found = video.probe(path)
    assert (found.width, found.height) == up.rgb.shape[:1:-1] and found.mirrored == (a * d - b * c < 0)
    assert ("mirrored" in video.probe_table([path])) == found.mirrored
    cut = video.read_clip(path, [5], size=(24, 32), crop=(8, 16, 48, 32), motion=True)
    whole = video.read_clip(path, [5]).rgb[:, :, 8:56, 16:48]
    assert np.abs(np.asarray(cut.rgb, float).mean() - np.asarray(whole, float).mean()) < 2
    if video.decord is not None:
        again = video.read_clip(path, [2, 7])
        assert np.array_equal(again.rgb, up.rgb[:, [2, 7]])
        if found.mirrored:
            with pytest.raises(video.VideoError, match="mirroring"):
                video.read_clip(path, [2, 7], backend="decord")


@pytest.mark.parametrize("matrix", [(0.8, 0.6, -0.6, 0.8), (1, 0, 0.5, 1), (2, 0, 0, 1), (0, 0, 0, 0)])
def test_other_matrices_are_refused_with_the_reason(drifting, matrix):
    path = with_matrix(drifting, matrix, "odd")
    if not any(matrix):
        assert video.read_clip(path, [3]).rgb.shape == (3, 1, 64, 96)  # FFmpeg drops it
        return
    for read in (video.probe, lambda path: video.read_clip(path, [3])):
        with pytest.raises(video.VideoError, match="display matrix"):
            read(path)
