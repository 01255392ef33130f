"""Data of strangers: with --confine nothing outside the folder is opened, by any verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from files import photo, read_rows, write
from reground.cli import app
from reground.data.confine import CONFINE, confined_to
from reground.data.images import exists, load
from reground.data.source import open_dataset
from reground.data.validate import Reason
from reground.errors import ConfigError, DataError, UserError

_opened: list[str] = []
_listening = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], str):
        _opened.append(os.path.realpath(arguments[0]))


sys.addaudithook(_hear)


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Path]:
    """A stranger's folder beside our own photo, which no test may open."""
    global _listening
    theirs, secret = tmp_path / "theirs", tmp_path / "secret.png"
    photo(secret)
    photo(tmp_path / "theirs_too" / "secret.png")
    photo(theirs / "good.png")
    (theirs / "link.png").symlink_to(secret)
    (theirs / "away").symlink_to(tmp_path)
    (theirs / "inside.png").symlink_to("good.png")
    _opened.clear()
    _listening = True
    yield theirs
    _listening = False
    ours = (str(tmp_path / "secret.png"), str(tmp_path / "theirs_too"))
    assert not [path for path in _opened if path.startswith(ours) or path.endswith("/environ")]


ATTACKS: list[Callable[[Path], str]] = [
    lambda f: "../secret.png",
    lambda f: str(f.parent / "secret.png"),
    lambda f: "link.png",
    lambda f: "away/secret.png",
    lambda f: "away/theirs/../secret.png",
    lambda f: "none/../../secret.png",
    lambda f: "../theirs_too/secret.png",
    lambda f: "../secret.png#view=0,0,200,100,h",
    lambda f: f"//{f.parent}/secret.png",
    lambda f: "/dev/zero",
    lambda f: "/proc/self/environ",
    lambda f: f"file:{f.parent}/secret.png",
    lambda f: f"file://{f.parent}/secret.png",
    lambda f: "https://127.0.0.1/secret.png",
    lambda f: "~/secret.png",
    lambda f: "..\\secret.png",
    lambda f: "../" * 900 + "secret.png",
    lambda f: "\0../secret.png",
]


def row(path: str, name: str = "theirs-1", *, sized: bool = True) -> dict[str, Any]:
    sides = {"width": 200, "height": 100} if sized else {}
    return {
        "id": name,
        "images": [{"path": path} | sides],
        "question": "the cup",
        "targets": [{"image": 0, "box": [10, 20, 110, 80]}],
        "task": "test",
    }


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    import json

    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def reground(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_row_that_leads_outside_is_set_aside(
    theirs: Path, attack: Callable[[Path], str], sized: bool
) -> None:
    path = attack(theirs)
    rows = write_rows(theirs, row(path, sized=sized), row("inside.png", "theirs-2"))
    done = reground("data", "validate", rows, "--confine", theirs)
    assert done.exit_code == 1 and "1 of 2 rows are good" in done.output
    (aside,) = read_rows(theirs / "rows.quarantine.jsonl")
    detail = aside["reasons"][0]["detail"]
    assert aside["line"] == 1 and "\n" not in detail and len(detail) < 500


@pytest.mark.parametrize("path", ["../secret.png", "link.png", "away/secret.png"])
def test_every_verb_refuses_it_in_a_sentence(
    theirs: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_rows(theirs, row(path))
    reground("data", "validate", rows, "--confine", theirs)
    (aside,) = read_rows(theirs / "rows.quarantine.jsonl")
    assert aside["reasons"][0]["reason"] == Reason.CONFINED
    model = theirs.parent / "none"
    shown = reground("data", "show", rows, "--out", theirs / "sheet.png", "--confine", theirs)
    assert shown.exit_code == 0 and "leads outside" in caplog.text  # a grey field in its place
    for words in (
        ("predict", theirs / path, "the cup", "--model", model),
        ("train", write_config(theirs.parent, rows), "--out", theirs.parent / "run"),
    ):
        done = reground(*words, "--confine", theirs)
        assert isinstance(done.exception, UserError) and "leads outside" in str(done.exception)
        assert Path(path).name in str(done.exception)
    assert "theirs-1: " in str(done.exception)  # a run names the row as well


def write_config(folder: Path, rows: Path) -> Path:
    path = folder / "train.yaml"
    path.write_text(f"method: sft\nmodel: tiny\nsteps: 1\ndata: [{{mix: {{{rows}: 1.0}}}}]\n")
    return path


def test_eval_leaves_it_unanswered(theirs: Path) -> None:
    rows = write_rows(theirs, row("link.png"), row("good.png", "theirs-2"))
    out = theirs.parent / "results"
    done = reground("eval", "--data", rows, "--out", out, "--max-tokens", 4, "--confine", theirs)
    assert done.exit_code == 0
    rows_out = read_rows(out / "predictions.jsonl")
    first, second = sorted(rows_out, key=lambda own: str(own["sample"]["id"]))
    assert "link.png: leads outside" in first["error"] and not second.get("error")
    assert CONFINE not in os.environ


def coco(folder: Path, *files: str) -> Path:
    return write(
        folder / "coco.json",
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(files)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 20, 30, 40]}
                for n in range(len(files))
            ],
            "categories": [{"id": 1, "name": "cup"}],
        },
    )


@pytest.mark.parametrize("attack", ATTACKS[:6])
def test_a_conversion_sets_it_aside(theirs: Path, attack: Callable[[Path], str]) -> None:
    path = attack(theirs)
    source, out = coco(theirs, path, "good.png"), theirs / "out.jsonl"
    done = reground("data", "convert", "coco", source, "--out", out, "--confine", theirs)
    assert done.exit_code == 0, done.output
    assert [each["images"][0]["path"] for each in read_rows(out)] == ["good.png"]
    (aside,) = read_rows(theirs / "out.rejected.jsonl")
    assert any(name in aside["reason"] for name in ("secret.png", "link.png"))


def test_annotations_are_confined_as_photos_are(theirs: Path) -> None:
    secret = coco(theirs.parent, "good.png")
    (theirs / "link.json").symlink_to(secret)
    _opened.clear()
    for source in (theirs / "link.json", secret):
        done = reground(
            "data", "convert", "coco", source, "--out", theirs / "o.jsonl", "--confine", theirs
        )
        assert isinstance(done.exception, DataError) and "leads outside" in str(done.exception)
    assert str(secret) not in _opened


def test_a_data_set_of_the_hub_is_refused(theirs: Path) -> None:
    words = ("data", "convert", "hub", theirs, "--images", theirs, "--out", theirs / "o.jsonl")
    done = reground(*words, "--confine", theirs)
    assert isinstance(done.exception, DataError) and "--confine cannot" in str(done.exception)


def test_the_folder_may_itself_be_a_link(theirs: Path) -> None:
    (theirs.parent / "alias").symlink_to(theirs)
    for folder, path in ((theirs.parent / "alias", theirs), (theirs, theirs.parent / "alias")):
        with confined_to(folder):
            assert load(str(path / "inside.png")).size == (200, 100)
            assert exists(str(path / "good.png")) and not exists(str(path / "gone.png"))


def test_without_the_option_rows_name_what_they_like(tmp_path: Path) -> None:
    photo(tmp_path / "secret.png")
    (tmp_path / "theirs").mkdir()
    rows = write_rows(tmp_path / "theirs", row("../secret.png", sized=False))
    assert load(open_dataset(str(rows))[0].images[0]).size == (200, 100)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    done = reground("data", "validate", "x.jsonl", "--confine", tmp_path / "a.png")
    assert isinstance(done.exception, ConfigError) and "no such folder" in str(done.exception)
