"""axe-core finds no serious fault on any page, in light and in dark, wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from asking import served
from driver import reground
from reground.api import Grounder
from reground.teacher.store import Store
from reviewing import begin, make_chains, scenes, serving

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")

pytestmark = pytest.mark.slow  # each opens pages


@pytest.fixture(scope="module")
def addresses(tiny: Grounder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Every page that the package makes, by name."""
    folder = tmp_path_factory.mktemp("pages")
    chains = make_chains(folder / "chains.db", scenes())
    report = folder / "report"
    reground(
        *("eval", "--model", "tiny", "--data", "synth:referring", "--limit", "6"),
        *("--out", str(report)),
    )
    with ExitStack() as stack:
        pair = stack.enter_context(served(tiny, tiny, others={"the same": tiny}))
        session = begin(chains)
        session.decide(0, call=session.sample(0)["call"], decision="reject", text="no")
        review = stack.enter_context(serving(session))
        stack.enter_context(Store.open(chains))
        yield {
            "page": str(pair.base_url),
            "docs": f"{pair.base_url}/docs",
            "review": review.url,
            "results": f"{review.url}results",
            "report": (report / "report.html").as_uri(),
        }


def prepare(page: Any, name: str) -> None:
    """Open what a page has to show."""
    if name == "page":
        page.locator("#examples button").first.click()
        page.wait_for_selector("#photos img")
        page.check("#compare")
        page.click("summary")
        page.click("#go")
        page.wait_for_selector("#answer:not([hidden])")
    elif name == "docs":
        page.wait_for_selector("article")
        for summary in page.locator("summary").all():
            summary.click()
        page.get_by_role("button", name="Send").first.click()
    elif name == "review":
        page.wait_for_selector("body[data-shown]")
        page.keyboard.press("e")


@pytest.mark.parametrize("name", ["page", "docs", "review", "results", "report"])
def test_no_page_has_a_serious_fault(browser: Any, addresses: dict[str, str], name: str) -> None:
    page = browser.new_page()
    page.goto(addresses[name])
    prepare(page, name)
    serious = []
    for width, scheme in ((390, "light"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page).response["violations"]
        serious += [each for each in found if each["impact"] in ("serious", "critical")]
    page.close()
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious] == []
