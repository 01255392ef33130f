"""Whatever a source holds: a conversion writes what the validator takes, or says a sentence."""

from __future__ import annotations

import errno
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from operator import sub
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from reground.cli import app
from reground.data.convert import FORMATS
from reground.data.convert.boxes import READERS
from reground.data.convert.writing import write
from reground.data.export import WRITERS, export
from reground.data.source import open_dataset
from reground.data.validate import validate
from reground.errors import ConfigError, DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.io import locked
from test_convert_tools import HEIGHT, TOOLS, WIDTH, picture

many = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
numbers = st.one_of(
    st.floats(-500, 800),
    st.floats(),
    st.integers(-3, 1000),
    st.sampled_from([0, -0.0, 1e308, -1e308, 1e-320, 10**400, 2**63, 27, 28, WIDTH, HEIGHT]),
)
names = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["a.png", "b.png", "./a.png", "..", "/", "a.png\0", "<image>", "cup", "\u2028"]
    ),
)
values = st.one_of(
    numbers, names, st.none(), st.booleans(), st.sampled_from([[], {}, [[]], [None], {"x": 1}])
)


def places(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a JSON."""
    if so_far:
        yield so_far
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*so_far, key))


def spoil_json(path: Path, data: st.DataObject) -> None:
    """Some values are others now, or gone."""
    content = json.loads(path.read_text())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from([*places(content)]))
        around = content
        for key in place[:-1]:
            around = around[key]
        if data.draw(st.integers(0, 4)):
            around[place[-1]] = data.draw(values)
        else:
            del around[place[-1]]
        if not content:
            break
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")


def spoil_text(path: Path, data: st.DataObject) -> None:
    """Some numbers and words are others now, or gone."""
    text = path.read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        words = [*re.finditer(r"[-\w.]+", text)]
        if words:
            word = data.draw(st.sampled_from(words))
            new = data.draw(st.one_of(numbers.map(str), names, st.just("")))
            text = text[: word.start()] + new + text[word.end() :]
    path.write_text(text, encoding="utf-8", errors="replace")


@pytest.mark.parametrize(("name", "made"), TOOLS, ids=[made.__name__ for _, made in TOOLS])
@many
@given(data=st.data())
def test_no_reader_writes_a_row_that_the_validator_sets_aside(
    tmp_path: Path, name: str, made: Any, data: st.DataObject
) -> None:
    folder = tmp_path / "source"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    picture(folder / "images" / "a.png")
    source = made(folder)
    spoilt = [path for path in folder.rglob("*.*") if path.suffix != ".png"]
    for path in spoilt:
        (spoil_json if path.suffix == ".json" else spoil_text)(path, data)
    out = tmp_path / "out.jsonl"
    out.unlink(missing_ok=True)
    try:
        _, tally = write(name, source, out=out, views=data.draw(st.sampled_from([0, 2])))
    except DataError as error:
        assert not out.exists() and str(error).count("\n") == 0
        return
    for what, found in (("photo", "photos"), ("box", "boxes")):
        aside = sum(each.what == what for each in tally.aside)
        assert 0 <= tally.kept[found] <= tally.found[found] - aside
    if out.exists():
        assert not validate(out).reasons


# --- there and back -----------------------------------------------------------------------------

edges = st.tuples(
    st.floats(0, WIDTH - 20), st.floats(0, HEIGHT - 20), st.floats(4, 200), st.floats(4, 100)
)
labels = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="<>"), min_size=1, max_size=12
)


@many
@given(
    objects=st.dictionaries(labels, st.lists(edges, min_size=1, max_size=4), min_size=1, max_size=4)
)
@pytest.mark.parametrize("name", ["coco", "yolo", "label_studio"])
def test_any_boxes_go_there_and_back(
    tmp_path: Path, name: str, objects: dict[str, list[tuple[float, ...]]]
) -> None:
    picture(tmp_path / "a.png")
    image = ImageRef(str(tmp_path / "a.png"), WIDTH, HEIGHT)
    samples = [
        Sample(
            str(number),
            (image,),
            f"every {label}",
            tuple(
                Target(0, Box(x, y, min(x + w, WIDTH), min(y + h, HEIGHT), image.frame))
                for x, y, w, h in dict.fromkeys(boxes)
            ),
            "t",
            strata={"class": label},
        )
        for number, (label, boxes) in enumerate(objects.items())
    ]
    place = tmp_path / ("yolo" if name == "yolo" else "labels.json")
    assert not {*export(name, samples, place)} - {"questions, as class names"}
    questions = tmp_path / "q.yaml"
    rules = {label: {"unique": f"every {label}", "all": f"every {label}"} for label in objects}
    questions.write_text(json.dumps(rules, ensure_ascii=False))
    _, tally = write(name, place, out=tmp_path / "o.jsonl", questions=questions)
    assert not tally.aside
    again = {row.strata["class"]: row for row in open_dataset(str(tmp_path / "o.jsonl"))}
    assert again.keys() == objects.keys()
    for sample in samples:
        found = {box.xyxy for box in again[sample.strata["class"]].boxes}
        wanted = {box.xyxy for box in sample.boxes}
        for these, others in ((found, wanted), (wanted, found)):
            for one in these:
                assert any(max(map(abs, map(sub, one, other))) < 0.5 for other in others), one
        twice = "stand twice" in " ".join(tally.table())  # in the six decimals of YOLO
        assert len(found) == len(wanted) or (twice and len(found) < len(wanted))


# --- what stops a conversion --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FORMATS, "auto"])
@pytest.mark.parametrize("kind", ["empty folder", "empty file", "nothing", "text", "folder of one"])
def test_no_source_is_a_sentence(tmp_path: Path, name: str, kind: str) -> None:
    source = tmp_path / "source"
    if kind.startswith(("empty folder", "folder")):
        source.mkdir()
    elif kind != "nothing":
        source.write_text("" if kind == "empty file" else "just a text\n")
    if kind == "folder of one":
        picture(source / "a.png")
    with pytest.raises(DataError) as caught:
        write(name, source, out=tmp_path / "o.jsonl")
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)
    assert {*tmp_path.iterdir()} <= {source}


@pytest.mark.parametrize(
    ("name", "hint"), [("COCO", "coco"), ("cocoo", "coco"), ("label-studio", "label_studio")]
)
def test_formats_named_wrongly(tmp_path: Path, name: str, hint: str) -> None:
    command = ["data", "convert", name, str(tmp_path), "--out", str(tmp_path / "o")]
    assert f"did you mean '{hint}'?" in str(CliRunner().invoke(app, command).exception)


@pytest.mark.parametrize(("name", "made"), TOOLS, ids=[made.__name__ for _, made in TOOLS])
def test_two_conversions_into_one_file(tmp_path: Path, name: str, made: Any) -> None:
    picture(tmp_path / "source" / "images" / "a.png")
    source = made(tmp_path / "source")
    out = tmp_path / "o.jsonl"
    for other, options in ((out, {}), (tmp_path / "o.val.jsonl", {"split_by": "0.5,0.5"})):
        with locked(other), pytest.raises(DataError, match="another process is writing it"):
            write(name, source, out=out, **options)
    write(name, source, out=out)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "o.jsonl"}
    if source.is_file():
        with pytest.raises(ConfigError, match="is what is converted"):
            write(name, source, out=source)


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / "source" / "a.png")
    source = dict(TOOLS)["coco"](tmp_path / "source")
    with pytest.raises(OSError, match=r".*") as caught:
        write("coco", source, out=tmp_path / "source")
    assert caught.value.errno == errno.EISDIR
    write("coco", source, out=tmp_path / "o.jsonl")
    samples = open_dataset(str(tmp_path / "o.jsonl"))
    for name in WRITERS:
        with pytest.raises((OSError, DataError)):
            export(name, samples, tmp_path / "source")
    assert (tmp_path / "source" / "a.png").exists()


_FULL = """
import json, sys
from pathlib import Path
from reground.data.convert.writing import write
from reground.data.export import export
from reground.data.source import open_dataset
for kind, name, source, out in json.loads(sys.argv[1]):
    try:
        if kind == "write":
            write(name, Path(source), out=Path(out))
        else:
            export(name, open_dataset(source), Path(out))
        print("written")
    except OSError as error:
        print(error.filename, error.strerror, sep="|")
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """No file may grow past 10 bytes: every write fails as on a full disk."""
    jobs: list[tuple[str, str, str, str]] = []
    for number, (name, made) in enumerate(TOOLS):
        picture(tmp_path / str(number) / "images" / "a.png")
        jobs.append(
            ("write", name, str(made(tmp_path / str(number))), f"{tmp_path}/{number}.jsonl")
        )
    good = tmp_path / "good.jsonl"
    write("coco", Path(jobs[0][2]), out=good)
    jobs += [("export", name, str(good), str(tmp_path / f"out {name}")) for name in WRITERS]
    before = {*tmp_path.iterdir()}
    ended = subprocess.run(
        [sys.executable, "-c", _FULL, json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)),
    )
    assert ended.stdout.splitlines() == [f"{out}|File too large" for *_, out in jobs], ended.stderr
    assert {*tmp_path.iterdir()} == before


def test_all_readers_are_tried() -> None:
    """But that of Hugging Face, whose files are written by its own package (test_hub_objects)."""
    assert {name for name, _ in TOOLS} == {*READERS} - {"hub_objects"}
