"""Large files of samples: an index that is never stale, and rows that are decoded when used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reground.data import rows as rows_module
from reground.data.rows import Rows, groups_of
from reground.data.source import open_dataset
from reground.errors import DataError
from reground.grounding.sample import Sample, read_jsonl
from reground.training.draw import Draws
from reground.training.settings import Phase


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and files that are large with the first byte."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("reground.data.source.LARGE", 0)
    return tmp_path / "cache" / "reground" / "rows"


def row(number: int, **fields: Any) -> dict[str, Any]:
    image = {"path": f"photos/{number // 3}.jpg", "width": 640, "height": 480}
    target = {"image": 0, "box": [number, 1.5, number + 40, 90]}
    question = f"the cup {number} \u2028 on the täble"
    own = {"id": f"r{number}", "images": [image], "question": question, "targets": [target]}
    return own | {"task": "desk"} | fields


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [json.dumps(each, ensure_ascii=number % 2 == 0) for number, each in enumerate(rows)]
    path.write_text("\n" + "\n \n".join(lines) + "\n", encoding="utf-8")  # with blank lines
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "train.jsonl", [row(number) for number in range(40)])


def checks(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """Every sample that is made from now on."""
    made: list[Sample] = []

    def read(*given: Any) -> Sample:
        made.append(original(*given))
        return made[-1]

    original = rows_module.read_row
    monkeypatch.setattr(rows_module, "read_row", read)
    return made


def test_rows_are_those_of_the_file_in_every_way_to_ask(file: Path) -> None:
    expected = list(read_jsonl(file))
    for _ in ("checked", "by the index"):
        found = open_dataset(str(file))
        assert isinstance(found, Rows) and len(found) == 40
        assert list(found) == expected and found[:] == expected
        assert (found[7], found[-1], found[3:30:4]) == (expected[7], expected[-1], expected[3:30:4])
        assert groups_of(found).tolist() == groups_of(expected).tolist()
        with pytest.raises(IndexError):
            found[40]


def test_a_second_opening_decodes_only_what_is_used(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = checks(monkeypatch)
    open_dataset(str(file))
    assert len(made) == 40
    again = open_dataset(str(file))
    assert len(made) == 40
    assert again[5].id == "r5" and len(made) == 41


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"targets": [{"image": 0, "box": [1, 2, 3]}]}, "four finite numbers"),
        ({"question": None}, "question is None; expected a text"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"images": []}, "there are 0"),
    ],
)
def test_a_bad_row_is_named_by_every_opening(
    file: Path, cache: Path, bad: dict[str, Any], said: str
) -> None:
    """And after a good version of the file was indexed."""
    open_dataset(str(file))
    write(file, [row(number) if number != 30 else row(30, **bad) for number in range(40)])
    for _ in range(2):
        with pytest.raises(DataError, match=rf"train\.jsonl:62: .*{said}.*; mend the row"):
            open_dataset(str(file))
    assert len(list(cache.iterdir())) == 1


def test_an_index_is_of_one_content_and_one_set_of_rules(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = os.stat(file)
    open_dataset(str(file))
    text = file.read_text(encoding="utf-8").replace('"id": "r5"', '"id": "q5"')
    file.write_text(text, encoding="utf-8")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a copying tool may leave it
    assert open_dataset(str(file))[5].id == "q5"
    made = checks(monkeypatch)
    monkeypatch.setattr(rows_module, "_rules", lambda: [b"others"])
    open_dataset(str(file))
    assert len(made) == 40 and len(list(cache.iterdir())) == 3


def test_a_row_that_changes_while_the_file_is_open_is_refused(file: Path) -> None:
    found = open_dataset(str(file))
    content = file.read_bytes()
    with file.open("rb+") as inside:
        inside.write(content.replace(b'"id": "r6"', b'"id": "q6"'))
    assert found[5].id == "r5"
    with pytest.raises(DataError, match=r"train\.jsonl: row 7: was written to since"):
        found[6]


def test_a_file_that_is_replaced_while_it_is_open_is_read_on(file: Path) -> None:
    found = open_dataset(str(file))
    write(file.with_name("new"), [row(1)]).replace(file)
    assert [sample.id for sample in found] == [f"r{number}" for number in range(40)]
    assert len(open_dataset(str(file))) == 1


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no index at all"])
def test_an_index_that_is_cut_off_is_made_again(file: Path, cache: Path, content: bytes) -> None:
    expected = list(open_dataset(str(file)))
    (kept,) = cache.iterdir()
    kept.write_bytes(content)
    assert list(open_dataset(str(file))) == expected


@pytest.mark.parametrize("why", ["a file in the way", "no room"])
def test_without_a_place_for_the_index_rows_are_checked_each_time(
    file: Path, cache: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no room":

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    else:
        cache.parent.parent.mkdir(parents=True)
        cache.parent.write_text("in the way")
    made = checks(monkeypatch)
    for number in (1, 2):
        assert len(open_dataset(str(file))) == 40 and len(made) == 40 * number
    assert not cache.is_dir() or not list(cache.iterdir())


def test_sides_that_only_files_know_are_looked_up_every_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (320, 240)).save(tmp_path / "photos/0.jpg")
    bare = row(0) | {"images": [{"path": "photos/0.jpg"}]}
    file = write(tmp_path / "bare.jsonl", [bare])
    assert open_dataset(str(file))[0].images[0].width == 320
    Image.new("RGB", (640, 480)).save(tmp_path / "photos/0.jpg")
    assert open_dataset(str(file))[0].images[0].width == 640
    (tmp_path / "photos/0.jpg").unlink()
    with pytest.raises(DataError, match=r"bare\.jsonl:2: .*no such image"):
        open_dataset(str(file))
    assert not cache.exists()


def test_ranks_may_open_a_file_at_one_time(file: Path, cache: Path) -> None:
    code = (
        "import reground.data.source as s; s.LARGE = 0\n"
        f"print([row.id for row in s.open_dataset({str(file)!r})][-1])"
    )
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert [rank.communicate()[0].strip() for rank in ranks] == [b"r39"] * 4
    assert len(list(cache.iterdir())) == 1


def test_the_cache_keeps_the_newest(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "KEPT", 3)
    for number in range(5):
        write(file, [row(number)])
        open_dataset(str(file))
    assert len(list(cache.iterdir())) == 3


def draws_of(file: Path) -> Iterator[list[str]]:
    draws = Draws([Phase(mix={str(file): 1.0})], seed=5, total=90)
    yield from ([sample.id for sample in draws.samples(item, 3)] for item in range(90))
    yield [json.dumps(draws.files())]


def test_a_run_draws_the_same_from_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_disk = [list(draws_of(file)) for _ in ("checked", "by the index")]
    monkeypatch.setattr("reground.data.source.LARGE", 2**22)
    in_memory = list(draws_of(file))
    assert from_disk == [in_memory, in_memory]
    assert any(len(ids) > 1 for ids in in_memory)
