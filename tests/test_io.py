"""One reader of JSONL, one dialect of YAML, and writes that are whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from reground.errors import ConfigError, DataError
from reground.io import parse_yaml, read_jsonl, whole, write_text


def test_rows_end_at_line_feeds_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": "b\u2028c\x85d"}\r\n\n{"a": 2}'.encode())
    assert list(read_jsonl(path, dict)) == [{"a": "b\u2028c\x85d"}, {"a": 2}]


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff", b"[" * 100_000, rb'{"a": "\uD800"}', b"3"],
    ids=["cut off", "not UTF-8", "deep", "half a surrogate pair", "no object"],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*; mend the row"):
        list(read_jsonl(path, dict))


def test_half_of_a_surrogate_pair_is_told_from_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rb'{"a": "\ud83d\ude00"}')
    assert list(read_jsonl(path, dict)) == [{"a": "\U0001f600"}]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: [*a, *a]",
        "a: &a [*a]",
        "[" * 10_000,
    ],
    ids=["alias", "recursive", "deep"],
)
def test_yaml_that_grows_without_end_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(text, "train.yaml")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "file", "old")
    folder = tmp_path / "a" / "folder"
    with whole(folder) as partial:
        write_text(partial / "part", "old")
    for path in (tmp_path / "a" / "file", folder):
        with pytest.raises(ValueError, match="no more"), whole(path) as partial:
            partial.write_text("new")
            raise ValueError("no more")
    with whole(folder) as partial:
        write_text(partial / "other", "new")
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert [path.name for path in folder.iterdir()] == ["other"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["file", "folder"]
