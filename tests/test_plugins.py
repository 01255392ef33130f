"""A user's own code by its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from reground.errors import ConfigError
from reground.plugins import from_path


def test_an_object_of_a_file_is_found_and_its_file_runs_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("made = []\ndef centre():\n    return 0.5\n")
    assert from_path(f"{file}:centre")() == 0.5
    assert from_path(f"{file}:made") is from_path(f"{file}:made")


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("", "centre", "expected FILE.py:NAME"),
        ("", "{file}:no name", "expected FILE.py:NAME"),
        ("", "nowhere.py:centre", "no such file"),
        ("def center(): ...\n", "{file}:centre", "did you mean 'center'"),
        ("1 / 0\n", "{file}:centre", "ZeroDivisionError"),
        ("import no_such_module\n", "{file}:centre", "no_such_module"),
        ("def f(:\n", "{file}:centre", "SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_path_is_one_sentence(
    tmp_path: Path, text: str, spec: str, message: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        from_path(spec.format(file=file))
