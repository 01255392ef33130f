"""The table of benchmarks, and what opening one says where files are missing, wrong or right."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver import reground
from files import photo
from reground.data import benchmarks
from reground.data.benchmarks import Benchmark, column, find, open_benchmark, table
from reground.data.convert import FORMATS
from reground.data.source import open_dataset, save_dataset
from reground.errors import DataError
from reground.evaluation.scoring.peers import get_peer
from reground.grounding.sample import ImageRef, Sample
from reground.protocols.families import FAMILIES

SHARED = Path(__file__).parents[1] / "../shared/data/mig_bench"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the real annotations in ../shared/data/mig_bench"
)
MIG_FILES = {"mig_bench": "revised_MIG_bench.json", "mig_bench_first": "MIG_data.json"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("REGROUND_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def alter(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> Benchmark:
    """The table with some fields of one benchmark changed, so that tests can be small."""
    changed = replace(find(name), **fields)
    entries = {**table(), name: changed}
    monkeypatch.setattr(benchmarks, "table", lambda: entries)
    return changed


# --- the table ----------------------------------------------------------------------------------

# From public sources: FlagEval (RefCOCO), VLM-R1's files (val), Ref-L4's totals, LISA's README.
COUNTS = {
    "refcoco_val": 10834,
    "refcoco_testA": 5657,
    "refcoco_testB": 5095,
    "refcoco+_val": 10758,
    "refcoco+_testA": 5726,
    "refcoco+_testB": 4889,
    "refcocog_umd_val": 4896,
    "refcocog_umd_test": 9602,
    "mig_bench": 4276,
    "mig_bench_first": 4295,
    "lisa_grounding_val": 200,
    "lisa_grounding_test": 779,
    "reason_seg_val": 200,
    "reason_seg_test": 779,
    "lisa_grounding_vlm_r1": 1658,
}


def test_expected_numbers_of_samples() -> None:
    known = {name: entry.samples for name, entry in table().items() if entry.samples is not None}
    assert known == COUNTS
    totals = Counter[str]()
    for name, count in COUNTS.items():
        totals[name.split("_")[0]] += count
    assert (totals["refcoco"], totals["refcoco+"], totals["refcocog"]) == (21586, 21373, 14498)


@pytest.mark.parametrize("entry", table().values(), ids=lambda entry: entry.name)
def test_every_row_of_the_table_is_sound(entry: Benchmark) -> None:
    assert entry.reader in FORMATS or (entry.reader, entry.source) == (
        "jsonl",
        f"{entry.name}.jsonl",
    )
    assert entry.get and entry.licence and entry.counted and entry.title
    texts = [entry.title, entry.get, entry.licence, entry.source, *entry.files]
    assert [text for text in texts if "{" in text] == []
    assert entry.hit in (">", ">=") and entry.average in ("micro", "macro")
    assert not entry.name.startswith("synth:") and not entry.name.endswith(".jsonl")
    paths = [entry.source, *entry.files, entry.photos or "", entry.images or ""]
    assert not any(Path(path).is_absolute() or ".." in path for path in paths)
    assert entry.scorer is None or get_peer(entry.scorer).strict is (entry.hit == ">")
    for family, protocol in entry.protocols.items():
        assert protocol in FAMILIES[family].prompts


@pytest.mark.parametrize("name", MIG_FILES)
def test_mig_bench_has_the_papers_ten_columns(name: str) -> None:
    entry = find(name)
    columns = " ".join(map(column, entry.tasks))
    assert columns == "Static Robust Common OT MV Region Refer GG Reason Co-Re"
    assert sum(entry.tasks.values()) == entry.samples
    assert (entry.hit, entry.average) == (">=", "macro")
    assert entry.metric == "Acc@0.5 (IoU >= 0.5), mean of 10 tasks"


def test_threshold_rules() -> None:
    rules = {name: entry.hit for name, entry in table().items()}
    assert {rules[name] for name in rules if name.startswith(("refcoco", "vg_refiner"))} == {">"}
    assert {rules[f"{name}_grounding"] for name in ("llmseg", "revos", "reasonvos")} == {">="}
    assert (rules["lisa_grounding_test"], rules["lisa_grounding_vlm_r1"]) == (">=", ">")


def test_zero_shot_benchmarks_name_the_rule_that_made_their_figures() -> None:
    named = {name: entry.scorer for name, entry in table().items() if entry.scorer}
    assert named == {
        **dict.fromkeys(("mig_bench", "mig_bench_first"), "mig_bench"),
        **dict.fromkeys(
            [
                *("lisa_grounding_val", "lisa_grounding_test", "llmseg_grounding"),
                *("revos_grounding", "reasonvos_grounding"),
            ],
            "univg_r1_zero_shot",
        ),
    }


def test_mixed_hub_splits_are_not_offered() -> None:
    assert [find(name).hub for name in ("refcoco_val", "refcocog_umd_val")] == [None, None]
    assert find("refcoco+_val").hub == "lmms-lab/RefCOCOplus"


# --- opening ------------------------------------------------------------------------------------


def test_an_unknown_name_is_corrected(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no data set 'mig_benc'; did you mean 'mig_bench'\?"):
        open_dataset("mig_benc")
    with pytest.raises(DataError, match=r"train\.json'.*ends in \.jsonl, synth:TASK"):
        open_dataset("train.json")


def test_a_path_wins_only_if_it_ends_in_jsonl(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_dataset(tmp_path / "mig_bench", samples(1))
    with pytest.raises(DataError, match="is missing"):
        open_dataset("mig_bench")
    save_dataset(tmp_path / "mig_bench.jsonl", samples(2))
    assert len(open_dataset("mig_bench.jsonl")) == 2


def test_a_missing_file_is_named_with_what_to_do(folder: Path) -> None:
    with pytest.raises(DataError) as error:
        open_dataset("refcoco_testA")
    text = str(error.value)
    assert text.startswith(f"refcoco_testA: {folder / 'refcoco/refs(unc).p'} is missing. ")
    assert "Unpack refcoco.zip" in text and f"The data folder is {folder} " in text
    assert "convert hub lmms-lab/RefCOCO --split testA" in text
    assert f"--out {folder / 'refcoco_testA.jsonl'}" in text


def test_the_data_folder_is_data_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGROUND_DATA", raising=False)
    assert benchmarks.data_folder() == Path("data")
    monkeypatch.setenv("REGROUND_DATA", str(tmp_path))
    assert benchmarks.data_folder() == tmp_path


def refcoco(folder: Path, num_expressions: int) -> None:
    refs = [
        {
            "ref_id": 5,
            "ann_id": 2,
            "image_id": 7,
            "split": split,
            "sentences": [{"sent_id": n, "sent": f"cat {n}"} for n in range(count)],
        }
        for split, count in (("testA", num_expressions), ("val", 9))
    ]
    tables = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 200, "height": 100}],
        "annotations": [{"id": 2, "image_id": 7, "bbox": [10, 20, 30, 40]}],
    }
    (folder / "refcoco").mkdir()
    (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "refcoco" / "instances.json").write_text(json.dumps(tables))


def test_a_benchmark_opens_in_full_or_up_to_a_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refcoco(folder, 3)
    with pytest.raises(DataError, match=r"train2014 is missing"):
        open_dataset("refcoco_testA")
    photo(folder / "coco/train2014/a.jpg")
    with pytest.raises(DataError, match=r"found 3 samples, expected 5657; .* is incomplete"):
        open_dataset("refcoco_testA")
    assert len(open_dataset("refcoco_testA", limit=2)) == 2  # a part cannot be counted
    alter(monkeypatch, "refcoco_testA", samples=3)
    opened = open_dataset("refcoco_testA")
    assert [sample.strata["split"] for sample in opened] == ["testA"] * 3
    assert opened[0].boxes[0].xyxy == (10, 20, 40, 60)


def test_a_missing_photo_is_named(folder: Path) -> None:
    refcoco(folder, 3)
    (folder / "coco/train2014").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^refcoco_testA: .*a\.jpg: no such image.*train2014\.zip"):
        open_dataset("refcoco_testA")
    assert len(open_benchmark("refcoco_testA", limit=3, allow_missing_images=True)) == 3


def samples(count: int) -> list[Sample]:
    image = ImageRef("a.jpg", 200, 100)
    return [Sample(str(number), (image,), "the cup", (), "t") for number in range(count)]


def test_a_jsonl_named_after_the_benchmark_is_read_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dataset(folder / "refcoco_testB.jsonl", samples(4))
    with pytest.raises(DataError, match=r"found 4 samples, expected 5095; .*testB\.jsonl"):
        open_dataset("refcoco_testB")
    alter(monkeypatch, "refcoco_testB", samples=4)
    assert [sample.id for sample in open_dataset("refcoco_testB")] == ["0", "1", "2", "3"]
    name = "vg_refiner_evf_refcoco_testA"
    with pytest.raises(DataError, match=rf"{name}\.jsonl is missing.*convert hub .*refcoco_testA "):
        open_dataset(name)
    save_dataset(folder / f"{name}.jsonl", samples(2))
    assert len(open_dataset(name)) == 2  # of unknown number
    (folder / f"{name}.jsonl").write_text("")
    with pytest.raises(DataError, match="found 0 samples, expected some"):
        open_dataset(name)


def lisa(folder: Path, *boxes: list[list[float]]) -> list[Sample]:
    photo(folder / "zero_shot_evaluation/ReasonSeg/val/a.jpg")
    rows = [{"image_path": "/x/val/a.jpg", "instruction": "i", "boxes": each} for each in boxes]
    (folder / "zero_shot_evaluation/lisa_val.json").write_text(json.dumps(rows))
    return list(open_dataset("lisa_grounding_val"))


def test_of_several_boxes_the_first_counts_where_its_authors_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alter(monkeypatch, "lisa_grounding_val", samples=3)
    with caplog.at_level(logging.WARNING):
        several, one, none = lisa(folder, [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 9, 9]], [])
    assert [target.box.xyxy for target in several.targets] == [(1, 2, 3, 4)]
    assert (one.boxes[0].xyxy, none.targets) == ((1, 2, 9, 9), ())
    assert "lisa_grounding_val: 1 rows have several boxes" in caplog.text
    alter(monkeypatch, "lisa_grounding_val", samples=1, truth="all")
    (kept,) = lisa(folder, [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert len(kept.targets) == 2


# --- the real annotations -----------------------------------------------------------------------


@pytest.fixture
def mig(folder: Path) -> Path:
    (folder / "MIG-Bench").mkdir()
    for name in MIG_FILES.values():
        shutil.copy(SHARED / name, folder / "MIG-Bench" / name)
    return folder


@needs_shared
@pytest.mark.parametrize("name", MIG_FILES)
def test_real_mig_bench_has_the_counts_and_the_bytes_of_the_table(mig: Path, name: str) -> None:
    entry = find(name)
    assert benchmarks.digest(entry) == entry.sha256
    with pytest.raises(DataError, match=r"MIG-Bench/images is missing.*unpack images\.zip"):
        open_dataset(name)
    opened = open_benchmark(name, allow_missing_images=True)
    assert len(opened) == entry.samples
    by_task = Counter(sample.task for sample in opened)
    assert by_task == entry.tasks


@pytest.mark.slow
@needs_shared
def test_real_mig_bench_that_was_changed_is_noticed(
    mig: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = mig / "MIG-Bench/revised_MIG_bench.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows))
    with caplog.at_level(logging.WARNING):
        open_benchmark("mig_bench", allow_missing_images=True)
    assert "mig_bench: sha256 " in caplog.text
    assert ", other bytes\n" in reground("benchmarks", "mig_bench").stdout
    path.write_text(json.dumps(rows[1:]))
    with pytest.raises(DataError, match="found 4275 samples, expected 4276"):
        open_benchmark("mig_bench", allow_missing_images=True)
    moved = [row | {"task": "region"} if row["task"] == "diff" else row for row in rows]
    path.write_text(json.dumps(moved))
    with pytest.raises(DataError, match="found 0 diff samples, expected 528"):
        open_benchmark("mig_bench", allow_missing_images=True)


# --- the command --------------------------------------------------------------------------------


def test_the_list_names_every_benchmark_and_what_is_missing(folder: Path) -> None:
    save_dataset(folder / "refcoco_testA.jsonl", samples(1))
    lines = reground("benchmarks").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *table()]
    by_name = {line.split()[0]: line for line in lines}
    assert by_name["refcoco_testA"].endswith("  ready")
    assert by_name["mig_bench"].endswith(f"missing {folder / 'MIG-Bench/revised_MIG_bench.json'}")
    assert "4276     Acc@0.5 (IoU >= 0.5), mean of 10 tasks" in by_name["mig_bench"]
    counted = reground("benchmarks", "--count").stdout
    assert "wrong: refcoco_testA: found 1 samples, expected 5657" in counted


def test_the_details_say_where_to_get_it_and_under_which_terms(folder: Path) -> None:
    text = reground("benchmarks", "mig_bench").stdout
    for part in ("GD-ML/UniVG-R1-data", "licence", "MIT", "69aea94d", "diff = Static (528)"):
        assert part in text
    error = reground("benchmarks", "mig_bensh", code=2).stderr
    assert "did you mean 'mig_bench'?" in error
    assert (
        "piter for family qwen2_5_vl"
        in reground("benchmarks", "vg_refiner_evf_refcoco_testA").stdout
    )


@needs_shared
def test_the_state_of_annotations_without_photos(mig: Path) -> None:
    text = reground("benchmarks", "mig_bench").stdout
    assert f"here     sha256 {find('mig_bench').sha256}\n" in text
    photos = mig / "MIG-Bench/images"
    assert f"ready, 4276 samples, without its photos: missing {photos}" in text
