"""Mutated list files: a DatasetError of one short sentence, or a sound index."""

import csv
import io
import json
import re
import warnings
from functools import partial
from pathlib import Path, PurePosixPath

from mvnb import datasets, settings
from mvnb.datasets import DatasetError

from ._cases import Place, Row, each, flipped, generator, span

TITLE, CASES = "mutated list files", 2000
LONGEST = 600  # characters of a message, with the path of the list
CLASSES = ("Archery", "HandstandPushups", "Surfing")
NAMES = [f"v_{c}_g0{k}_c01" for c in CLASSES for k in range(1, 5)]


# ---------------------------------------------------------------- sound lists


def class_of(name: str) -> str:
    return name.split("_")[1]


def ucf101(root: Path) -> dict:  # name of a list -> its text
    "Videos in class folders, in UCF101's lists."
    paths = [f"{class_of(name)}/{name}.avi" for name in NAMES]
    touch(root, paths)
    classes = "".join(f"{k} {c}\n" for k, c in enumerate(CLASSES, 1))
    lines = [f"{path} {1 + CLASSES.index(path.split('/')[0])}\n" for path in paths]
    tests = [line.split()[0] + "\n" for line in lines]
    return {
        "classInd.txt": classes,
        "trainlist01.txt": "".join(lines[::2]),
        "testlist01.txt": "".join(tests[1::2]),
    }


def hmdb51(root: Path) -> dict:
    "The same videos in HMDB51's lists, one for each class."
    touch(root, [f"{class_of(name)}/{name}.avi" for name in NAMES])
    mine = {c: [name for name in NAMES if class_of(name) == c] for c in CLASSES}
    return {
        f"{c}_test_split1.txt": "".join(f"{name}.avi {k % 3} \n" for k, name in enumerate(names, 1))
        for c, names in mine.items()
    }


def kinetics400(root: Path) -> dict:
    "The same videos in Kinetics' CSV files."
    touch(root, [f"{split}/{class_of(name)}/{name}.mp4" for name in NAMES for split in ("train", "val")])
    lists = {"label_map_k400.txt": "".join(f"{c}\n" for c in CLASSES)}
    for split in ("train", "val"):
        out = io.StringIO()
        rows = csv.writer(out)
        rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        rows.writerows([class_of(name), name, k, k + 10, split] for k, name in enumerate(NAMES))
        lists[f"{split}.csv"] = out.getvalue()
    return lists


def ssv2(root: Path) -> dict:
    "Videos with numbers, in Something-Something's JSON lists."
    touch(root, [f"{k}.webm" for k in range(len(NAMES))])
    entries = [
        {"id": str(k), "label": f"holding {c}", "template": f"Holding [{c}]", "placeholders": [c]}
        for k, c in enumerate(map(class_of, NAMES))
    ]
    labels = {f"Holding {c}": str(k) for k, c in enumerate(CLASSES)}
    return {
        "labels.json": json.dumps(labels),
        "train.json": json.dumps(entries, indent=1),
        "validation.json": json.dumps(entries[::2]),
    }


def diving48(root: Path) -> dict:
    "The same videos in Diving48's JSON lists."
    touch(root, [f"rgb/{name}.mp4" for name in NAMES])
    dives = [
        {"vid_name": name, "label": CLASSES.index(class_of(name)), "start_frame": 0, "end_frame": 9}
        for name in NAMES
    ]
    return {
        "Diving48_vocab.json": json.dumps([["Back", c] for c in CLASSES]),
        "Diving48_V2_train.json": json.dumps(dives),
        "Diving48_V2_test.json": json.dumps(dives[1::2], indent=2),
    }


def touch(root: Path, paths: list):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


FORMATS = {function.__name__: function for function in (ucf101, hmdb51, kinetics400, ssv2, diving48)}


# ---------------------------------------------------------------- what is done to a list


HOSTILE = [
    *(
        b"\0",
        b"\x1b]0;owned\x07",
        b"\x7f",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xe9",
        b"\r",
        b"\n",
        b"\t",
        b",",
        b" ",
    ),
    *("\u202e".encode(), "\u2028".encode(), "\u0085".encode(), "\ud800".encode("utf-8", "surrogatepass")),
    *(
        b"../",
        b"/etc/",
        b"C:\\",
        b"~/",
        b"//",
        b"\\u0000",
        b"\\u001b",
        b"\\ud800",
        b'"',
        b"\\",
        b"{",
        b"[",
        b"}",
    ),
    *(b"NaN", b"null", b"-1", b"1e999", b"9" * 5000, b"a" * 100_000, b"[" * 10_000, b"true", b"0x10"),
    *("Ä".encode(), "１".encode(), "²".encode(), b"#", b";", b"\0" * 100),
]


def inserted(data: bytes, rng) -> bytes:
    "Something hostile at any place."
    at = int(rng.integers(len(data) + 1))
    return data[:at] + HOSTILE[rng.integers(len(HOSTILE))] + data[at:]


def replaced(data: bytes, rng) -> bytes:
    "Something hostile in the place of a short piece."
    at = int(rng.integers(len(data)))
    return data[:at] + HOSTILE[rng.integers(len(HOSTILE))] + data[at + int(rng.integers(1, 9)) :]


def cut(data: bytes, rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def dropped(data: bytes, rng) -> bytes:
    gone = span(len(data), rng)
    return data[: gone.start] + data[gone.stop :]


def doubled(data: bytes, rng) -> bytes:
    twice = span(len(data), rng)
    return data[: twice.stop] + data[twice.start :]


def recoded(data: bytes, rng) -> bytes:
    "The list in another encoding, or with other ends of lines."
    text = data.decode()
    ways = [text.encode(code) for code in ("utf-16", "utf-8-sig", "utf-32", "utf-16-le")]
    return [*ways, data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"), data.upper()][rng.integers(7)]


def exchanged(data: bytes, rng) -> bytes:
    "Two words change places."
    words = re.split(rb"([ ,\n])", data)
    one, other = 2 * rng.integers(len(words) // 2 + 1, size=2)
    words[one], words[other] = words[other], words[one]
    return b"".join(words)


MUTATIONS = (
    partial(flipped, most=4),
    inserted,
    replaced,
    inserted,
    cut,
    dropped,
    doubled,
    recoded,
    exchanged,
)


# ---------------------------------------------------------------- what comes of it


def is_short(text: str) -> bool:
    "Whether a message is one line that a terminal can show."
    return len(text) <= LONGEST and "\n" not in text and settings.printable(text) == text


def unsound(index) -> str:
    "What is wrong with an index, or nothing."
    paths, labels = list(index.paths), list(index.labels)
    if not 0 < len(paths) == len(labels) == len(set(paths)):
        return "not one label for each of some videos"
    if not all(-1 <= label < len(index.classes) for label in labels):
        return "a label without a class"
    if len(set(index.classes)) != len(index.classes):
        return "two classes of one name"
    if any(PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts for path in paths):
        return "a path outside the root"
    if any(settings.printable(text) != text or "\n" in text for text in (*paths, *index.classes)):
        return "a control character in a path or class"
    index.hash, index.missing()
    return ""


def attempt(case: tuple, folder: Path, seed: int, made: Path, every: dict) -> tuple:
    "One mutated list."
    number, name, split = case
    rng = generator(seed, number)
    root, lists, texts = made / name, folder / "lists", every[name]
    lists.mkdir()
    changed = list(texts)[rng.integers(len(texts))]
    for file, text in texts.items():
        data = text.encode()
        (lists / file).write_bytes(MUTATIONS[number % len(MUTATIONS)](data, rng) if file == changed else data)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            index = datasets.load(name, split, root=root, annotations=lists)
            found = unsound(index)
            how = "sound" if texts[changed].encode() != (lists / changed).read_bytes() else "sound, unchanged"
        except DatasetError as e:
            found, how = (
                "" if is_short(str(e)) else f"a message that is not short: {str(e)[:100]!r}",
                "DatasetError",
            )
    if any(not is_short(str(warning.message)) for warning in told):
        found = "a warning that is not short"
    return not found, f"{name}, {changed}: {found}" if found else how


def run(cases: int, seed: int, place: Place) -> list:
    rows = {name: Row(f"mutated lists of {name}") for name in FORMATS}
    texts = {name: write(place.made / name) for name, write in FORMATS.items()}
    others = {"kinetics400": "val", "ssv2": "val"}
    every = []
    for number in range(cases):
        name = list(FORMATS)[number % len(FORMATS)]
        every.append((number, name, "train" if number % 3 else others.get(name, "test")))
    function = partial(attempt, seed=seed, made=place.made, every=texts)
    for case, right, how in each(function, every, TITLE, place, 30, share=40):
        rows[case[1]].count(right, how)
    return [row for row in rows.values() if row.tried]
