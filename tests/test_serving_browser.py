"""The page in a real browser: photos, boxes, a detector's box, errors; keyboard and phone."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from asking import Slow, served
from reground.api import Grounder
from reground.serving.guard import Rules
from reground.serving.service import Limits
from reground.tinyworld import scenes as synth

pytestmark = pytest.mark.slow  # each opens pages
SAMPLE = synth.sample("referring", seed=7, index=1)
TRUE = SAMPLE.boxes[0].xyxy


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    synth.render(SAMPLE.images[0].path).save(path)
    return path


def asked(page: Any, client: httpx2.Client, photo: Path, text: str = SAMPLE.question) -> None:
    """Pick the photo, ask, and wait for the answer."""
    page.goto(str(client.base_url))
    page.set_input_files("#files", photo)
    page.wait_for_selector("#photos img")
    page.fill("#text", text)
    page.click("#go")
    page.wait_for_selector("#answer:not([hidden])")


def said(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#status').textContent.includes(text)", arg=text
    )


def test_a_photo_and_a_phrase_give_a_box(
    page: Any, client: httpx2.Client, tiny: Grounder, photo: Path
) -> None:
    """Drawn at its pixels, with score and reasoning, and told as the API tells it."""
    asked(page, client, photo)
    found = tiny.ground([photo], SAMPLE.question)
    (box,) = found.answer.boxes
    drawn = page.locator("rect.found")
    edges = [float(drawn.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert edges == pytest.approx([box.x1, box.y1, box.width, box.height])
    assert found.answer.think and found.answer.think in page.inner_text(".reasons")
    assert f"score {found.scores[0]:.2f}" in page.inner_text(".boxes")
    image, area = page.locator("#photos img").bounding_box(), page.locator("svg").bounding_box()
    for name in ("x", "y", "width"):
        assert area[name] == pytest.approx(image[name], abs=1)
    assert area["height"] == pytest.approx(image["height"], abs=1)


def test_reasoning_grows_before_the_answer_is_there(page: Any, tiny: Grounder, photo: Path) -> None:
    """Each state of the text that is seen goes on from the one before."""

    class Paced:
        def answers(self, starts: Any, *, heard: Any, **how: Any) -> Any:
            def listens(place: int, ids: Any) -> bool:
                time.sleep(0.05)
                return bool(heard(place, ids))

            return tiny.answers(starts, heard=listens, **how)

    with served(tiny, Paced()) as client:
        page.goto(str(client.base_url))
        page.evaluate(
            """() => {
              const status = document.querySelector("#status");
              const answer = document.querySelector("#answer");
              window.seen = [];
              new MutationObserver(() => answer.hidden && window.seen.push(status.textContent))
                .observe(status, {childList: true});
            }"""
        )
        page.set_input_files("#files", photo)
        page.wait_for_selector("#photos img")
        page.fill("#text", SAMPLE.question)
        page.click("#go")
        page.wait_for_selector("#answer:not([hidden])")
    seen = page.evaluate("window.seen")
    said = seen[seen.index("The model looks …") + 1 :]
    said = [each for each in said if each != "The model looks …"]
    think = tiny.ground([photo], SAMPLE.question).answer.think or ""
    assert len(set(said)) >= 3 and "<" not in "".join(said)
    assert all(after.startswith(before) for before, after in pairwise(said))
    assert think.startswith(said[0]) and said[-1].startswith(think)


def test_everything_by_keyboard(page: Any, client: httpx2.Client, photo: Path) -> None:
    """An example, the question, a detector's box by its edges."""
    page.goto(str(client.base_url))
    page.wait_for_selector("#examples button")
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#photos img")
    page.wait_for_selector("#text:focus")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the detector's box
    page.keyboard.press("Tab")
    for edge in ("10", "12", "60", "70"):
        page.keyboard.type(edge)
        page.keyboard.press("Tab")
    page.wait_for_selector("rect.tool")
    page.locator("#text").focus()
    with page.expect_request("**/v1/ground") as request:
        page.keyboard.press("Enter")
    assert request.value.post_data_json["tool_boxes"] == [[10, 12, 60, 70]]
    page.wait_for_selector("#answer:not([hidden])")


def test_a_box_is_drawn_with_the_mouse(page: Any, client: httpx2.Client, photo: Path) -> None:
    page.goto(str(client.base_url))
    page.set_input_files("#files", photo)
    page.click("summary")
    page.wait_for_selector("figure.draws svg")
    area = page.locator("figure.draws svg").bounding_box()
    x, y = (area[side] + area[size] / 2 for side, size in (("x", "width"), ("y", "height")))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - area["width"] / 4, y + area["height"] / 4)
    page.mouse.up()
    edges = [float(page.input_value(f"#{name}")) for name in ("x1", "y1", "x2", "y2")]
    assert edges == pytest.approx([28, 56, 56, 84], abs=1)
    page.click("#unbox")
    assert page.locator("rect.tool").count() == 0


def test_several_photos_and_the_one_to_point_in(
    page: Any, client: httpx2.Client, tmp_path: Path
) -> None:
    sample = synth.sample("refer_grounding", seed=7, index=0)
    paths = []
    for number, image in enumerate(sample.images):
        paths.append(tmp_path / f"{number}.png")
        synth.render(image.path).save(paths[-1])
    page.goto(str(client.base_url))
    page.set_input_files("#files", paths)
    page.fill("#text", sample.question)
    page.locator("input[name=target]").first.check()
    with page.expect_request("**/v1/ground") as request:
        page.click("#go")
    body = request.value.post_data_json
    assert (len(body["images"]), body["target_image"]) == (len(paths), 0)
    page.wait_for_selector("#answer:not([hidden])")


def test_photos_are_dropped_and_pasted(page: Any, client: httpx2.Client, photo: Path) -> None:
    page.goto(str(client.base_url))
    for kind in ("drop", "paste"):
        page.evaluate(
            """async ([kind, url]) => {
              const bytes = await (await fetch(url)).blob();
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], kind + ".svg", {type: "image/svg+xml"}));
              const bubbles = true;
              document.body.dispatchEvent(kind === "drop"
                ? new DragEvent(kind, {dataTransfer: transfer, bubbles})
                : new ClipboardEvent(kind, {clipboardData: transfer, bubbles}));
            }""",
            [kind, "page/icon.svg"],
        )
        page.wait_for_selector(f"figcaption:has-text('{kind}.svg')")


def test_earlier_questions_come_back(page: Any, client: httpx2.Client, photo: Path) -> None:
    asked(page, client, photo)
    first = page.inner_text(".boxes")
    page.fill("#text", "<b>nothing</b> like this")
    page.click("#go")
    page.wait_for_selector("#history li:nth-child(2)")
    page.locator("#history button").last.click()
    assert page.input_value("#text") == SAMPLE.question
    assert page.inner_text(".boxes") == first
    assert page.inner_text("#history li:first-child") == "<b>nothing</b> like this"


def test_an_answer_is_copied(page: Any, client: httpx2.Client, photo: Path, browser: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    asked(page, client, photo, 'the cup\'s "lid"')
    copied = {}
    for kind in ("json", "coco", "curl", "python"):
        page.click(f"[data-copy={kind}]")
        said(page, "Copied.")
        copied[kind] = page.evaluate("navigator.clipboard.readText()")
        page.evaluate("document.querySelector('#status').textContent = ''")
    answer, coco = json.loads(copied["json"]), json.loads(copied["coco"])
    x, y, width, height = coco["annotations"][0]["bbox"]
    assert answer["boxes"][0]["box"] == pytest.approx([x, y, x + width, y + height])
    assert coco["categories"][0]["name"] == 'the cup\'s "lid"'
    compile(copied["python"], "copied", "exec")
    if shutil.which("curl") and shutil.which("jq"):
        command = copied["curl"].replace("PHOTO", str(photo))
        done = subprocess.run(command, shell=True, capture_output=True, check=True)
        assert json.loads(done.stdout)["text"] == answer["text"]


@pytest.fixture(scope="module")
def pair(tiny: Grounder) -> Iterator[httpx2.Client]:
    """A client of a server over the two models that are shipped."""
    refiner = Grounder.from_pretrained("tiny_refiner")
    with served(tiny, tiny, others={"tiny_refiner": refiner}) as own:
        yield own


def test_a_first_thought_a_detector_and_the_answer_are_told_apart(
    page: Any, pair: httpx2.Client, photo: Path
) -> None:
    """Three boxes, each in its stroke and in the legend; the thought's label is at its box."""
    page.goto(str(pair.base_url))
    page.set_input_files("#files", photo)
    page.select_option("#first", "tiny_refiner")
    page.fill("#text", SAMPLE.question)
    page.click("summary")
    for edge, value in zip(("x1", "y1", "x2", "y2"), (5, 5, 60, 60), strict=True):
        page.fill(f"#{edge}", str(value))
    with page.expect_response("**/v1/ground") as response:
        page.click("#go")
    page.wait_for_selector("#answer:not([hidden])")
    sent = json.loads(response.value.text().strip().rpartition("data: ")[2])
    kinds = ("found", "first", "tool")
    looks = [
        page.locator(f"rect.{kind}").evaluate(
            "each => [getComputedStyle(each).stroke, getComputedStyle(each).strokeDasharray]"
        )
        for kind in kinds
    ]
    assert len({stroke for stroke, _ in looks}) == len({dash for _, dash in looks}) == 3
    x1, y1, x2, y2 = sent["first"][0]["box"]
    drawn = page.locator("rect.first")
    edges = [float(drawn.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert edges == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    tag, area = page.locator(".tag.first").bounding_box(), page.locator("svg").bounding_box()
    assert tag["y"] == pytest.approx(area["y"] + area["height"] * y2 / sent["height"], abs=4)
    assert page.locator("#key li").all_inner_texts() == [
        "answer",
        "first thought",
        "detector's box",
    ]
    assert ", ".join(f"{value:.0f}" for value in (x1, y1, x2, y2)) in page.inner_text(".reasons")


@pytest.mark.parametrize(("index", "verdict"), [(3, "The models agree"), (6, "The models differ")])
def test_two_models_are_compared(
    page: Any, pair: httpx2.Client, tmp_path: Path, index: int, verdict: str
) -> None:
    """Both answers are drawn, each in its stroke; what one alone has is filled, and said."""
    sample = synth.sample("referring", seed=7, index=index)
    synth.render(sample.images[0].path).save(tmp_path / "scene.png")
    page.goto(str(pair.base_url))
    page.set_input_files("#files", tmp_path / "scene.png")
    page.fill("#text", sample.question)
    page.locator("#compare").focus()
    page.keyboard.press("Space")
    page.locator("#text").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#compared:has-text('{verdict}')")
    assert page.locator(".card .name").all_inner_texts() == ["A: tiny", "B: tiny_refiner"]
    assert "A: tiny" in page.inner_text("#key") and "B: tiny_refiner" in page.inner_text("#key")
    first, second = page.locator("rect.found:not(.other)"), page.locator("rect.found.other")
    for name in ("stroke", "strokeDasharray"):
        look = f"each => getComputedStyle(each).{name}"
        assert first.evaluate(look) != second.evaluate(look)
    differ = 2 if "differ" in verdict else 0
    assert page.locator("rect.alone").count() == page.locator(".card .badge").count() == differ
    assert all(page.locator(".card .reasons").all_inner_texts())


def test_of_two_models_one_may_fail(page: Any, tiny: Grounder, photo: Path) -> None:
    failing = Slow(spoilt="the ring")
    failing.may.set()
    with served(tiny, tiny, others={"other": failing}) as client:
        page.goto(str(client.base_url))
        page.set_input_files("#files", photo)
        page.fill("#text", "the ring")
        page.check("#compare")
        page.click("#go")
        page.wait_for_selector("#compared:has-text('Only one of the two models answered.')")
        assert page.inner_text(".card:nth-child(2) .verdict") == "the model failed: MemoryError"
        page.fill("#text", "no such thing")  # to which the other answers that nothing is there
        page.click("#go")
        page.wait_for_selector(".card:nth-child(2) .verdict:has-text('Nothing found')")


def test_scenes_and_a_photo_are_at_hand(page: Any, client: httpx2.Client) -> None:
    """Each asks its question about its pictures; what a model of scenes cannot know is said."""
    page.goto(str(client.base_url))
    page.wait_for_selector("#examples button")
    for button in page.locator("#examples button").all():
        button.click()
        page.wait_for_selector("#text:focus")
        page.wait_for_selector("#photos img")
        assert page.input_value("#text")
    said(page, "A real photo (BCCD, MIT licence).")
    assert "640" in page.inner_text("#photos figcaption")
    page.click("#go")
    page.wait_for_selector("#answer:not([hidden])")


def test_mistakes_are_told(page: Any, client: httpx2.Client, tmp_path: Path, photo: Path) -> None:
    page.goto(str(client.base_url))
    page.fill("#text", "the cup")
    page.click("#go")
    said(page, "Choose a photo first.")
    bad = tmp_path / "notes.png"
    bad.write_text("no picture")
    page.set_input_files("#files", bad)
    said(page, "notes.png is no picture that a browser shows")
    page.set_input_files("#files", photo)
    page.wait_for_selector("#photos img")
    page.fill("#text", "   ")
    page.click("#go")
    said(page, "found an empty text; say what to look for")


def test_a_full_queue_and_a_server_that_is_gone_are_told(
    page: Any, tiny: Grounder, photo: Path
) -> None:
    model = Slow()
    with served(tiny, model, Limits(most_waiting=1, timeout_s=2)) as client:
        page.goto(str(client.base_url))
        page.set_input_files("#files", photo)
        page.fill("#text", "late")
        page.click("#go")
        said(page, "no answer within 2 s")
        model.may.set()
    page.click("#go")
    said(page, "The server does not answer; is it still running?")


def test_a_key_is_asked_for(page: Any, tiny: Grounder, photo: Path) -> None:
    with served(tiny, tiny, rules=Rules(api_key="secret")) as client:
        page.on("dialog", lambda dialog: dialog.accept("secret"))
        asked(page, client, photo)
        assert page.inner_text("#model") == "tiny"


def test_the_theme_is_changed_by_hand(page: Any, client: httpx2.Client) -> None:
    page.goto(str(client.base_url))
    look = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(look)
    page.click("#theme")
    assert page.evaluate(look) != before


def test_the_description_is_read_and_tried(page: Any, client: httpx2.Client) -> None:
    """Every address of /openapi.json is on /docs, and the example of each gets an answer."""
    described = client.get("/openapi.json").json()["paths"]
    page.goto(f"{client.base_url}/docs")
    page.wait_for_selector("article")
    text = page.inner_text("#list")
    assert all(path in text for path in described)
    for path in ("/v1/ground", "/cvat", "/v1/models"):
        article = page.locator(f"article:has(h2:text-matches('{path}$'))")
        article.get_by_text("Try it").click()
        article.get_by_role("button", name="Send").click()
        article.locator("pre:has-text('200 OK')").wait_for()
    assert not page.evaluate(
        "performance.getEntriesByType('resource').some((e) => !e.name.startsWith(location.origin))"
    )
