"""Draw docs/review.png: the page of `reground teach review` over scenes and their own chains.

python scripts/review_picture.py    (needs a Chromium on the PATH)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from background import running
from reground.errors import RunError
from reground.grounding.boxes import Box, iou
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.protocols.protocol import get_protocol
from reground.serving.app import make_app
from reground.serving.guard import Rules
from reground.serving.review import ReviewPages
from reground.teacher.review.session import Session
from reground.teacher.rows import Finding, Pick, TeacherCall
from reground.teacher.store import Store
from reground.tinyworld import scenes as synth

OUT = Path(__file__).parents[1] / "docs/review.png"
TASKS = ("object_tracking", "referring", "diff", "region", "group_grounding")
FAMILY = get_protocol("univg_r1")
SHOWN, JUDGED = 11, 7  # the chain on the picture, and how many were judged before


def main() -> None:
    """Make a database, serve it, take the picture at 1280 x 800."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if chromium is None:
        raise RunError("found no Chromium; install one, such as Debian's chromium")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chains.db"
        make(path)
        session = Session.begin(path, reviewer="eva", share=0.5, seed=0)
        for index in range(JUDGED):
            session.decide(index, call=session.sample(index)["call"], decision="accept")
        shoot(session, chromium, out=Path(sys.argv[1]) if sys.argv[1:] else OUT)


def make(path: Path) -> None:
    """Scenes of some tasks, each with its own chain, a little off the true box."""
    samples = [synth.sample(task, seed=7, index=n) for n in range(8) for task in TASKS]
    with Store.create(path, samples, data="scenes") as store:
        for sample in samples:
            _add_chain(store, sample)


def _add_chain(store: Store, sample: Sample) -> None:
    image, (x1, y1, x2, y2) = sample.images[sample.target_image], sample.boxes[0].xyxy
    size = EncodedSize(image.width, image.height, image.width, image.height)
    box = Box(x1 - 2, y1 + 1, x2 - 1, y2 + 2, size.pixels).clipped()
    call = TeacherCall(
        sample=sample.id,
        stage="ask",
        number=0,
        model="embedded",
        prompt_sha256="",
        state="answered",
        text=FAMILY.render([box], size=size, think=sample.think),
        sizes=(size,),
    )
    stored = store.add_call(call)
    overlap = iou(box, sample.boxes[0])
    store.set_finding(
        Finding(call=stored, ok=True, think=sample.think, boxes=(box.xyxy,), iou=overlap)
    )
    store.set_pick(Pick(sample=sample.id, call=stored, rule="only"))


def shoot(session: Session, chromium: str, *, out: Path) -> None:
    """The page of one chain as a PNG."""
    pages = ReviewPages(session)
    with running(make_app(None, Rules(), pages)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{address}{pages.path}#{SHOWN}")
        page.wait_for_selector(f"body[data-shown='{SHOWN}']")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main()
