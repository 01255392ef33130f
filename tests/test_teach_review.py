"""Reviewing: which chains are chosen, what figures say, and what the server lets in."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest
from typer.testing import CliRunner

from reground.cli import app
from reground.errors import ConfigError, DataError, RunError
from reground.grounding.sample import ImageRef
from reground.teacher.review.results import (
    agreements,
    changes,
    cohen_kappa,
    combined,
    fleiss_kappa,
    results,
    wilson,
)
from reground.teacher.review.session import OutdatedError, RefusedError, Session, chosen_ids
from reground.teacher.rows import Review
from reground.teacher.store import Store
from reviewing import ReviewServer, begin, make_chains, pick, scenes, serving

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>&amp;\u202e"

# ---- choosing ----------------------------------------------------------------------------------

TASKS = {
    f"{task}-{n}": task for task, count in [("a", 200), ("b", 31), ("c", 1)] for n in range(count)
}


def test_every_task_gives_its_share_and_at_least_one() -> None:
    chosen = chosen_ids(TASKS, share=0.1, seed=3)
    assert Counter(TASKS[each] for each in chosen) == {"a": 20, "b": 4, "c": 1}
    assert len(chosen_ids({f"x{n}": "x" for n in range(100)}, share=0.07, seed=0)) == 7
    assert set(chosen_ids(TASKS, share=1, seed=0)) == set(TASKS)


def test_the_choice_follows_seed_and_ids_alone() -> None:
    chosen = chosen_ids(TASKS, share=0.1, seed=3)
    assert chosen_ids(dict(reversed(TASKS.items())), share=0.1, seed=3) == chosen
    assert chosen_ids(TASKS, share=0.1, seed=4) != chosen
    assert set(chosen) < set(chosen_ids(TASKS, share=0.3, seed=3))
    half = Counter(TASKS[each] for each in chosen_ids(TASKS, share=1, seed=3)[:116])
    assert 85 <= half["a"] <= 115  # tasks come mixed


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_said(share: float) -> None:
    with pytest.raises(ConfigError, match=r"share: found .*, expected a number above 0"):
        chosen_ids(TASKS, share=share, seed=0)


# ---- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),  # Newcombe 1998, Table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(
    hits: int, n: int, low: float, high: float
) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_are_those_of_scipy(case: tuple[int, int]) -> None:
    expected = binomtest(*case).proportion_ci(method="wilson")
    assert wilson(*case) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_cohens_kappa_by_hand() -> None:
    rows = [["y", "y"]] * 20 + [["y", "n"]] * 5 + [["n", "y"]] * 10 + [["n", "n"]] * 15
    assert cohen_kappa(rows) == pytest.approx((0.7 - 0.5) / 0.5)
    assert cohen_kappa([["y", "y"]] * 9) is None
    assert cohen_kappa([["y", "n"]] * 9) == 0


def test_fleiss_kappa_of_a_known_table() -> None:
    # The example with 14 judges and 10 subjects that is commonly given for Fleiss' kappa.
    table = ["0 0 0 0 14", "0 2 6 4 2", "0 0 3 5 6", "0 3 9 2 0", "2 2 8 1 1"]
    table += ["7 7 0 0 0", "3 2 6 3 0", "2 5 3 2 2", "6 5 2 1 0", "0 2 2 3 7"]
    rows = [
        [word for word, count in zip("abcde", line.split(), strict=True) for _ in range(int(count))]
        for line in table
    ]
    assert fleiss_kappa(rows) == pytest.approx(0.210, abs=5e-4)


def test_reviewers_agree_on_what_all_of_them_judged() -> None:
    judged = {
        "eva": {"1": "accept", "2": "accept", "3": "reject"},
        "ben": {"1": "accept", "2": "reject", "4": "accept"},
        "ann": {"1": "accept", "2": "reject"},
    }
    found = {each.reviewers: each for each in agreements(judged)}
    everyone = found["ann", "ben", "eva"]
    assert (everyone.n, everyone.share) == (2, pytest.approx(2 / 3))
    # 4 of 6 accept: chance is (4/6)^2 + (2/6)^2 = 5/9
    assert everyone.kappa == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    assert (found["ben", "eva"].n, found["ben", "eva"].share) == (2, 0.5)
    assert found["ann", "ben"].kappa == 1
    assert [each.reviewers for each in agreements({"a": {"1": "x"}, "b": {"2": "x"}})] == []


def review(sample: str, reviewer: str, decision: Any, text: str | None = None) -> Review:
    return Review(sample=sample, call=1, reviewer=reviewer, decision=decision, text=text)


def test_of_several_decisions_the_strictest_counts() -> None:
    reviews = [review("a", "eva", "edit", "x"), review("a", "ben", "accept")]
    reviews += [review("a", "ann", "edit", "y"), review("b", "eva", "reject")]
    reviews += [review("b", "ben", "accept"), review("c", "eva", "accept")]
    final = combined(reviews)
    assert (final["a"].text, final["b"].decision, final["c"].decision) == ("y", "reject", "accept")
    found = results(reviews, tasks={"a": "region", "b": "diff", "c": "region"})
    overall = found.overall
    assert (overall.n, overall.accepted, overall.edited, overall.rejected) == (3, 1, 1, 1)
    assert overall.rate == pytest.approx(1 / 3) and overall.interval == wilson(1, 3)
    assert [(each.name, each.n) for each in found.tasks] == [("diff", 1), ("region", 2)]
    assert [(each.name, each.n) for each in found.reviewers] == [("ann", 1), ("ben", 2), ("eva", 3)]
    nothing = results([], tasks={}).overall
    assert (nothing.n, nothing.rate, nothing.interval) == (0, None, None)


@given(st.text("ab \n"), st.text("ab \n"))
def test_changes_rebuild_both_texts(before: str, after: str) -> None:
    pieces = changes(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


# ---- sessions ----------------------------------------------------------------------------------


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    return make_chains(tmp_path / "chains.db", scenes(), unpicked=1)


def test_only_picked_chains_are_shown(chains: Path) -> None:
    session = begin(chains)
    assert (len(session.queue), session.num_picked) == (5, 5)
    (sample,) = [each for each in scenes() if each.id == session.queue[0]]
    shown = session.sample(0)
    assert (shown["question"], shown["think"]) == (sample.question, sample.think)
    assert shown["answer"].startswith("<answer>(") and shown["own"] is None
    target = shown["images"][sample.target_image]
    truth = [box.xyxy for box in sample.boxes]
    assert list(target["truth"]) == list(target["chain"]) == truth
    others = [each for each in shown["images"] if not each["is_target"]]
    assert len(others) == len(sample.images) - 1 and all(not each["chain"] for each in others)


@pytest.mark.parametrize("name", ["", "  ", "a\x07", "x" * 61])
def test_a_reviewer_has_a_name(chains: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name of 1 to 60 letters"):
        begin(chains, name)


def test_without_a_pick_there_is_nothing_to_review(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"x\.db: no chain is picked yet; run `reground teach judge`"
    ):
        begin(make_chains(tmp_path / "x.db", scenes(1), unpicked=2))


@pytest.mark.parametrize(
    ("decision", "text", "message"),
    [
        ("edit", None, "the reasoning is empty"),
        ("edit", " \n", "the reasoning is empty"),
        ("edit", "It is </think> here", "the tag </think> would open or end a block"),
        ("edit", "<tool>x", "the tag <tool> would"),
        ("edit", "same", "nothing was changed"),
        ("edit", "x" * 20_001, "20001 characters"),
        ("edit", "half \ud83d", "half a letter"),
        ("like", None, "unknown decision 'like'"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    chains: Path, decision: str, text: str | None, message: str
) -> None:
    session = begin(chains)
    shown = session.sample(0)
    with pytest.raises(RefusedError, match=message):
        text = f" {shown['think']} " if text == "same" else text
        session.decide(0, call=shown["call"], decision=decision, text=text)
    assert session.unjudged() == [0, 1, 2, 3, 4]


def test_a_decision_is_about_the_chain_that_was_seen(chains: Path) -> None:
    session = begin(chains)
    seen = session.sample(0)["call"]
    session.decide(0, call=seen, decision="reject", text="wrong")
    assert session.sample(0)["own"] == {"decision": "reject", "text": "wrong"}
    with Store.open(chains) as store:
        pick(store, store.entry(session.queue[0]).sample, number=1)
    assert session.sample(0)["own"] is None and session.unjudged() == [0, 1, 2, 3, 4]
    with pytest.raises(OutdatedError, match="another chain has been picked since"):
        session.decide(0, call=seen, decision="accept")
    with Store.open(chains) as store:
        store.drop_pick(session.queue[0])
    with pytest.raises(OutdatedError, match="has no picked chain any more"):
        session.sample(0)
    assert session.unjudged() == [1, 2, 3, 4]


def test_images_are_sent_small_and_exactly_where_they_are_small(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "photo.jpg")
    first = scenes(1, ["referring"])[0]
    photo = ImageRef(str(tmp_path / "photo.jpg"), 3000, 1500)
    gone = ImageRef(str(tmp_path / "gone.jpg"), 9, 9)
    sample = replace(first, images=(*first.images, photo, gone))
    session = begin(make_chains(tmp_path / "x.db", [sample]))
    sizes = [Image.open(io.BytesIO(session.image(0, n, side=1000).body)).size for n in (0, 1)]
    assert sizes == [(112, 112), (1000, 500)]
    assert session.image(0, 0, side=1000).content_type == "image/png"
    assert Image.open(io.BytesIO(session.image(0, 1, side=1).body)).size == (64, 32)
    with pytest.raises(DataError, match=r"gone\.jpg: no such image"):
        session.image(0, 2, side=100)
    with pytest.raises(IndexError):
        session.image(0, 3, side=100)


# ---- the server --------------------------------------------------------------------------------

Answer = tuple[int, http.client.HTTPMessage, bytes]


def ask(
    server: ReviewServer, path: str, body: Any = None, *, token: str | None = None, **headers: str
) -> Answer:
    """One request, a POST where there is a body; bytes are sent as they are."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    method = "GET" if body is None else "POST"
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if body is not None else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    token = server.pages.token if token is None else token
    connection.request(method, f"/review/{token}/{path}", content, sent)
    reply = connection.getresponse()
    try:
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


@pytest.fixture
def server(chains: Path) -> Iterator[ReviewServer]:
    with serving(begin(chains)) as running:
        yield running


def stored(server: ReviewServer) -> list[str]:
    with Store.open(server.session.path) as store:
        return [each.decision for each in store.latest_reviews()]


def test_a_decision_is_stored_and_taken_back(server: ReviewServer) -> None:
    status, _, body = ask(server, "samples/1")
    shown = json.loads(body)
    assert (status, shown["index"], shown["own"]) == (200, 1, None)
    status, _, body = ask(server, "samples/1", {"call": shown["call"], "decision": "accept"})
    assert (status, json.loads(body)) == (200, {"next": 2, "left": 4})
    edit = {"call": shown["call"], "decision": "edit", "text": "It is the one on the left."}
    assert ask(server, "samples/1", edit)[0] == 200
    own = json.loads(ask(server, "samples/1")[2])["own"]
    assert own == {"decision": "edit", "text": "It is the one on the left."}
    assert stored(server) == ["edit"]
    status, _, body = ask(server, "samples/1", {"call": shown["call"], "decision": "undo"})
    assert json.loads(body) == {"next": 2, "left": 5}
    assert stored(server) == []


def test_the_page_goes_on_with_what_is_left(server: ReviewServer) -> None:
    for index, expected in [(0, 1), (4, 1), (2, 3), (3, 1), (1, None)]:
        call = json.loads(ask(server, f"samples/{index}")[2])["call"]
        reply = ask(server, f"samples/{index}", {"call": call, "decision": "accept"})
        assert json.loads(reply[2])["next"] == expected
    assert b'data-first=""' in ask(server, "")[2]
    assert b"All 5 are judged" in ask(server, "results")[2]


@pytest.mark.parametrize("path", ["", "samples/0", "images/0/0", "results", "review.js"])
@pytest.mark.parametrize("token", ["", "x", "%00", "open", "/[", "//"])
def test_without_the_token_there_is_nothing(server: ReviewServer, path: str, token: str) -> None:
    assert ask(server, path, token=token)[0] == 403
    assert ask(server, path, {"call": 1, "decision": "accept"}, token=token)[0] == 403


LOCAL = ["127.0.0.1:80", "localhost:9999", "localhost", "127.0.0.1"]
FOREIGN = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:80",
    "",
    "[::1",
    "0.0.0.0",
]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": host}, 200) for host in LOCAL]
    + [({"Host": host}, 421) for host in FOREIGN]
    + [
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "https://localhost:1"}, 403),
        ({"Host": "localhost:1", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost:1", "Origin": "null"}, 403),
    ],
)
def test_pages_of_other_names_are_refused(
    server: ReviewServer, headers: dict[str, str], status: int
) -> None:
    call = json.loads(ask(server, "samples/0")[2])["call"]
    assert ask(server, "samples/0", **headers)[0] == status
    reply = ask(server, "samples/0", {"call": call, "decision": "accept"}, **headers)
    assert reply[0] == status
    assert stored(server) == (["accept"] if status == 200 else [])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("samples/5", 404),
        ("samples/-1", 404),
        ("samples/x", 404),
        ("samples/%C2%B2", 404),
        ("samples/99999999999999999999", 404),
        ("samples/0/0", 404),
        ("images/0/9", 404),
        ("images/9/0", 404),
        ("images/0/0?side=big", 422),
        ("../../etc/passwd", 404),
        ("review.css", 200),
        ("review.js", 200),
    ],
)
def test_unknown_addresses_are_said(server: ReviewServer, path: str, status: int) -> None:
    assert ask(server, path)[0] == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[" * 100_000, 400),
        (b"\xff", 400),
        (b"null", 422),
        ({"decision": "accept"}, 422),
        ({"call": True, "decision": "accept"}, 422),
        ({"call": "1", "decision": "accept"}, 422),
        ({"call": 1, "decision": ["accept"]}, 422),
        ({"call": 1, "decision": "accept", "text": 5}, 422),
        ({"call": 10**30, "decision": "accept"}, 409),
        (b"x" * 200_001, 413),
    ],
)
def test_bodies_that_are_no_decisions_are_refused(
    server: ReviewServer, body: Any, status: int
) -> None:
    assert ask(server, "samples/0", body)[0] == status
    assert stored(server) == []


def test_a_form_of_another_page_is_no_decision(server: ReviewServer) -> None:
    call = json.loads(ask(server, "samples/0")[2])["call"]
    body = {"call": call, "decision": "accept"}
    for kind in ["text/plain", "application/x-www-form-urlencoded"]:
        assert ask(server, "samples/0", body, Content_Type=kind)[0] == 422
    for length in ["", "-1", "9" * 5000]:
        assert ask(server, "samples/0", body, Content_Length=length)[0] == 400
    assert stored(server) == []


def test_images_are_served_one_by_one(server: ReviewServer) -> None:
    status, headers, body = ask(server, "images/0/0?side=800")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(body)).size == (112, 112)
    status, headers, body = ask(server, "samples/0")
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_the_address_without_its_last_slash_leads_to_the_page(server: ReviewServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.request("GET", server.pages.path.rstrip("/"))
    reply = connection.getresponse()
    connection.close()
    assert (reply.status, reply.headers["Location"]) == (302, server.pages.path)


def test_the_ticket_opens_the_page_once(server: ReviewServer) -> None:
    ticket = server.pages.ticket
    assert ask(server, "wrong", token="open")[0] == 403
    assert ask(server, "", token="open")[0] == 403
    status, headers, _ = ask(server, str(ticket), token="open")
    assert (status, headers["Location"]) == (302, server.pages.path)
    assert ask(server, str(ticket), token="open")[0] == 403
    assert server.pages.token != ticket


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    first = scenes(1, ["referring"])[0]
    sample = replace(first, id=HOSTILE, task=HOSTILE, question=HOSTILE, think=f"{HOSTILE} it is")
    path = make_chains(tmp_path / "<b>&.db", [sample])
    with serving(begin(path, "<i>eva</i>")) as server:
        _, headers, body = ask(server, "samples/0")
        shown = json.loads(body)
        assert headers["Content-Type"].startswith("application/json")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert shown["think"] == f"{HOSTILE} it is"
        for decision, text in [("reject", HOSTILE), ("edit", f"{HOSTILE} it was")]:
            body = {"call": shown["call"], "decision": decision, "text": text}
            assert ask(server, "samples/0", body)[0] == 200
            page = ask(server, "results")[2].decode() + ask(server, "")[2].decode()
            assert "&lt;/script&gt;" in page and "&lt;b&gt;&amp;.db" in page
            assert "<img" not in page and "<b>&" not in page and "<i>eva" not in page
            assert page.count("<script") == 1  # ours, in the page of items


def test_reviewers_work_at_the_same_time(tmp_path: Path) -> None:
    path = make_chains(tmp_path / "x.db", scenes(10))
    names = ["ann", "ben", "eva"]

    def work(session: Session) -> None:
        with serving(session) as server:
            for index in range(20):
                shown = json.loads(ask(server, f"samples/{index}")[2])
                assert shown["own"] is None  # nobody sees what others said
                decision = "reject" if index == 3 and session.reviewer == "ben" else "accept"
                body = {"call": shown["call"], "decision": decision}
                assert ask(server, f"samples/{index}", body)[0] == 200

    threads = [threading.Thread(target=work, args=[begin(path, name)]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, _ = begin(path).results()
    assert [(each.name, each.n) for each in found.reviewers] == [(name, 20) for name in names]
    assert (found.overall.accepted, found.overall.rejected) == (19, 1)
    assert found.agreements[0].share == pytest.approx((19 + 1 / 3) / 20)
    with serving(begin(path)) as server:
        page = ask(server, "results")[2].decode()
    assert "ann, ben, eva" in page and "Fleiss" in page and "95.0" in page


def test_a_full_disk_is_said_in_the_page(
    server: ReviewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise RunError("chains.db: database or disk is full")

    call = json.loads(ask(server, "samples/0")[2])["call"]
    monkeypatch.setattr(Store, "add_review", full)
    status, _, body = ask(server, "samples/0", {"call": call, "decision": "accept"})
    problem = {"error": "chains.db: database or disk is full"}
    assert (status, json.loads(body)) == (500, problem)


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that runs tests in the background lets them, and what they start, ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_and_says_what_was_stored(chains: Path) -> None:
    command = [sys.executable, "-m", "reground", "teach", "review", str(chains), "--share", "1"]
    command += ["--reviewer", "eva", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "5 of 5 picked chains to look at, as eva" in child.stdout.readline()
        url = child.stdout.readline().strip()
        shown = json.loads(urllib.request.urlopen(f"{url}samples/0", timeout=20).read())
        body = json.dumps({"call": shown["call"], "decision": "accept"}).encode()
        sent = urllib.request.Request(f"{url}samples/0", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(sent, timeout=20).close()
        with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
            os.kill(child.pid, signal.SIGINT)  # a browser that holds a connection keeps nobody
            said, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert "1 of 5 judged by eva: 1 accepted, 0 edited, 0 rejected" in said
    assert not list(chains.parent.glob("*-wal"))  # closed, so SQLite tidied up


@pytest.mark.usefixtures("interruptible")
def test_a_browser_is_started_with_the_ticket_alone(
    chains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads to the page, whose address no command line holds."""
    pages: list[tuple[str, str, bytes]] = []

    def browse(url: str) -> None:
        with urllib.request.urlopen(url, timeout=20) as reply:
            pages.append((url, reply.url, reply.read()))
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", browse)
    result = CliRunner().invoke(app, ["teach", "review", str(chains)])
    assert (result.exit_code, result.exception) == (0, None)
    ((opened, shown, page),) = pages
    token = urlsplit(shown).path.split("/")[2]
    assert token in result.stdout and token not in opened
    assert b"ReGround review" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--share", "0"], "share: found 0.0"),
        (["--reviewer", " "], "expected a name"),
        (["--port", "{taken}"], "127.0.0.1:{taken} cannot be used"),
    ],
)
def test_what_the_command_refuses(chains: Path, options: list[str], message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = [each.format(taken=port) for each in options]
        result = CliRunner().invoke(app, ["teach", "review", str(chains), "--no-open", *options])
    assert message.format(taken=port) in str(result.exception)
