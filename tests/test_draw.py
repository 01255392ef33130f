from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.data.images import load, unreadable
from reground.data.source import save_dataset
from reground.errors import DataError, TrainingError
from reground.grounding.sample import ImageRef, Sample
from reground.tinyworld import scenes as synth
from reground.training.draw import Draws
from reground.training.settings import Phase


def file_of(folder: Path, name: str, *, task: str, size: int) -> str:
    """A JSONL of scenes, its path."""
    save_dataset(folder / name, (synth.sample(task, seed=9, index=i) for i in range(size)))
    return str(folder / name)


def ids(draws: Draws, items: range) -> list[str]:
    return [draws.sample(item).id for item in items]


MIXED = [
    Phase(mix={"synth:referring@1-2": 1.0, "synth:listing": 2.0}, until=0.5),
    Phase(mix={"synth:attribute": 1.0}),
]


@given(st.lists(st.integers(0, 99), min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_draw_depends_on_seed_and_item_alone(items: list[int], seed: int) -> None:
    """In any order, again, and from objects made anew: as ranks and resumed runs do."""
    draws = Draws(MIXED, seed=seed, total=100)
    found = {item: draws.sample(item) for item in items}
    fresh = Draws(MIXED, seed=seed, total=100)
    assert {item: fresh.sample(item) for item in sorted(items)} == found


def test_another_seed_draws_other_samples() -> None:
    first, second = (ids(Draws(MIXED, seed=seed, total=60), range(60)) for seed in (1, 2))
    assert not set(first) & set(second)


def test_no_scene_is_seen_twice() -> None:
    found = ids(Draws(MIXED, seed=0, total=400), range(400))
    assert len(set(found)) == 400


def test_a_file_is_seen_once_an_epoch_in_a_new_order(tmp_path: Path) -> None:
    spec = file_of(tmp_path, "a.jsonl", task="referring", size=23)
    draws = Draws([Phase(mix={spec: 1.0})], seed=3, total=100)
    epochs = [ids(draws, range(first, first + 23)) for first in (0, 23, 46)]
    assert all(len(set(epoch)) == 23 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != sorted(epochs[0]), "rows in the file's own order"


def test_an_epoch_begun_in_the_middle_is_the_same_epoch(tmp_path: Path) -> None:
    spec = file_of(tmp_path, "a.jsonl", task="referring", size=10)
    phases = [Phase(mix={spec: 1.0})]
    whole = ids(Draws(phases, seed=3, total=40), range(40))
    later = Draws(phases, seed=3, total=40)
    assert ids(later, range(15, 40)) == whole[15:]
    assert ids(later, range(0, 15)) == whole[:15]


def test_files_of_other_sizes_have_orders_of_their_own(tmp_path: Path) -> None:
    mix = {
        file_of(tmp_path, "a.jsonl", task="referring", size=7): 1.0,
        file_of(tmp_path, "b.jsonl", task="attribute", size=12): 1.0,
    }
    draws = Draws([Phase(mix=mix)], seed=0, total=200)
    forward = ids(draws, range(84))
    assert [draws.sample(item).id for item in reversed(range(84))][::-1] == forward
    assert len(set(forward)) == 19, "after many epochs every row of both files has been seen"


def test_files_of_one_size_have_orders_of_their_own(tmp_path: Path) -> None:
    """Seeded by the size alone, two files of 30 rows were drawn in the same order."""
    first, second = (file_of(tmp_path, f"{n}.jsonl", task="referring", size=30) for n in "ab")
    draws = Draws([Phase(mix={first: 1.0, second: 1.0})], seed=0, total=30)
    assert [draws._shuffled(first, i) for i in range(30)] != [
        draws._shuffled(second, i) for i in range(30)
    ]


@pytest.mark.parametrize("epoch", range(4))
def test_no_row_is_repeated_in_an_epoch_of_a_mixture(tmp_path: Path, epoch: int) -> None:
    spec = file_of(tmp_path, "a.jsonl", task="referring", size=20)
    draws = Draws([Phase(mix={spec: 1.0, "synth:listing": 1.0})], seed=1, total=100)
    drawn = [sample.id for sample in samples(draws, epoch * 20, 20) if sample.task == "referring"]
    assert len(drawn) == len(set(drawn)) > 0


def samples(draws: Draws, first: int, count: int) -> list[Sample]:
    return [draws.sample(item) for item in range(first, first + count)]


def test_a_row_brings_others_about_its_images(tmp_path: Path) -> None:
    photos = [ImageRef(str(tmp_path / name), 64, 48) for name in ("a.png", "b.png", "c.png")]
    rows = [
        Sample(f"{number}-{question}", (photo,), f"question {question}", (), task="voc")
        for number, photo in enumerate(photos)
        for question in range(1 + 3 * number)
    ]
    save_dataset(tmp_path / "photos.jsonl", rows)
    draws = Draws([Phase(mix={str(tmp_path / "photos.jsonl"): 1.0})], seed=0, total=60)
    assert [row.id for row in draws.rows()] == [row.id for row in rows]
    sizes = {1: 1, 4: 3, 7: 3}
    for item in range(60):
        own, every = draws.samples(item, 3), draws.samples(item)
        assert own == draws.samples(item, 3) and own[0] == draws.sample(item)
        assert {sample.images for sample in every} == {own[0].images}
        assert len(own) == sizes[len(every)]
        assert len({sample.id for sample in every}) == len(every)
        assert {sample.id for sample in own} <= {sample.id for sample in every}
    assert len({tuple(s.id for s in draws.samples(item, 3)) for item in range(60)}) > 12


def test_a_scene_has_one_question() -> None:
    draws = Draws(MIXED, seed=0, total=10)
    assert [draws.samples(item, 4) for item in range(10)] == [
        [draws.sample(item)] for item in range(10)
    ]
    assert list(draws.rows()) == []


def test_phases_follow_the_share_of_the_run() -> None:
    phases = [
        Phase(mix={"synth:referring@1-1": 1.0}, until=0.25),
        Phase(mix={"synth:listing": 1.0}, until=0.5),
        Phase(mix={"synth:attribute": 1.0}),
    ]
    draws = Draws(phases, seed=0, total=40)
    tasks = [sample.task for sample in samples(draws, 0, 40)]
    assert tasks == ["referring"] * 10 + ["listing"] * 10 + ["attribute"] * 20


def test_a_curriculum_uses_the_range_of_its_phase() -> None:
    phases = [
        Phase(mix={"synth:referring@1-1": 1.0}, until=0.5),
        Phase(mix={"synth:referring@4-5": 1.0}),
    ]
    draws = Draws(phases, seed=0, total=40)
    counts = [int(sample.strata["objects"]) for sample in samples(draws, 0, 40)]
    assert set(counts[:20]) == {1}
    assert set(counts[20:]) == {4, 5}


WEIGHTS = {"referring": 1.0, "listing": 3.0, "attribute": 6.0}


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_the_shares_of_the_mixture(seed: int) -> None:
    num = 1500
    mix = {f"synth:{task}": weight for task, weight in WEIGHTS.items()}
    draws = Draws([Phase(mix=mix)], seed=seed, total=num)
    counts = Counter(sample.task for sample in samples(draws, 0, num))
    expected = {task: num * weight / 10 for task, weight in WEIGHTS.items()}
    chi_square = sum((counts[task] - want) ** 2 / want for task, want in expected.items())
    assert chi_square < 13.8, counts  # p = 0.001 with two degrees of freedom


def test_weights_need_not_sum_to_one() -> None:
    drawn = []
    for scale in (1.0, 100.0):
        mix = {f"synth:{task}": weight * scale for task, weight in WEIGHTS.items()}
        drawn.append(ids(Draws([Phase(mix=mix)], seed=0, total=50), range(50)))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synth:refering", "did you mean 'referring'"),
        ("absent.jsonl", "no such file"),
        ("empty.jsonl", "holds no sample"),
    ],
)
def test_bad_data_stops_before_the_first_item(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    spec = spec if spec.startswith("synth:") else str(tmp_path / spec)
    good = Phase(mix={"synth:referring": 1.0}, until=0.5)
    with pytest.raises(DataError, match=message):
        Draws([good, Phase(mix={spec: 1.0})], seed=0, total=10)


def photos(folder: Path, count: int) -> list[Sample]:
    made = []
    for number in range(count):
        sample = synth.sample("referring", seed=9, index=number)
        path = folder / f"{number}.png"
        load(sample.images[0]).save(path)
        ref = replace(sample.images[0], path=str(path))
        made.append(replace(sample, id=f"row-{number}", images=(ref,)))
    return made


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def test_a_photo_that_fails_is_left_out_and_the_next_row_takes_its_place(tmp_path: Path) -> None:
    rows = photos(tmp_path, 40)
    save_dataset(tmp_path / "rows.jsonl", rows)
    cut(tmp_path / "7.png")

    def drawn(draws: Draws) -> list[str]:
        def ask(samples: list[Sample]) -> str:
            load(samples[0].images[0])
            return samples[0].id

        return [draws.usable(item, ask, 1) for item in range(80)]

    draws = Draws([Phase(mix={str(tmp_path / "rows.jsonl"): 1.0})], seed=0, total=80)
    found = drawn(draws)
    assert "row-7" not in found and [*draws.left_out] == ["row-7"]
    again = Draws([Phase(mix={str(tmp_path / "rows.jsonl"): 1.0})], seed=0, total=80)
    assert drawn(again) == found
    for number in range(12):
        cut(tmp_path / f"{number}.png")
    with pytest.raises(TrainingError, match=r"of 40 rows cannot be used.*reground data validate"):
        drawn(Draws([Phase(mix={str(tmp_path / "rows.jsonl"): 1.0})], seed=0, total=80))


def test_photos_are_looked_at_by_their_headers(tmp_path: Path) -> None:
    rows = photos(tmp_path, 4)
    refs = [row.images[0] for row in rows]
    assert unreadable(refs) == {}
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_text("no picture")
    wrong = [*refs[:3], replace(refs[3], width=999)]
    gone, text, size = unreadable(wrong).values()
    assert "no such image" in gone and "not an image" in text and "recorded 999 x" in size
