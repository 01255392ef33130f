"""Several processes give what one gives: results and errors in the order of the parts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from reground import parallel
from reground.data.convert import converted
from reground.data.convert.common import read_json, rows_of
from reground.data.convert.tally import Tally
from reground.errors import DataError, RunError
from reground.io import write_text
from reground.parallel import LARGE, batches, mapped, workers_for


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_results_come_in_the_order_of_the_parts(workers: int, count: int) -> None:
    assert [*mapped(lambda part: part * "x", range(count), workers=workers)] == [
        part * "x" for part in range(count)
    ]


def _refused(part: int) -> int:
    if part in (3, 4):
        raise DataError(f"part {part}", help="rows-that-are-refused")
    return part


def _cut_off() -> Iterator[int]:
    yield from range(2)
    raise DataError("no further")


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    ("work", "parts", "expected"),
    [(_refused, range(9), [0, 1, 2, "part 3"]), (str, _cut_off, ["0", "1", "no further"])],
)
def test_the_first_error_comes_after_what_was_before_it(
    work: Callable[[int], Any], parts: Any, expected: list[Any], workers: int
) -> None:
    found: list[Any] = []
    with pytest.raises(DataError) as caught:
        found.extend(mapped(work, parts() if callable(parts) else parts, workers=workers))
    results = mapped(work, parts() if callable(parts) else parts, workers=workers)
    assert [*islice(results, len(expected) - 1), str(caught.value)] == expected
    assert caught.value.help == ("rows-that-are-refused" if work is _refused else "data")


def test_a_bug_in_a_process_says_where() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(mapped(lambda part: 1 // part, [1, 0], workers=2))
    assert "1 // part" in "".join(caught.value.__notes__)


def test_a_process_that_is_killed_is_an_error() -> None:
    with pytest.raises(RunError, match="killed or for want of memory"):
        list(mapped(lambda part: os.kill(os.getpid(), signal.SIGKILL), range(4), workers=2))


def test_processes_end_with_the_one_that_reads(tmp_path: Path) -> None:
    def work(part: int) -> bytes:
        (tmp_path / str(os.getpid())).touch()
        return bytes(100_000)

    reader = os.fork()
    if not reader:
        next(mapped(work, range(10**9), workers=3))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(reader, 0)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    ends = time.monotonic() + 10
    while any(map(_runs, workers)) and time.monotonic() < ends:
        time.sleep(0.01)
    assert len(workers) == 3 and not any(map(_runs, workers))


def _runs(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def test_processes_are_for_much_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.threading, "active_count", lambda: 1)
    monkeypatch.delitem(parallel.sys.modules, "torch", raising=False)
    assert workers_for(LARGE - 1) == 1
    assert workers_for(LARGE) == min(len(os.sched_getaffinity(0)), 8)
    monkeypatch.setattr(parallel.threading, "active_count", lambda: 2)
    assert workers_for(LARGE) == 1


def test_batches_hold_every_item_once() -> None:
    assert [*batches(range(5), 2)] == [[0, 1], [2, 3], [4]]


ROW = {"images": ["a.jpg", "b/b.jpg"], "type": "diff"}
TALK = [
    {"from": "human", "value": "Find <|object_ref_start|>the cup<|object_ref_end|> in image-1."},
    {"from": "gpt", "value": "It is in image-1: (1,2),(300,400)."},
]
ODD: list[Any] = [
    "no row",
    ROW,
    ROW | {"conversations": TALK[:1]},
    ROW | {"conversations": [*TALK[:1], {"from": "gpt", "value": "I see none."}]},
    ROW | {"conversations": [*TALK[:1], {"from": "gpt", "value": "(5,5),(5,5)"}]},
    ROW | {"conversations": TALK, "images": []},
]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("odd", [[], ODD, ODD[2:]])
def test_rows_are_converted_by_several_processes_as_by_one(
    tmp_path: Path, odd: list[Any], strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reground.data.convert._AT_ONCE", 2)
    rows = [ROW | {"conversations": TALK * (1 + number % 2)} for number in range(9)]
    rows[5:5] = odd
    one, several = (_converted(tmp_path, rows, strict, workers) for workers in (1, 3))
    assert one[1:] == several[1:]
    assert one[0] == several[0] or (strict and one[2])  # where nothing is written
    assert len(one[0]) >= 7


@pytest.mark.parametrize("rows", [["no row"], ODD[:2], ODD[2:3]])
def test_a_file_without_a_good_row_is_the_same_error(tmp_path: Path, rows: list[Any]) -> None:
    one, several = (_converted(tmp_path, rows, False, workers) for workers in (1, 2))
    assert one == several


def _converted(
    folder: Path, rows: Iterable[Any], strict: bool, workers: int
) -> tuple[list[Any], Tally, str]:
    write_text(folder / "rows.json", json.dumps([*rows]))
    tally, found, said = Tally(strict), [], ""
    options = {"workers": workers, "allow_missing_images": True}
    try:
        for row in converted(
            lambda sample: sample.to_json(),
            "mgrounding",
            folder / "rows.json",
            tally=tally,
            **options,
        ):
            found.append(row)
    except DataError as error:
        said = str(error)
    return found, tally, said


WRONG = ['[{"a": 1}, ]', '[{"a": 1} {"a": 2}]', '[{"a": 1}', "[]", "[] 1", '[{"a": 1}] 2',
         '[{"a": "\\ud800"}]', "[1, nul]", "[1}", "["]  # fmt: skip
RIGHT = ['[{"a": 1}]', " [1]", '[ 1 ,\n{"a": [2]}\t]\n', "[[1], 2]", '{"a": 1}\n\n{"a": 2}\n']


@pytest.mark.parametrize("text", [*WRONG, *RIGHT])
def test_a_list_is_read_part_by_part_as_in_one_piece(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "rows.json", text)

    def found(read: Callable[[Path], Any]) -> Any:
        try:
            return list(read(tmp_path / "rows.json")) or "holds no rows"
        except DataError as error:
            return str(error)

    assert str(found(read_json)) in str(found(rows_of))
    assert isinstance(found(rows_of), list) == (text in RIGHT)
