"""Picking the best chain: every order is asked, no place has an advantage, ties are recorded."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reground import patience
from reground.config import load
from reground.errors import ConfigError, EndpointError, RunError
from reground.grounding.codecs import EncodedSize
from reground.protocols.protocol import get_protocol
from reground.teacher import embedded
from reground.teacher.judge import JudgeOutcome, by_rule, decide, judge, orders, vote
from reground.teacher.rows import Chain, Finding, Pick, TeacherCall
from reground.teacher.settings import TeachConfig, changed
from reground.teacher.store import Store
from reground.teacher.verify import verify
from reground.tinyworld import scenes as synth
from reviewing import answered
from server import Response, question, says, serving

ONE_BY_ONE = ["judge.teacher.concurrency=1"]
SAMPLES = [synth.sample("diff", seed=5, index=index) for index in range(4)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)


def made(number: int, *, words: int = 8, iou: float = 1.0) -> Chain:
    fields: dict[str, Any] = {"stage": "ask", "model": "m", "prompt_sha256": "p"}
    call = TeacherCall(sample="s", number=number, state="answered", id=10 + number, **fields)
    think = " ".join(f"w{n}" for n in range(words))
    return Chain(call, Finding(call=call.id, ok=True, think=think, iou=iou))


# The rule.


@pytest.mark.parametrize(
    ("chains", "picked"),
    [
        ([made(0, words=30), made(1, words=9), made(2, words=12)], 2),  # the median length
        ([made(0, words=30), made(1, words=9)], 1),  # the shorter of two
        ([made(0), made(1), made(2)], 1),  # all alike: the middle one by number
        ([made(0, iou=0.8), made(1, words=90), made(2, iou=0.99)], 1),  # the best box first
        ([made(0, iou=0.996), made(1, iou=0.999), made(2, iou=1.0)], 1),  # no more than rounding
    ],
)
def test_the_rule(chains: Sequence[Chain], picked: int) -> None:
    pick = by_rule(chains)
    assert (pick.call, pick.rule, pick.tie) == (10 + picked, "rule", False)
    assert by_rule(list(reversed(chains))) == pick


def test_one_verified_chain_needs_no_judge() -> None:
    assert by_rule([made(2)]) == Pick(sample="s", call=12, rule="only")


# Orders and votes.


def test_every_chain_stands_once_in_every_place() -> None:
    chains = [made(n) for n in range(4)]
    shown = orders(chains)
    for place in range(4):
        assert {order[place].call.number for order in shown} == {0, 1, 2, 3}
    assert orders(chains, 2) == shown[:2] and orders(chains, 9) == shown


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("A", 0),
        (" **B** ", 1),
        ("(C).", 2),
        ("<think>A or B? A is vague.</think>\nB", 1),
        ("Answer: B", 1),
        ("Both are true. The best one is C.", 2),
        ("My choice is option A", 0),
        ("D", None),  # there are three
        ("A good chain is B, I think, or C", None),
        ("b", None),
        ("A, B", None),
        ("The best answer", None),
        ("", None),
        ("Answer: " * 100_000, None),
    ],
)
def test_what_a_reply_votes_for(text: str, index: int | None) -> None:
    assert vote(text, 3) == index


@pytest.mark.parametrize(
    ("votes", "picked", "rule", "tie"),
    [
        ([0, 2, 1], 0, "judge", False),  # always chain 0: A, then C, then B
        ([0, 0, 2], 1, "judge", False),  # 0, 1, 1
        ([0, 0, 0], 1, "judge", True),  # always the first place: one vote each, the rule decides
        ([0, None, None], 0, "judge", False),
        ([0, None, 2], 0, "judge", True),  # 0 and 1: the rule, between these two
        ([None, None, None], 1, "rule", True),
    ],
)
def test_votes_are_counted_by_chain_not_by_place(
    votes: list[int | None], picked: int, rule: str, tie: bool
) -> None:
    pick = decide(votes, orders([made(n) for n in range(3)]))
    assert (pick.call, pick.rule, pick.tie) == (10 + picked, rule, tie), pick.detail


@pytest.mark.parametrize("seed", range(3))
def test_a_judge_that_prefers_a_place_still_finds_the_better_chain(seed: int) -> None:
    """It says A half of the time, else what is better.

    The first order alone would be right for 150 of 300. Of three orders the better chain has one
    vote for sure and each of two others with probability 1/2; it wins with two: 225 of 300.
    """
    rng, right = random.Random(seed), 0
    for _ in range(300):
        shown = orders([made(n) for n in range(3)])
        better = [next(k for k, each in enumerate(o) if each.call.number == 2) for o in shown]
        pick = decide([0 if rng.random() < 0.5 else k for k in better], shown)
        right += pick.call == 12
    assert right > 200


# The stage.


def config(path: Path, url: str | None = None, *overrides: str) -> TeachConfig:
    asked = [f"judge.teacher.url={url}", "judge.teacher.model=judge-7b"] if url else []
    return load(TeachConfig, None, [f"store={path}", *asked, *overrides])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four samples: three chains, three, one, and none of them verified."""
    path = tmp_path / "c.db"
    with Store.create(path, SAMPLES, data="synth:diff") as store:
        for sample, count in zip(SAMPLES, (3, 3, 1, 0), strict=True):
            for number in range(3):
                text = embedded.chain(sample, number) if number < count else "no"
                _answer(store, sample.id, number, text)
        verify(store, config(path).verify)
    return path


def _answer(store: Store, sample_id: str, number: int, text: str) -> int:
    sizes = (EncodedSize(112, 112, 112, 112),) * 2
    return store.add_call(answered(sample_id, text, sizes, number=number))


def picks(path: Path) -> list[Pick | None]:
    with Store.open(path) as store:
        return [item.pick for item in store.entries()]


def judged(settings: TeachConfig, *, again: bool = False) -> JudgeOutcome:
    with Store.open(Path(settings.store)) as store:
        return judge(store, settings, again=again)


def longest(body: dict[str, Any], _: int) -> Response:
    """A judge that likes long chains, wherever they stand."""
    shown = re.findall(r"^([A-C]): (.*)$", question(body), re.MULTILINE)
    return says(max(shown, key=lambda each: len(each[1]))[0], read=100, tokens=1)


def test_without_a_judge_the_rule_picks(path: Path) -> None:
    done = judged(config(path))
    assert (done.picked, done.waiting, done.outcome.answered) == (3, 0, 0)
    assert [pick and pick.rule for pick in picks(path)] == ["rule", "rule", "only", None]
    before = picks(path)
    assert judged(config(path)).picked == 0 and picks(path) == before


def test_a_judge_sees_question_images_truth_and_all_chains_in_every_order(path: Path) -> None:
    with serving(longest) as (url, bodies):
        done = judged(config(path, url, *ONE_BY_ONE, "judge.teacher.prompt_price=10.0"))
    assert (done.picked, done.waiting, len(bodies)) == (3, 0, 6)
    text = question(bodies[0])
    assert SAMPLES[0].question in text and "about 2 image(s)" in text
    size = EncodedSize(112, 112, 112, 112)
    assert get_protocol("univg_r1", "direct").render(SAMPLES[0].boxes, size=size) in text
    assert bodies[0]["temperature"] == 0.0
    first = [re.findall(r"^A: (.*)$", question(body), re.MULTILINE)[0] for body in bodies[:6]]
    assert len(set(first)) == 6  # every chain of the two samples stands in front once
    with Store.open(path) as store:
        made = store.settings("picks")
        item = store.entry(SAMPLES[0].id)
        calls = store.calls(stage="judge", sample_id=SAMPLES[0].id)
    assert item.pick is not None and (item.pick.rule, item.pick.tie) == ("judge", False)
    best = max(item.chains, key=lambda each: len(each.call.text))
    assert (item.pick.call, item.pick.detail) == (
        best.call.id,
        f"votes of 3: chain {best.call.number}: 3",
    )
    assert len(calls) == 3 and calls[0].cost == pytest.approx(0.001)
    ((count, old, new),) = changed(made, judged(config(path)).settings)
    assert (count, old, new) == (2, f"judge={calls[0].model}", "judge=rule")


def test_ties_are_recorded(path: Path) -> None:
    with serving(lambda body, _: says("A")) as (url, _):
        judged(config(path, url))
    tied = [pick and (pick.rule, pick.tie) for pick in picks(path)]
    assert tied == [("judge", True), ("judge", True), ("only", False), None]


def test_no_order_is_asked_twice_and_what_failed_is_asked_again(path: Path) -> None:
    count = 0

    def respond(body: dict[str, Any], _: int) -> Response:
        nonlocal count
        count += 1
        return Response("{}", status=400) if count > 4 else says("A")

    with serving(respond) as (url, _):
        once = config(path, url, *ONE_BY_ONE)
        done = judged(once)
        assert (done.picked, done.waiting) == (2, 1)
        count = -100
        done = judged(once)
        assert (done.picked, done.waiting, count) == (1, 0, -98)
        assert judged(once, again=True).picked == 3 and count == -98


def test_votes_about_fewer_candidates_are_not_counted_for_more(path: Path) -> None:
    with serving(lambda body, _: says("A")) as (url, bodies):
        settings = config(path, url)
        judged(settings)
        with Store.open(path) as store:
            _answer(store, SAMPLES[0].id, 3, embedded.chain(SAMPLES[0], 3))
            verify(store, settings.verify)
        assert judged(settings).overtaken == 1
        assert judged(settings, again=True).overtaken == 0
        assert len(bodies) == 6 + 4


def test_fewer_rotations_cost_less(path: Path) -> None:
    with serving(lambda body, _: says("A")) as (url, bodies):
        judged(config(path, url, "judge.rotations=1"))
        assert len(bodies) == 2
    assert [pick and pick.tie for pick in picks(path)] == [False, False, False, None]


def test_a_judge_that_never_says_a_letter_leaves_it_to_the_rule(path: Path) -> None:
    with serving(lambda body, _: says("Hard to say.")) as (url, _):
        judged(config(path, url))
    found = picks(path)[0]
    assert found and (found.rule, found.tie, found.detail) == ("rule", True, "votes of 3: none")


def test_errors_are_one_sentence(path: Path, tmp_path: Path) -> None:
    with Store.open(path) as store:
        _answer(store, SAMPLES[3].id, 3, "new")
        with pytest.raises(RunError, match="1 chains are not verified yet; run `reground teach"):
            judge(store, config(path))
        verify(store, config(path).verify)
    prompt = tmp_path / "mine.txt"
    prompt.write_text("$question $boxes")
    with pytest.raises(ConfigError, match=r"no \$chains in it; say where the chains to choose"):
        judged(config(path, "http://127.0.0.1:1/v1", f"judge.prompt={prompt}"))
    with pytest.raises(EndpointError, match="see that the address is right"):
        judged(config(path, "http://127.0.0.1:1/v1", "judge.teacher.retries=0"))
