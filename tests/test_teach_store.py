"""The database of chains: what it keeps, what it refuses, and that reading it needs little."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reground.data.source import open_dataset
from reground.errors import DataError, RunError
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.teacher import store as stores
from reground.teacher.ask import unanswered
from reground.teacher.rows import Finding, Pick, Rejection, Review, TeacherCall
from reground.teacher.store import Store

IMAGE = ImageRef("photos/a.png", 100, 80)


def sample(name: str, image: ImageRef = IMAGE) -> Sample:
    return Sample(
        name, (image,), f"the {name} cup", (Target(0, Box(1, 2, 30, 40, image.frame)),), "t"
    )


def call(name: str, number: int = 0, **changes: Any) -> TeacherCall:
    fields: dict[str, Any] = {"stage": "ask", "model": "m", "prompt_sha256": "p", "at": 5.0}
    fields |= {"state": "answered", "text": f"{name} {number}"}
    return TeacherCall(sample=name, number=number, **fields | changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "chains.db", [sample("a"), sample("b")], data="val.jsonl")


def test_samples_come_back_in_order_and_the_folder_can_be_moved(tmp_path: Path) -> None:
    image = ImageRef(str(tmp_path / "here/photos/ä.png"), 100, 80)
    samples = [sample(name, image) for name in "cab"]
    with Store.create(tmp_path / "here/chains.db", samples, data="x.jsonl") as made:
        assert list(made.samples()) == samples
        assert made.meta()["data"] == "x.jsonl"
    (tmp_path / "here").rename(tmp_path / "there")
    with Store.open(tmp_path / "there/chains.db") as moved:
        assert [each.id for each in moved.samples()] == ["c", "a", "b"]
        assert moved.entry("a").sample.images[0].path == str(tmp_path / "there/photos/ä.png")
        with pytest.raises(KeyError):
            moved.entry("z")


def test_scenes_of_every_kind_survive_unchanged(tmp_path: Path) -> None:
    samples = list(open_dataset("synth:diff", limit=5))
    with Store.create(tmp_path / "s.db", samples, data="synth:diff") as made:
        assert list(made.samples()) == samples


def test_a_call_comes_back_as_it_was_stored(store: Store) -> None:
    full = call(
        "a",
        2,
        text="<think>ü\n\0</think>",
        finish="length",
        prompt_tokens=900,
        completion_tokens=80,
        cost=0.25,
        latency_s=1.5,
        attempts=3,
        sizes=(EncodedSize(100, 80, 56, 28),),
    )
    stored = store.add_call(full)
    assert store.calls(stage="ask") == [replace(full, id=stored)]
    assert store.calls(stage="ask", sample_id="a") == [replace(full, id=stored)]
    assert store.calls(stage="judge") == store.calls(stage="ask", sample_id="b") == []


def test_calls_come_by_sample_and_number_whatever_order_they_were_answered_in(store: Store) -> None:
    for name, number in [("b", 1), ("a", 2), ("b", 0), ("a", 0)]:
        store.add_call(call(name, number))
    found = [(each.sample, each.number) for each in store.calls(stage="ask")]
    assert found == [("a", 0), ("a", 2), ("b", 0), ("b", 1)]


def test_a_failed_call_is_replaced_and_its_costs_add_up(store: Store) -> None:
    failed = call("a", state="failed", text="", error="status 500", attempts=4, cost=0.5)
    first = store.add_call(failed)
    assert store.counts().answered == {}
    assert store.add_call(call("a", attempts=2, cost=0.25, completion_tokens=7)) == first
    (found,) = store.calls(stage="ask")
    assert (found.state, found.error, found.attempts, found.cost) == ("answered", None, 6, 0.75)
    with pytest.raises(RunError, match=r"chains\.db: call 0 about 'a' is answered already"):
        store.add_call(call("a", text="another"))
    assert [each.text for each in store.calls(stage="ask")] == ["a 0"]


def test_only_what_has_no_answer_is_left_to_do(store: Store) -> None:
    of: dict[str, Any] = {"n": 3, "model": "m", "prompt_sha256": "p"}
    store.add_call(call("a", 1))
    store.add_call(call("a", 2, state="failed"))
    store.add_call(call("a", 0, model="other"))
    store.add_call(call("a", 0, stage="judge"))
    left = {entry.sample.id: unanswered(entry, **of) for entry in store.entries()}
    assert left == {"a": [0, 2], "b": [0, 1, 2]}
    for number in range(3):
        store.add_call(call("b", number))
    assert unanswered(store.entry("b"), **of) == []


def test_entries_hold_chains_findings_and_picks(store: Store) -> None:
    first, second = (store.add_call(call("a", number)) for number in range(2))
    store.add_call(call("a", 2, state="failed"))
    bad = Finding(call=first, ok=False, reason=Rejection.LEAK, detail="the truth", iou=0.5)
    store.set_finding(replace(bad, reason=Rejection.FORM))
    store.set_finding(bad)
    good = Finding(call=second, ok=True, think="so", boxes=((1.0, 2.0, 30.0, 40.5),), iou=0.9)
    store.set_finding(good)
    store.set_pick(Pick(sample="a", call=first, rule="judge", tie=True))
    pick = Pick(sample="a", call=second, rule="only", detail="1 of 2")
    store.set_pick(pick)
    entry, empty = store.entries()
    assert [chain.finding for chain in entry.chains] == [bad, good]
    assert (entry.pick, entry) == (pick, store.entry("a"))
    assert (empty.sample.id, empty.chains, empty.pick) == ("b", (), None)
    store.drop_pick("a")
    assert store.entry("a").pick is None


def test_the_last_review_of_a_reviewer_counts_and_can_be_undone(store: Store) -> None:
    calls = {name: store.add_call(call(name)) for name in "ab"}
    for name, about in calls.items():
        store.set_pick(Pick(sample=name, call=about, rule="only"))
    steps = [("a", "eva", "accept"), ("a", "ben", "reject"), ("a", "eva", "reject")]
    steps += [("b", "eva", "edit"), ("b", "ben", "accept"), ("b", "ben", "undo")]
    for name, reviewer, decision in steps:
        text = "mine" if decision == "edit" else None
        review = Review(
            sample=name,
            call=calls[name],
            reviewer=reviewer,
            decision=decision,  # type: ignore[arg-type]
            text=text,
        )
        store.add_review(review)
    found = {(each.sample, each.reviewer): each for each in store.latest_reviews()}
    decisions = {key: each.decision for key, each in found.items()}
    assert decisions == {("a", "ben"): "reject", ("a", "eva"): "reject", ("b", "eva"): "edit"}
    assert found["b", "eva"].text == "mine" and found["b", "eva"].at > 0
    another = store.add_call(call("a", 1))
    store.set_pick(Pick(sample="a", call=another, rule="judge"))  # nobody has seen this one
    assert [each.sample for each in store.latest_reviews()] == ["b"]
    assert store.picked() == {"a": "t", "b": "t"}


def test_counts_add_everything_up(store: Store) -> None:
    ids = [store.add_call(call("a", k, cost=0.5, prompt_tokens=10)) for k in range(2)]
    store.add_call(call("b", state="failed", cost=0.25))
    store.add_call(call("a", stage="judge", completion_tokens=3))
    store.set_finding(Finding(call=ids[0], ok=True))
    store.set_finding(Finding(call=ids[1], ok=False, reason=Rejection.LONG))
    store.set_pick(Pick(sample="a", call=ids[0], rule="rule", tie=True))
    counts = store.counts()
    assert (counts.samples, counts.answered) == (2, {"ask": 2, "judge": 1})
    assert (counts.picks, counts.ties, counts.cost) == ({"rule": 1}, 1, 1.25)
    asking, judging = store.spent()
    assert (asking["answered"], asking["failed"], asking["requests"]) == (2, 1, 3)
    assert (asking["cost"], asking["prompt_tokens"]) == (1.25, 20)
    assert (judging["stage"], judging["completion_tokens"]) == ("judge", 3)


def test_iterators_hold_a_page_and_may_be_written_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PAGE", 3)
    rows = [sample(f"s{n}") for n in range(8)]
    with Store.create(tmp_path / "s.db", rows, data="x") as made:
        for entry in made.entries():
            made.add_call(call(entry.sample.id))
        for entry in made.entries():
            made.set_finding(Finding(call=entry.chains[0].call.id, ok=True))
        assert [each.sample for each in made.calls(stage="ask")] == [row.id for row in rows]
        assert all(entry.chains[0].is_verified for entry in made.entries())


def test_readers_watch_while_another_writes(store: Store) -> None:
    with Store.open(store.path) as reader, store.together():
        store.add_call(call("a"))
        assert reader.counts().answered == {}
    with Store.open(store.path) as reader:
        assert reader.counts().answered == {"ask": 1}


def test_what_is_written_together_is_stored_whole_or_not_at_all(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.together():
        store.add_call(call("a"))
        raise ZeroDivisionError
    assert store.counts().answered == {}


def test_one_process_asks_at_a_time(store: Store) -> None:
    with store.exclusively(), Store.open(store.path) as other:
        other.add_call(call("a"))  # writing is free to all
        with pytest.raises(RunError, match="another process is asking"), other.exclusively():
            pass
    with store.exclusively():
        pass


def test_a_database_is_made_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x: two samples are called 'a'"):
        Store.create(tmp_path / "two.db", [sample("a"), sample("a")], data="x")
    with pytest.raises(RunError, match="exists already"):
        Store.create(store.path, [], data="x")
    assert {path.name for path in tmp_path.glob("two*")} == set()


def broken(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("id,question\n" * 100)
        return
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE meta (key TEXT, value TEXT)")
        if kind == "version":
            connection.execute("INSERT INTO meta VALUES ('version', '9')")
        if kind == "other":
            connection.execute("DROP TABLE meta")
    connection.close()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", r"x\.db: not a database of chains; expected what `reground teach ask` made"),
        ("version", r"x\.db: a database of version 9, and this ReGround reads version 3"),
        ("other", r"x\.db: a database, but none of `reground teach`"),
        ("empty", r"x\.db: a database, but none of `reground teach`"),
        (None, r"x\.db: no such database"),
    ],
)
def test_what_is_no_such_database_is_said(kind: str | None, message: str, tmp_path: Path) -> None:
    if kind:
        broken(tmp_path / "x.db", kind)
    with pytest.raises(RunError, match=message):
        Store.open(tmp_path / "x.db")


def test_a_full_disk_is_one_sentence_and_loses_nothing(store: Store) -> None:
    store.add_call(call("a"))
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    big = call("b", text="x" * 100_000)
    with pytest.raises(RunError, match=r"chains\.db: database or disk is full; .* is kept"):
        store.add_call(big)
    with pytest.raises(RunError, match="disk is full"), store.together():
        store.add_call(big)
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.add_call(big)
    assert [each.sample for each in store.calls(stage="ask")] == ["a", "b"]


KILLED = """
import sys, os
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_teach_store import call
from reground.teacher.store import Store
store = Store.open(Path({path!r}))
with store.exclusively():
    for number in range(100000):
        store.add_call(call("a", number))
        print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_stored(store: Store) -> None:
    program = KILLED.format(tests=str(Path(__file__).parent), path=str(store.path))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        seen = [int(child.stdout.readline()) for _ in range(50)]
        os.kill(child.pid, signal.SIGKILL)
        seen += [int(line) for line in child.stdout.read().splitlines()]
    numbers = [each.number for each in store.calls(stage="ask", sample_id="a")]
    assert numbers[: len(seen)] == seen and len(numbers) - len(seen) in (0, 1)
    with store.exclusively():  # the lock died with its process
        pass
