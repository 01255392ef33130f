"""Our rows in data sets of Hugging Face: out and in again without loss, and streamed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reground.data import arrow
from reground.data.arrow import write
from reground.data.images import load
from reground.data.source import open_dataset, read_dataset, save_dataset
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Span, Target, content
from reground.runs import RunDir
from reground.training.checkpoint import checkpoints
from reground.training.run import train
from worlds import World, assert_same_bytes

datasets = pytest.importorskip("datasets")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """A photo lying on its side by EXIF and a view of it, a scene, every field, no target."""
    turned = Image.effect_noise((40, 30), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "photo.jpg", exif=exif)
    photo = ImageRef(str(tmp_path / "photo.jpg"), 30, 40)
    view = ImageRef(f"{photo.path}#view=0,0,20,20,h", 20, 20)
    box = Box(1.25, 2, 3, 4, photo.frame)
    full = Sample(
        "a",
        (view, photo),
        "den <röda> $1",
        (Target(1, box),),
        "rec",
        target_image=1,
        think="Links.",
        rethink="Doch.",
        difficulty=0.5,
        strata={"class": "cup"},
        tool_results=(Detection(1, box, "cup", 0.25),),
        protocol="think",
        spans=(Span(0, 3, "phrase"),),
    )
    (scene,) = read_dataset("synth:referring", limit=1)
    return [full, Sample("b", (photo,), "nothing", (), "rec"), scene]


def pixels(samples: list[Sample]) -> list[bytes]:
    return [load(image).tobytes() for sample in samples for image in sample.images]


def plain(sample: Sample) -> Any:
    return sample.to_json(named=lambda _: "") | {"images": [str(i.width) for i in sample.images]}


def test_arrow_folders_lose_nothing(samples: list[Sample], tmp_path: Path) -> None:
    assert write(samples, tmp_path / "out") == 3
    back = read_dataset(f"datasets:{tmp_path / 'out'}")
    assert [*map(plain, back)] == [*map(plain, samples)]
    assert pixels(back) == pixels(samples)
    assert back[0].images[1] == back[1].images[0]  # one photo, for errors that cluster by it
    kinds = datasets.load_from_disk(str(tmp_path / "out")).features
    assert kinds["images"] == datasets.List(datasets.Image())
    write(back, tmp_path / "again")
    assert pixels(read_dataset(f"datasets:{tmp_path / 'again'}")) == pixels(samples)
    with pytest.raises(DataError, match="is no data set"):
        write(samples, tmp_path)
    (tmp_path / "photo.jpg").unlink()
    with pytest.raises(DataError, match=r"photo\.jpg"):
        write(samples, tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_rows_are_read_by_load_dataset(samples: list[Sample], tmp_path: Path) -> None:
    save_dataset(tmp_path / "rows.jsonl", samples)
    table = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "rows.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "c"),
    )
    table.to_json(str(tmp_path / "back.jsonl"))
    back = read_dataset(str(tmp_path / "back.jsonl"), sound=False)
    assert content(back) == content(read_dataset(str(tmp_path / "rows.jsonl"), sound=False))


def test_a_stream_is_read_forwards_and_mixed_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "SHUFFLED", 8)
    monkeypatch.setattr(arrow, "KEPT", 16)
    scenes = read_dataset("synth:referring", limit=60)
    write(scenes, tmp_path / "folder")
    whole = datasets.load_from_disk(str(tmp_path / "folder"))
    for part in range(3):
        whole.shard(3, part).to_parquet(str(tmp_path / f"hub/data/train-{part}.parquet"))
    spec = f"hub:{tmp_path / 'hub'}"
    known = {scene.id: load(scene.images[0]).tobytes() for scene in scenes}

    first = read_dataset(spec, limit=3)
    assert [each.id for each in first] == [scenes[number].id for number in (0, 1, 2)]
    stream = open_dataset(spec, seed=1)
    drawn = [stream[number] for number in range(70)]
    assert sorted(each.id for each in drawn[:60]) == sorted(known)  # an epoch
    assert [each.id for each in drawn[60:]] != [each.id for each in drawn[:10]]
    for each in drawn[-8:] + drawn[:2]:  # the first have left the memory
        assert load(each.images[0]).tobytes() == known[each.id]
    again = open_dataset(spec, seed=1)
    assert again[30] == drawn[30]
    assert open_dataset(spec, seed=2)[:60] != drawn[:60]
    with pytest.raises(DataError, match="found 60 rows, expected 61"):
        read_dataset(spec, limit=61)


@pytest.mark.parametrize("method", ["sft", "rl"])
def test_a_run_streams_its_rows_and_goes_on_as_if_undisturbed(
    method: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(arrow, "SHUFFLED", 2)
    (tmp_path / "hub").mkdir()
    arrow.write_parquet(read_dataset(str(world.four)), tmp_path / "hub", "train")
    data = f"data=[{{mix: {{'hub:{tmp_path / 'hub'}': 1.0}}}}]"
    config = world.config(method, data, "steps=6", "save_every=3")
    undisturbed = train(config, tmp_path / "whole")
    stopped = RunDir(tmp_path / "stopped")
    shutil.copytree(undisturbed.path, stopped.path)
    shutil.rmtree(checkpoints(stopped)[-1].path)
    train(config, stopped.path, resume=True)
    assert_same_bytes(stopped, undisturbed)


@pytest.mark.parametrize("scheme", ["hub", "datasets"])
def test_other_columns_are_refused(scheme: str, tmp_path: Path) -> None:
    foreign = datasets.Dataset.from_dict({"text": ["a"]})
    foreign.to_parquet(str(tmp_path / "hub/train.parquet"))
    foreign.save_to_disk(str(tmp_path / "datasets"))
    with pytest.raises(DataError, match="columns text; expected row and images"):
        read_dataset(f"{scheme}:{tmp_path / scheme}", limit=1)
