"""Rows that are wrong in every way: a sentence with file and line, the same for every verb."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from files import read_rows
from reground.cli import app
from reground.data.soundness import Reason
from reground.data.source import open_dataset
from reground.data.validate import validate
from reground.errors import DataError

Row = dict[str, Any]
GOOD: Row = {
    "id": "a",
    "images": [{"path": "a.png", "width": 200, "height": 100}],
    "question": "the cat",
    "targets": [{"image": 0, "box": [10, 20, 110, 80]}],
    "task": "test",
    "target_image": 0,
    "think": "There it is.",
    "rethink": "It is.",
    "difficulty": 0.5,
    "strata": {"class": "cat"},
    "protocol": "think",
    "spans": [[4, 7, "phrase"]],
    "tool_results": [{"image": 0, "box": [10, 20, 110, 80], "label": "cat", "score": 0.9}],
}
NEEDED = {"id", "images", "question", "targets", "task", "path", "image", "box"}
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 0.5, -0.5, 320.9, 1e300, -1e300, 10**30, 10**400),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "0", "null", "[0]", "\u2028", "<image>"),
    *([], [[]], [None], [0], [1, 2, 3, 4], [[1, 2, 3, 4]], ["a"], [{}], {}, {"x": 1}, {"image": 0}),
]


def changed(row: Row, place: tuple[Any, ...], value: Any) -> Row:
    """A copy with another value at a place; Ellipsis takes it away."""
    new = copy.deepcopy(row)
    around: Any = new
    for key in place[:-1]:
        around = around[key]
    if value is ...:
        del around[place[-1]]
    else:
        around[place[-1]] = value
    return new


def places(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a row."""
    if so_far:
        yield so_far
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from places(value[key], (*so_far, key))


def lines() -> Iterator[tuple[str, bytes]]:
    """Every field taken away, and every wrong value at every place."""
    for place in places(GOOD):
        yield f"without {place}", json.dumps(changed(GOOD, place, ...)).encode()
        for value in VALUES:
            yield f"{place} = {value!r:.40}", json.dumps(changed(GOOD, place, value)).encode()
    good = json.dumps(GOOD)
    texts = {
        "another field": good[:-1] + ', "boxes": []}',
        "a field twice": good[:-1] + ', "id": "b"}',
        "a field twice inside": good.replace('"image": 0', '"image": 0, "image": 0', 1),
        "a lone surrogate": good.replace("the cat", "\\ud800"),
        "a lone surrogate in a key": good.replace('"class"', '"\\udc00"'),
        "a control character": good.replace("the cat", "the\tcat"),
        "a comment": good + " // a cat",
        "a comma too many": good[:-1] + ",}",
        "single quotes": good.replace('"', "'"),
        "two rows": good + good,
        "two rows, separated by CR": good + "\r" + good.replace('"a"', '"c"'),
        "a list of it": f"[{good}]",
        "deep": "[" * 100_000,
        "deep inside": good[:-1] + ', "think": ' + '{"a":' * 9000 + "1" + "}" * 9000 + "}",
        "a huge number": good.replace("110", "1" * 5000),
        "a huge exponent": good.replace("110", "1e999"),
        **{f"cut at {n}": good[: len(good) * n // 20] for n in range(1, 20)},
        **{f"only {text}": text for text in ("null", "true", "3", '"a"', "[]", "{}", "NaN", "\0")},
    }
    yield from ((name, text.encode()) for name, text in texts.items())
    for encoding in ("utf-16", "utf-16-le", "utf-32", "cp500"):
        yield encoding, good.encode(encoding).replace(b"\n", b"")
    yield "latin-1", good.replace("the cat", "caf\u00e9").encode("latin-1")
    yield "gzip", gzip.compress(good.encode(), mtime=0).replace(b"\n", b"")
    yield "binary", bytes(range(11, 256))
    for name, change in SOUND_TO_READ.items():
        yield name, json.dumps(change(copy.deepcopy(GOOD))).encode()


def boxed(*box: float) -> Callable[[Row], Row]:
    return lambda row: row | {"targets": [{"image": 0, "box": [*box]}]}


SOUND_TO_READ: dict[str, Callable[[Row], Row]] = {
    "reversed": boxed(110, 20, 10, 80),
    "upside down": boxed(10, 80, 110, 20),
    "flat": boxed(10, 20, 110, 20),
    "a point": boxed(10, 20, 10, 20),
    "outside": boxed(210, 20, 300, 80),
    "half outside": boxed(150, 20, 250, 80),
    "shares": boxed(0.1, 0.2, 0.5, 0.8),
    "in the second image of one": lambda row: (
        row | {"targets": [{"image": 1, "box": [10, 20, 110, 80]}]}
    ),
    "asked about the second image of one": lambda row: row | {"target_image": 1},
    "a detector's box outside": lambda row: (
        row | {"tool_results": [{"image": 0, "box": [150, 20, 250, 80]}]}
    ),
    "a placeholder": lambda row: row | {"question": "<image>\nthe cat", "spans": []},
    "the id of another": lambda row: row | {"id": "good"},
    "too small": lambda row: (
        row
        | {"images": [{"path": "a.png", "width": 200, "height": 9}], "targets": []}
        | {"tool_results": []}
    ),
    "too long": lambda row: (
        row
        | {"images": [{"path": "a.png", "width": 30_000, "height": 100}], "targets": []}
        | {"tool_results": []}
    ),
}
LINES = dict(lines())
OF_PICTURES = {Reason.MISSING_IMAGE, Reason.CORRUPT_IMAGE, Reason.SIZE_DIFFERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rows")
    Image.new("RGB", (200, 100), "gray").save(made / "a.png")
    return made


def opened(path: Path) -> str | None:
    """Why eval, training and all other verbs refuse a file, if they do."""
    try:
        assert open_dataset(str(path))[0].id == "good"
    except DataError as error:
        return str(error)
    return None


def test_there_are_300() -> None:
    assert len(LINES) > 300


@pytest.mark.parametrize("part", range(8))
def test_the_validator_and_all_other_verbs_agree(folder: Path, part: int) -> None:
    """What one sets aside, the others refuse, by the same reason and with the line."""
    good = json.dumps(changed(GOOD, ("id",), "good")).encode()
    path = folder / f"d{part}.jsonl"
    for name, line in list(LINES.items())[part::8]:
        path.write_bytes(good + b"\n\n" + line + b"\n")
        report = validate(path)
        assert (report.num_rows, report.num_clean) in ((2, 1), (2, 2)), name
        said = opened(path)
        of_rows = {*report.reasons} - OF_PICTURES
        assert bool(said) == bool(of_rows), f"{name}: {said}, {report.reasons}"
        if said is None:
            continue
        assert said.startswith(f"{path}:3: "), name
        assert len(said) < 900 and said.isprintable(), f"{name}: {said}"
        (entry,) = read_rows(report.quarantine)
        assert entry["line"] == 3
        details = [each["detail"] for each in entry["reasons"]]
        if of_rows == {Reason.UNREADABLE}:
            assert details[0] in said, name
        else:
            found = [f"{each['reason']}: {each['detail']}" for each in entry["reasons"]]
            assert any(each in said for each in found), f"{name}: {said}, {found}"


MEANT = ("think", "rethink", "difficulty", "strata", "protocol", "spans", "tool_results")


@pytest.mark.parametrize("name", [*MEANT, "target_image"])
def test_what_may_be_left_out_may_be_null(folder: Path, name: str) -> None:
    path = folder / "null.jsonl"
    for value in (..., *([None] if name in MEANT else [])):
        row = changed(changed(GOOD, ("id",), "good"), (name,), value)
        path.write_text(json.dumps(row))
        assert opened(path) is None and not validate(path).reasons


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("id",), None),
        (("id",), ["a"]),
        (("question",), ["the cat"]),
        (("images",), ["a.png"]),
        (("images", 0, "width"), 320.9),
        (("images", 0, "width"), "200"),
        (("images", 0, "height"), True),
        (("targets",), [[10, 10, 60, 60]]),
        (("targets",), {"image": 0, "box": [1, 2, 30, 40]}),
        (("targets", 0, "box"), [1, 2, 3, 4, 5]),
        (("targets", 0, "box"), ["1", "2", "30", "40"]),
        (("targets", 0, "box", 2), True),
        (("strata",), 5),
        (("strata",), {"class": ["cat"]}),
        (("spans",), 5),
        (("spans",), [[0, 3, 5]]),
        (("spans",), [[5, 3, "phrase"]]),
        (("protocol",), ["think"]),
        (("difficulty",), 10**400),
        (("tool_results", 0, "score"), 10**400),
    ],
)
def test_values_that_used_to_pass_or_to_crash(
    folder: Path, place: tuple[Any, ...], value: Any
) -> None:
    path = folder / "one.jsonl"
    path.write_text(json.dumps(changed(GOOD, place, value)))
    assert validate(path).reasons == {Reason.UNREADABLE: 1}
    assert f"{path}:1: " in (opened(path) or "")


@pytest.mark.parametrize(
    ("encoding", "end", "good"),
    [("utf-8-sig", "\n", True), ("utf-8", "\r\n", True), ("utf-8", "\r", False),
     ("utf-16", "\n", False), ("utf-32", "\n", False), ("utf-8-sig", "\r\n", True)],
)  # fmt: skip
def test_whole_files_of_other_tools(folder: Path, encoding: str, end: str, good: bool) -> None:
    """Marks and line ends of Windows are nothing; other encodings are named line by line."""
    path = folder / "whole.jsonl"
    rows = [changed(GOOD, ("id",), name) for name in ("good", "b", "c")]
    path.write_bytes("".join(json.dumps(row) + end for row in rows).encode(encoding))
    report = validate(path)
    assert (report.num_clean == 3) == good == (opened(path) is None)
    if not good:
        assert {*report.reasons} == {Reason.UNREADABLE}
        assert (opened(path) or "").startswith(f"{path}:1: ")


def test_a_file_in_another_frame_is_refused_by_all(folder: Path) -> None:
    """No box of 40 in 4000 x 3000 reaches past 1000."""
    Image.new("1", (4000, 3000)).save(folder / "big.png")
    image = {"path": "big.png", "width": 4000, "height": 3000}
    base = {"images": [image], "question": "it", "task": "t"}
    rows = [
        base | {"id": f"{n}", "targets": [{"image": 0, "box": [n, n, 500 + n, 600 + n]}]}
        for n in range(40)
    ]
    path = folder / "thousand.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert validate(path).reasons == {Reason.SUSPECT_FRAME: 40}
    assert "suspect frame: the whole file's boxes look like 0-1000" in (opened(path) or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *((verb, name) for verb in ("validate", "show", "export") for name in ("utf-16", "deep")),
        *(("eval", name) for name in ("reversed", "a field twice", "deep")),
        ("train", "reversed"),
    ],
)
def test_commands_say_a_sentence(folder: Path, tmp_path: Path, verb: str, name: str) -> None:
    path, out = folder / "c.jsonl", ["--out", str(tmp_path / "out")]
    path.write_bytes(LINES[name])
    mix = f"data=[{{mix: {{{path}: 1}}}}]"
    command = {
        "validate": ["data", "validate", str(path)],
        "eval": ["eval", "--data", str(path), *out],
        "train": ["train", "configs/tiny/2_sft.yaml", mix, "model=tiny", *out],
        "show": ["data", "show", str(path), *out],
        "export": ["data", "export", "coco", str(path), *out],
    }[verb]
    ended = CliRunner().invoke(app, command)
    if verb == "validate":
        assert (ended.exit_code, type(ended.exception)) == (1, SystemExit), ended.output
        assert "0 of 1 rows are good" in ended.output
    else:
        assert isinstance(ended.exception, DataError), ended
        assert str(ended.exception).startswith(f"{path}:1: ")
    assert not [*tmp_path.iterdir()]
