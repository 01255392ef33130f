"""Takes the pictures of the page in docs/serving.md, in a real Chromium.

python scripts/page_pictures.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from background import running
from reground.api import Grounder
from reground.grounding.sample import Sample
from reground.serving.app import make_app
from reground.serving.batching import ModelThread
from reground.serving.guard import Rules
from reground.serving.service import Limits, ServedModel, Service
from reground.tinyworld import scenes

DOCS = Path(__file__).parents[1] / "docs"
MODELS = ("tiny", "tiny_refiner")
SIZES = {"page.png": (1180, 700), "page_phone.png": (390, 844)}


def main() -> None:
    """Serve the tiny models, ask, and save what is seen."""
    limits = Limits()
    grounders = {name: Grounder.from_pretrained(name) for name in MODELS}
    models = [
        ServedModel(name, each, ModelThread(each, batch_tokens=20_000, most_waiting=8))
        for name, each in grounders.items()
    ]
    with (
        running(make_app(Service(models, limits), Rules())) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.locator("#examples button").first.click()
            page.wait_for_selector("#photos img")
            shoot(page, DOCS / name)
        for name, prepare in {"compare": compare, "refiner": refine}.items():
            page = browser.new_page(viewport={"width": 1180, "height": 820})
            page.goto(address)
            prepare(page)
            shoot(page, DOCS / f"page_{name}.png")
        browser.close()


def compare(page: Any) -> None:
    """A question on which the two models differ."""
    ask_about(page, scenes.sample("referring", seed=7, index=6))
    page.check("#compare")


def refine(page: Any) -> None:
    """A wrong box that a refiner is shown."""
    ask_about(page, scenes.sample("referring", seed=3, index=1))
    page.select_option("#first", "tiny_refiner")
    page.click("summary")
    for edge, value in {"x1": 5, "y1": 5, "x2": 60, "y2": 60}.items():
        page.fill(f"#{edge}", str(value))


def ask_about(page: Any, sample: Sample) -> None:
    """Choose a drawn scene, and type its question."""
    photo = DOCS / "scene.png"
    scenes.render(sample.images[0].path).save(photo)
    page.set_input_files("#files", photo)
    page.wait_for_selector("#photos img")
    photo.unlink()
    page.fill("#text", sample.question)


def shoot(page: Any, out: Path) -> None:
    """Ask, and save the page with its answer."""
    page.click("#go")
    page.wait_for_selector("#answer:not([hidden])")
    page.screenshot(path=out, full_page=True)


if __name__ == "__main__":
    main()
