from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.data.source import open_dataset, save_dataset
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import (
    Detection,
    ImageRef,
    Sample,
    Span,
    Target,
    digest,
    read_jsonl,
    write_jsonl,
)

IMAGES = (ImageRef("a.jpg", 640, 480), ImageRef("synth:count/0/7/1", 112, 112))


def sample(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": "row-1",
        "images": IMAGES,
        "question": "the mug — “left”",
        "targets": (Target(1, Box(1, 2, 30.5, 40, IMAGES[1].frame)),),
        "task": "referring",
        "target_image": 1,
    }
    return Sample(**fields | changes)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    images = tuple(
        ImageRef(f"{index}.png", *draw(st.tuples(st.integers(1, 5000), st.integers(1, 5000))))
        for index in range(draw(st.integers(1, 3)))
    )

    @st.composite
    def detections(draw: st.DrawFn) -> Detection:
        found = target()
        label, score = draw(st.none() | st.text()), draw(st.none() | st.floats(0, 1))
        return Detection(found.image, found.box, label, score)

    def target() -> Target:
        index = draw(st.integers(0, len(images) - 1))
        edges = draw(st.lists(st.floats(-10, 5000), min_size=4, max_size=4))
        return Target(index, Box(edges[0], edges[1], edges[2], edges[3], images[index].frame))

    question = draw(st.text())
    edges = sorted(draw(st.lists(st.integers(0, len(question)), min_size=4, max_size=4)))
    spans = (Span(*edges[:2], "phrase"), Span(*edges[2:], "box"))
    return Sample(
        id=draw(st.text(min_size=1)),
        images=images,
        question=question,
        spans=draw(st.sampled_from([(), spans])),
        targets=tuple(target() for _ in range(draw(st.integers(0, 2)))),
        task=draw(st.text()),
        target_image=draw(st.integers(0, len(images) - 1)),
        think=draw(st.none() | st.text()),
        difficulty=draw(st.none() | st.floats(0, 1)),
        strata=draw(st.dictionaries(st.text(), st.text(), max_size=2)),
        rethink=draw(st.none() | st.text()),
        tool_results=draw(st.none() | st.lists(detections(), max_size=2).map(tuple)),
    )


@given(samples())
def test_json_round_trip(row: Sample) -> None:
    assert Sample.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_no_tool_results_differ_from_an_empty_tool_result() -> None:
    assert Sample.from_json(sample(tool_results=()).to_json()).tool_results == ()
    assert Sample.from_json(sample().to_json()).tool_results is None


def test_file_round_trip_makes_paths_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    assert write_jsonl(path, [sample(), sample(id="row-2")]) == 2
    first, second = read_jsonl(path)
    assert [image.path for image in first.images] == [
        str(path.parent / "a.jpg"),
        "synth:count/0/7/1",
    ]
    assert (first.question, first.targets, second.id) == (
        sample().question,
        sample().targets,
        "row-2",
    )


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [sample()])

    def broken() -> Any:
        yield sample(id="new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert [row.id for row in read_jsonl(path)] == ["row-1"]


def test_an_empty_file_is_an_empty_set(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, []) == 0
    assert list(read_jsonl(path)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_image": 2}, "image index 2 with 2 images"),
        ({"targets": [{"image": 5, "box": [0, 0, 1, 1]}]}, "image 5, and there are 2"),
        ({"targets": [{"image": 0, "box": [0, 0, 1]}]}, r"box is \[0, 0, 1\]; expected four"),
        ({"targets": [{"image": 0, "box": [0, 0, 1, "wide"]}]}, "expected four finite"),
        ({"targets": [{"box": [0, 0, 1, 1]}]}, "'image' is missing"),
        ({"images": [], "targets": []}, "every sample needs an image"),
        (
            {"images": [{"path": "a.jpg", "width": 0, "height": 5}] * 2},
            "width is 0; expected a whole",
        ),
        ({"images": [{"path": "a.jpg", "width": 320.9, "height": 5}] * 2}, r"width is 320\.9"),
        ({"images": ["a.jpg"]}, r"images is \['a\.jpg'\]; expected a list of objects"),
        (
            {"targets": {"image": 0, "box": [0, 0, 1, 1]}},
            "targets is .*; expected a list of objects",
        ),
        ({"targets": [[0, 0, 1, 1]]}, "targets is .*; expected a list of objects"),
        ({"id": None}, "id is None; expected a text"),
        ({"question": ["a"]}, "question is .*; expected a text"),
        ({"target_image": 0.5}, r"target_image is 0\.5; expected a whole number"),
        ({"difficulty": 7}, "difficulty is 7; expected a number from 0 to 1"),
        ({"difficulty": True}, "difficulty is True; expected a number"),
        ({"strata": ["a"]}, "strata is .*; expected an object"),
        ({"qestion": "?"}, "unknown field 'qestion'"),
        ({"question": ...}, "'question' is missing"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    row = {key: value for key, value in (sample().to_json() | change).items() if value is not ...}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(sample().to_json()) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        list(read_jsonl(path))
    assert f"{path}:3" in str(caught.value)


def test_what_is_no_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{not json}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        list(read_jsonl(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_jsonl(tmp_path / "absent.jsonl"))


def test_indices_of_a_sample_are_checked() -> None:
    with pytest.raises(DataError, match="row-1"):
        sample(target_image=-1)
    with pytest.raises(DataError, match="image index 2"):
        sample(targets=(Target(2, Box(0, 0, 1, 1, IMAGES[0].frame)),))


def test_boxes_are_those_of_the_targets() -> None:
    assert sample().boxes == (Box(1, 2, 30.5, 40, IMAGES[1].frame),)
    assert sample(targets=()).boxes == ()


def test_paths_through_a_linked_folder_lead_to_the_same_images(tmp_path: Path) -> None:
    """Data read by way of a link to its folder, and written there again."""
    real, elsewhere = tmp_path / "deep" / "er" / "runs", tmp_path / "checkout"
    (real / "data").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "runs").symlink_to(real)
    (tmp_path / "deep" / "photo.jpg").write_bytes(b"")
    written = elsewhere / "runs" / "data" / "one.jsonl"
    photo = ImageRef(str(tmp_path / "deep" / "photo.jpg"), 640, 480)
    target = Target(0, Box(1, 2, 30, 40, photo.frame))
    save_dataset(written, [sample(images=(photo,), target_image=0, targets=(target,))])
    save_dataset(elsewhere / "runs" / "again.jsonl", open_dataset(str(written)))
    (again,) = open_dataset(str(elsewhere / "runs" / "again.jsonl"))
    assert Path(again.images[0].path).exists()


@pytest.mark.parametrize("field", ["targets", "tool_results"])
def test_a_box_in_another_frame_is_refused(field: str) -> None:
    kind = {"targets": Target, "tool_results": Detection}[field]
    thousand = kind(1, Box(1, 2, 30, 40, IMAGES[0].frame))
    with pytest.raises(DataError, match=r"a box of images\[1\] is in .*convert it with \.to\(\)"):
        sample(**{field: (thousand,)})


@pytest.mark.parametrize(
    "spans", [[(3, 2)], [(0, 99)], [(-1, 2)], [(4, 6), (0, 2)], [(0, 3), (2, 5)]]
)
def test_spans_lie_in_the_question_in_order(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match=r"spans .* expected \[start, end, kind\] in order, inside"):
        sample(spans=tuple(Span(*edges, "phrase") for edges in spans))


def test_a_row_says_what_its_question_marks() -> None:
    row = sample(spans=(Span(4, 7, "phrase"),)).to_json()
    assert row["spans"] == [[4, 7, "phrase"]] and "spans" not in sample().to_json()
    assert digest([Sample.from_json(row)]) != digest([sample()])
    with pytest.raises(DataError, match="unknown kind of span 'phrases'; did you mean 'phrase'"):
        Sample.from_json(row | {"spans": [[4, 7, "phrases"]]})
    with pytest.raises(DataError, match="spans is 4; expected"):
        Sample.from_json(row | {"spans": [4]})
