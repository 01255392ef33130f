"""Takes the pictures of the page in docs/serving.md, in a real Chromium.

python scripts/page_pictures.py
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from reground.api import Grounder
from reground.serving.app import make_app
from reground.serving.batching import ModelThread
from reground.serving.guard import Rules
from reground.serving.run import listening
from reground.serving.service import Limits, Service

DOCS = Path(__file__).parents[1] / "docs"
SIZES = {"page.png": (1180, 700), "page_phone.png": (390, 844)}


def main() -> None:
    """Serve the tiny model, ask its first example, and save what is seen."""
    grounder, limits = Grounder.from_pretrained("tiny"), Limits()
    thread = ModelThread(grounder, batch_tokens=20_000, most_waiting=limits.most_waiting)
    app = make_app(Service(grounder, "tiny", thread, limits), Rules())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    listener = listening("127.0.0.1", 0)
    running = threading.Thread(target=server.run, args=[[listener]])
    running.start()
    while not server.started:
        time.sleep(0.1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            page.locator("#examples button").first.click()
            page.wait_for_selector("#photos img")
            page.click("#go")
            page.wait_for_selector("#answer:not([hidden])")
            page.screenshot(path=DOCS / name, full_page=True)
        browser.close()
    server.should_exit = True
    running.join()


if __name__ == "__main__":
    main()
