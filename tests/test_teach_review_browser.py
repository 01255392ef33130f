"""The review page in a real browser, by keyboard alone where a reviewer would use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reground.grounding.sample import ImageRef
from reground.teacher.rows import Review
from reground.teacher.store import Store
from reviewing import ReviewServer, begin, make_chains, pick, scenes, serving

api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = pytest.mark.slow  # each opens pages
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with serving(begin(make_chains(tmp_path / "chains.db", scenes()))) as running:
        yield running


def shown(page: Any, number: int) -> None:
    """Wait until the chain of a number, counted from 1, is shown."""
    page.wait_for_selector(f"body[data-shown='{number}']")


def status(page: Any, text: str) -> None:
    """Wait until the status says so."""
    api.expect(page.locator("#status")).to_contain_text(text)


def reviews(server: ReviewServer) -> dict[str, Review]:
    with Store.open(server.session.path) as store:
        return {each.sample: each for each in store.latest_reviews()}


def test_a_review_by_keyboard_from_start_to_finish(page: Any, server: ReviewServer) -> None:
    queue = server.session.queue
    page.goto(server.url)
    shown(page, 1)
    page.keyboard.press("a")
    status(page, "1 accepted; now 2 of 6")

    page.keyboard.press("r")  # with a reason that holds keys of the page
    page.keyboard.type("a bad area? u")
    page.keyboard.press("Enter")
    status(page, "2 rejected; now 3 of 6")
    page.keyboard.press("r")  # and without one
    page.keyboard.press("Enter")
    status(page, "3 rejected; now 4 of 6")

    page.keyboard.press("e")
    before = page.locator("#edit-text").input_value()
    page.keyboard.press("Control+End")
    page.keyboard.type(" </think>")
    page.keyboard.press("Control+Enter")
    status(page, "the tag </think> would open or end")
    for _ in range(len(" </think>")):
        page.keyboard.press("Backspace")
    page.keyboard.type(" So it is.")
    page.keyboard.press("Control+Enter")
    status(page, "4 edited; now 5 of 6")
    api.expect(page.locator("#judged")).to_have_text("4")

    page.keyboard.press("u")  # nothing is decided here: the last decision is taken back
    shown(page, 4)
    status(page, "4 of 6: taken back")
    assert set(reviews(server)) == set(queue[:3])
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(" There.")
    page.keyboard.press("Control+Enter")
    status(page, "4 edited; now 5 of 6")

    page.keyboard.press("ArrowLeft")
    shown(page, 4)
    api.expect(page.locator("#badge")).to_have_text("edited")
    api.expect(page.locator("#think")).to_have_text(f"{before} There.")
    page.keyboard.press("ArrowRight")
    shown(page, 5)
    page.keyboard.press("a")
    status(page, "5 accepted; now 6 of 6")
    page.keyboard.press("a")

    page.wait_for_url("**/results")
    api.expect(page.locator("#acceptance")).to_have_text("50.0 %")
    api.expect(page.locator("body")).to_contain_text("All 6 are judged")
    assert "a bad area? u" in page.inner_text("main")
    assert page.inner_text("ins").strip() == "There."
    found = [(each.decision, each.text) for each in map(reviews(server).get, queue) if each]
    assert found == [
        ("accept", None),
        ("reject", "a bad area? u"),
        ("reject", None),
        ("edit", f"{before} There."),
        ("accept", None),
        ("accept", None),
    ]


def test_buttons_do_what_keys_do(page: Any, server: ReviewServer) -> None:
    page.goto(server.url)
    shown(page, 1)
    page.get_by_role("button", name="accept").click()
    status(page, "1 accepted")
    page.get_by_role("button", name="previous").click()
    shown(page, 1)
    page.get_by_role("button", name="undo").click()
    status(page, "1 of 6: taken back")
    page.get_by_role("button", name="edit").click()
    page.get_by_role("button", name="cancel").click()
    api.expect(page.locator("#edit")).to_be_hidden()
    page.get_by_role("button", name="next").click()
    shown(page, 2)
    page.get_by_role("button", name="help").click()
    api.expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("a")  # keys rest under the help
    page.keyboard.press("Escape")
    api.expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("link", name="results").click()
    page.get_by_role("link", name="Go on with the 6 that are left").click()
    shown(page, 1)
    assert reviews(server) == {}


def test_a_click_on_an_image_toggles_boxes(page: Any, server: ReviewServer) -> None:
    page.goto(server.url)
    shown(page, 1)
    box = page.locator("rect.predicted").first
    api.expect(box).to_be_visible()
    page.locator(".picture button").first.click()
    api.expect(box).to_be_hidden()
    status(page, "boxes hidden")
    page.keyboard.press("b")
    api.expect(box).to_be_visible()


def test_tab_reaches_every_control_and_shows_where_it_is(page: Any, server: ReviewServer) -> None:
    page.goto(server.url)
    shown(page, 1)
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "[document.activeElement.textContent.trim(), "
                "getComputedStyle(document.activeElement).outlineStyle, "
                "document.activeElement.tagName]"
            )
        )
    reached = {text.split(" ")[0] for text, _, tag in seen if tag in ("BUTTON", "A")}
    assert {"results", "help", "boxes", "accept", "reject", "edit", "undo", "←", "next"} <= reached
    assert all(outline == "solid" for _, outline, tag in seen if tag in ("BUTTON", "A"))


@pytest.mark.parametrize("width", [400, 820, 1280])
def test_nothing_stands_outside_the_page(page: Any, server: ReviewServer, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    for path in ("#1", "#6", "results"):
        page.goto("about:blank")
        page.goto(server.url + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{server.url}#1")
    shown(page, 1)
    for name in ("accept", "reject", "edit", "undo", "previous", "next"):
        edges = page.get_by_role("button", name=name).bounding_box()
        assert edges["x"] >= 0 and edges["x"] + edges["width"] <= width


def test_text_of_a_model_never_runs(page: Any, tmp_path: Path) -> None:
    first = scenes(1, ["referring"])[0]
    sample = replace(first, id=HOSTILE, task=HOSTILE, question=HOSTILE, think=f"{HOSTILE} it is")
    session = begin(make_chains(tmp_path / "x.db", [sample]), "<b>eva</b>")
    with serving(session) as server:
        page.goto(server.url)
        shown(page, 1)
        assert page.inner_text("#question") == HOSTILE
        assert page.inner_text("#think") == f"{HOSTILE} it is"
        page.keyboard.press("r")
        page.keyboard.insert_text(HOSTILE)
        page.keyboard.press("Enter")
        page.wait_for_url("**/results")
        assert HOSTILE in page.inner_text("main")
        page.goto(f"{server.url}#1")
        shown(page, 1)
        assert page.inner_text("#own-reason") == HOSTILE
        assert page.title() == "x.db: ReGround review"
        assert page.locator("img").count() == 0


def test_an_image_that_is_gone_is_said(page: Any, tmp_path: Path) -> None:
    first = scenes(1, ["referring"])[0]
    gone = ImageRef(str(tmp_path / "gone.jpg"), 90, 60)
    sample = replace(first, images=(*first.images, gone))
    with serving(begin(make_chains(tmp_path / "x.db", [sample]))) as server:
        page.goto(server.url)
        api.expect(page.locator(".picture .problem").nth(1)).to_contain_text("no such image")
        assert page.locator(".picture.asked figcaption").inner_text() == "image 1, asked for"


def test_what_changed_behind_the_page_is_shown_again(page: Any, server: ReviewServer) -> None:
    page.goto(server.url)
    shown(page, 1)
    with Store.open(server.session.path) as store:
        pick(store, store.entry(server.session.queue[0]).sample, number=1)
    page.keyboard.press("a")
    status(page, "another chain has been picked since")
    assert reviews(server) == {}
    page.keyboard.press("a")
    status(page, "1 accepted; now 2 of 6")


def test_two_browsers_share_one_review(browser: Any, server: ReviewServer) -> None:
    first, second = browser.new_page(), browser.new_page()
    for each in (first, second):
        each.goto(server.url)
        shown(each, 1)
    first.keyboard.press("a")
    status(first, "1 accepted; now 2 of 6")
    second.keyboard.press("ArrowRight")
    shown(second, 2)
    second.keyboard.press("a")
    status(second, "2 accepted; now 3 of 6")
    first.keyboard.press("a")  # 2 again: the last decision counts
    status(first, "2 accepted; now 3 of 6")
    assert len(reviews(server)) == 2
    first.close()
    second.close()


def test_another_page_cannot_decide(browser: Any, server: ReviewServer) -> None:
    """A page of another origin, even one that knows the address, stores nothing."""
    page = browser.new_page()
    page.goto("data:text/html,<title>other</title>")
    call = server.session.sample(0)["call"]
    for kind in ("application/json", "text/plain"):
        body = json.dumps({"call": call, "decision": "accept"})
        page.evaluate(
            "([url, kind, body]) => fetch(url, {method: 'POST', body, mode: kind == 'text/plain' ? "
            "'no-cors' : 'cors', headers: {'Content-Type': kind}}).catch(() => null)",
            [f"{server.url}samples/0", kind, body],
        )
    page.close()
    assert reviews(server) == {}


def test_a_server_that_has_ended_is_said(page: Any, tmp_path: Path) -> None:
    with serving(begin(make_chains(tmp_path / "x.db", scenes()))) as server:
        page.goto(server.url)
        shown(page, 1)
        page.wait_for_load_state("networkidle")
    page.route("**/*", lambda route: route.abort())  # whatever else takes the port
    page.keyboard.press("a")
    status(page, "is `reground teach review` still running? Nothing was stored.")
