"""Exports: what is written for whom, what reviews change, and that training takes it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from files import read_rows
from reground.config import load
from reground.data.images import View
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError, RunError
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.protocols.prompts import load_profile
from reground.protocols.protocol import get_protocol
from reground.teacher.ask import ask, open_store
from reground.teacher.card import write_card
from reground.teacher.export import ExportedChains, export
from reground.teacher.judge import judge
from reground.teacher.rows import Pick, Review
from reground.teacher.settings import TeachConfig
from reground.teacher.store import Store
from reground.teacher.verify import verify


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two questions about one photo ("rec"), one about two ("pair"), without chains."""
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    Image.new("RGB", (100, 80), "navy").save(folder / "photos/ä one.png")
    Image.new("RGB", (40, 80), "olive").save(folder / "photos/two.jpg")
    one = ImageRef(str(folder / "photos/ä one.png"), 100, 80)
    two = ImageRef(str(folder / "photos/two.jpg"), 40, 80)
    left = Target(0, Box(10, 8, 50, 40, one.frame))
    right = Target(1, Box(20, 8, 40, 40, two.frame))
    rows = [
        Sample("a", (one,), "the cup", (left,), "rec"),
        Sample("b", (one,), "where is the plate?", (left,), "rec"),
        Sample("c", (one, two), "the cup. find it in the second image", (right,), "pair", 1),
    ]
    save_dataset(folder / "val.jsonl", rows)
    return folder / "val.jsonl"


def settings(data: Path | str, folder: Path, *overrides: str) -> TeachConfig:
    fixed = [f"data={data}", f"store={folder / 'chains.db'}", f"export.out={folder / 'out'}"]
    return load(TeachConfig, None, [*fixed, *overrides])


def taught(config: TeachConfig) -> Store:
    """The database with a pick for every sample."""
    store = open_store(config)
    ask(store, config)
    verify(store, config.verify)
    judge(store, config)
    return store


def exported(data: Path | str, folder: Path, *overrides: str) -> ExportedChains:
    config = settings(data, folder, *overrides)
    with taught(config) as store:
        return export(store, config.export)


def test_photos_get_chains_from_their_boxes(data: Path, tmp_path: Path) -> None:
    done = exported(data, tmp_path, "ask.n=1")
    assert done.rows == {"sft.jsonl": 3, "sharegpt.jsonl": 3} and done.left_out == {}
    rows = open_dataset(str(tmp_path / "out/sft.jsonl"))
    assert [row.think for row in rows] == [
        "the cup is large and blue, at the top left.",
        "it is large and blue, at the top left.",
        "in the second image it is large and yellow, at the top right.",
    ]
    assert [row.boxes for row in rows] == [row.boxes for row in open_dataset(str(data))]
    assert all(Path(image.path).is_file() for row in rows for image in row.images)
    assert not (tmp_path / "out/images").exists()


def test_sharegpt_is_what_llama_factory_reads(data: Path, tmp_path: Path) -> None:
    exported(data, tmp_path, "ask.n=1")
    out = tmp_path / "out"
    (described,) = json.loads((out / "dataset_info.json").read_text()).values()
    rows = read_rows(out / described["file_name"])
    assert described["formatting"] == "sharegpt"
    roles, texts = described["tags"]["role_tag"], described["tags"]["content_tag"]
    for row, sample in zip(rows, open_dataset(str(data)), strict=True):
        user, assistant = row[described["columns"]["messages"]]
        paths = row[described["columns"]["images"]]
        assert (user[roles], assistant[roles]) == ("user", "assistant")
        assert user[texts].count("<image>") == len(paths) == len(sample.images)
        assert "<image>" not in assistant[texts]
        for path, image in zip(paths, sample.images, strict=True):  # in order
            assert os.path.samefile(out / path, image.path)
        asked = load_profile("univg_r1").render(question=sample.question, num_images=1)
        assert user[texts] == "<image>" * len(paths) + asked
        target = sample.images[sample.target_image]
        size = EncodedSize(target.width, target.height, 28, 28)
        answer = get_protocol("univg_r1").read(assistant[texts], size)
        assert answer.well_formed and answer.boxes == sample.boxes


def test_the_datasets_library_reads_the_rows(data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    exported(data, tmp_path)
    path = str(tmp_path / "out/sharegpt.jsonl")
    loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path))
    assert loaded.column_names == ["messages", "images"] and len(loaded) == 3


def test_simple_rows_without_reasoning_get_a_file_of_their_own(data: Path, tmp_path: Path) -> None:
    done = exported(data, tmp_path, "export.direct_tasks=[rec, pair]")
    assert done.notes == ["export.direct_tasks: pair: no row about one image"]
    assert done.rows == {"sft.jsonl": 1, "sft_direct.jsonl": 2, "sharegpt.jsonl": 3}
    out = tmp_path / "out"
    direct = open_dataset(str(out / "sft_direct.jsonl"))
    assert [(row.id, row.think) for row in direct] == [("a", None), ("b", None)]
    assert [row.id for row in open_dataset(str(out / "sft.jsonl"))] == ["c"]  # of two images
    user, assistant = read_rows(out / "sharegpt.jsonl")[1]["messages"]
    direct_asked = load_profile("univg_r1_direct").render(question="the cup", num_images=1)
    assert user["content"] == "<image>" + direct_asked
    assert assistant["content"] == "(100,100),(500,500)"
    done = exported(data, tmp_path)  # without them, the file is gone
    assert done.notes == [
        "removed sft_direct.jsonl of an earlier export: now there is no row for it"
    ]
    assert "sft_direct.jsonl" not in done.rows and not (out / "sft_direct.jsonl").exists()


def test_an_unknown_direct_task_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sample of 'recs'; did you mean 'rec'"):
        exported(data, tmp_path, "export.direct_tasks=[recs]")


def test_scenes_views_and_turned_photos_are_drawn_where_copies_are_asked_for(
    tmp_path: Path,
) -> None:
    turned = Image.new("RGB", (60, 30), "red")
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (100, 80), "navy").save(tmp_path / "photo.png")
    view = View(10, 10, 50, 70, mirrored=True, upside_down=False)
    paths = {
        str(tmp_path / "photo.png"): (100, 80),
        str(tmp_path / "turned.jpg"): (30, 60),
        view.path_of(str(tmp_path / "photo.png")): (40, 60),
        "synth:diff/3/0/1": (112, 112),
    }
    images = [ImageRef(path, *size) for path, size in paths.items()]
    rows = [
        Sample(f"s{n}", (image,), "the cup", (Target(0, Box(2, 2, 15, 15, image.frame)),), "t")
        for n, image in enumerate(images)
    ]
    rows.append(replace(rows[0], id="again"))  # the same photo is copied once
    save_dataset(tmp_path / "rows.jsonl", rows)
    plain = exported(tmp_path / "rows.jsonl", tmp_path)
    assert plain.rows == {"sft.jsonl": 5, "sharegpt.jsonl": 2}
    ((reason, count),) = plain.left_out.items()
    assert count == 3 and "--copy-images, or the setting export.copy_images=true" in reason
    whole = exported(tmp_path / "rows.jsonl", tmp_path, "export.copy_images=true")
    assert whole.rows == {"sft.jsonl": 5, "sharegpt.jsonl": 5} and whole.left_out == {}
    (tmp_path / "out").rename(tmp_path / "moved")  # it stands by itself
    files = sorted((tmp_path / "moved/images").iterdir())
    assert len(files) == 4
    for row, shared in zip(
        open_dataset(str(tmp_path / "moved/sft.jsonl")),
        read_rows(tmp_path / "moved/sharegpt.jsonl"),
        strict=True,
    ):
        with Image.open(tmp_path / "moved" / shared["images"][0]) as opened:
            assert opened.size == (row.images[0].width, row.images[0].height)
            assert opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
    assert (tmp_path / "photo.png").read_bytes() in [file.read_bytes() for file in files]


def test_reviews_are_heard(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path)
    with taught(config) as store:
        for sample, reviewer, decision in [
            ("a", "eva", "accept"),
            ("a", "ben", "edit"),
            ("b", "eva", "reject"),
            ("b", "ben", "accept"),
            ("c", "eva", "reject"),
            ("c", "eva", "undo"),
        ]:
            text = "The cup has a handle." if decision == "edit" else None
            add_review(store, sample, reviewer, decision, text)
        done = export(store, config.export)
        card = write_card(store, done).read_text()
    rows = {row.id: row.think for row in open_dataset(str(tmp_path / "out/sft.jsonl"))}
    assert set(rows) == {"a", "c"} and rows["a"] == "The cup has a handle."
    assert done.left_out == {"samples rejected by a reviewer": 1}
    assert "| accepted by people | 0.0 % (0.0 to 65.8; 0 of 2) |" in card
    assert "| edited, rejected by people | 1, 1 |" in card
    assert "| agreement of ben, eva | 0.0 % of 2 chains, kappa" in card


def add_review(store: Store, sample: str, reviewer: str, decision: Any, text: str | None) -> None:
    pick = store.entry(sample).pick
    assert pick is not None
    store.add_review(
        Review(sample=sample, call=pick.call, reviewer=reviewer, decision=decision, text=text)
    )


def test_a_review_of_a_chain_that_is_the_pick_no_more_does_not_count(
    data: Path, tmp_path: Path
) -> None:
    config = settings(data, tmp_path)
    with taught(config) as store:
        add_review(store, "a", "eva", "reject", None)
        add_review(store, "b", "eva", "edit", "The plate is white.")
        for name in "ab":
            item = store.entry(name)
            other = next(c for c in item.chains if item.pick and c.call.id != item.pick.call)
            store.set_pick(Pick(sample=name, call=other.call.id, rule="judge"))
        export(store, config.export)
    rows = {row.id: row.think for row in open_dataset(str(tmp_path / "out/sft.jsonl"))}
    assert set(rows) == {"a", "b", "c"} and rows["b"] != "The plate is white."


def test_what_cannot_be_exported_is_one_sentence(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path)
    with open_store(config) as store:
        with pytest.raises(RunError, match="holds no chain yet; run `reground teach ask` first"):
            export(store, config.export)
        ask(store, config)
        verify(store, config.verify)
        with pytest.raises(DataError, match=r"a pick: 3\); run `reground teach judge` first"):
            export(store, config.export)
        judge(store, config)
        (data.parent / "photos").rename(data.parent / "elsewhere")
        with pytest.raises(DataError, match=r"ä one.png: no such image, .* put the images back"):
            export(store, config.export)
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(ConfigError, match=r"chains.db is a file, expected a folder"):
        exported(data, tmp_path, f"export.out={tmp_path / 'chains.db'}")


def test_a_question_with_a_placeholder_is_refused(data: Path, tmp_path: Path) -> None:
    rows = [replace(row, question="<image> the cup") for row in open_dataset(str(data))]
    save_dataset(data, rows)
    with pytest.raises(DataError, match="image placeholder in the question"):
        exported(data, tmp_path)
    assert not (tmp_path / "out/sharegpt.jsonl").exists()


def test_the_card_counts_and_hashes(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path, "export.direct_tasks=[rec]")
    with taught(config) as store:
        item = store.entry("a")
        store.drop_pick("c")
        for chain in item.chains[1:]:
            assert chain.finding
            store.set_finding(replace(chain.finding, ok=False, reason="leak", detail="x"))  # type: ignore[arg-type]
        done = export(store, replace(config.export, direct_tasks=("pair",)))
        card = write_card(store, done).read_text(encoding="utf-8")
        digest = store.meta()["digest"]
        sha256 = store.calls(stage="ask")[0].prompt_sha256
    assert f"| digest of the samples | `{digest}` |" in card
    assert "| verified with | max_repeated=0.5 max_words=400 min_iou=0.5 min_words=5 |" in card
    assert "| chains verified | 77.8 % (45.3 to 93.7; 7 of 9) |" in card
    assert "| samples with a verified chain | 100.0 % (43.9 to 100.0; 3 of 3) |" in card
    for name, rows in done.rows.items():
        hashed = hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
        assert f"| `{name}` | {rows} | `{hashed}` |" in card
    assert "picked | leak |" in card and "| rec | 2 | 6 | 4 | 2 | 2 | 2 |" in card
    assert f"| ask | embedded | `{sha256[:12]}` | 9 | 0 | 9 | 0 | 0 | 0.0000 |" in card
    assert "- samples without a pick: 1" in card
    assert "nobody has looked" in card


def test_training_takes_the_export(tmp_path: Path) -> None:
    from reground.training.run import train
    from reground.training.settings import TrainConfig

    done = exported(
        "[synth:referring,synth:diff]", tmp_path, "limit=3", "export.direct_tasks=[referring]"
    )
    assert done.rows == {"sft.jsonl": 3, "sft_direct.jsonl": 3}
    mix = json.dumps({str(tmp_path / "out" / name): 1.0 for name in done.rows})
    config = load(TrainConfig, None, ["method=sft", f"data=[{{mix: {mix}}}]", "steps=2"])
    run = train(replace(config, batch_size=2), tmp_path / "run")
    losses = [row["sft/nll"] for row in read_rows(run.metrics)]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
