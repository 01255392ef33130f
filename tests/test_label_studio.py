"""The real Label Studio: a project of its own, our back end, and its regions at the right pixels.

`make test-label-studio` brings it, in an environment of its own.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from asking import served
from reground.api import Grounder
from reground.data.images import decoded
from reground.serving.label_studio import LabelStudio
from reground.tinyworld import scenes as synth

LABEL_STUDIO = Path(__file__).parents[1] / ".venv-label-studio/bin/label-studio"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LABEL_STUDIO.exists(), reason="needs make test-label-studio"),
]
SAMPLES = [synth.sample("referring", seed=7, index=index) for index in (0, 1)]
USER, PASSWORD, TOKEN = "a@example.com", "pw12345678", "0123456789abcdef0123456789abcdef01234567"
PHRASE = '<Text name="what" value="$phrase"/>'
CONFIG = f"""<View><Image name="image" value="$image"/>{PHRASE}
<RectangleLabels name="boxes" toName="image"><Label value="thing" background="#ff00ff"/>
</RectangleLabels></View>"""
UPRIGHT = {0: 1, 1: 6}  # the EXIF orientation of each photo


def photo(number: int) -> bytes:
    """A scene, stored as its EXIF orientation says."""
    image = synth.render(SAMPLES[number].images[0].path)
    exif = Image.Exif()
    exif[0x0112] = UPRIGHT[number]
    out = io.BytesIO()
    stored = image.transpose(Image.Transpose.ROTATE_90) if UPRIGHT[number] == 6 else image
    stored.save(out, "png", exif=exif)
    return out.getvalue()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client of a new Label Studio, as its only user."""
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # It takes no back end of its own machine, nor tells one what changed, unless it is told to.
    quiet = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
    quiet |= {"COLLECT_ANALYTICS": "false"}
    quiet |= {"LATEST_VERSION_CHECK": "false", "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}
    command = [str(LABEL_STUDIO), "start", "--no-browser", "--port", str(port), "--internal-host"]
    command += ["127.0.0.1", "--data-dir", str(folder), "--username", USER, "--password", PASSWORD]
    command += ["--user-token", TOKEN, "--enable-legacy-api-token"]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log)
    try:
        headers = {"Authorization": f"Token {TOKEN}"}
        address = f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=address, headers=headers, timeout=120) as client:
            until_there(client, running, folder / "log")
            yield client
    finally:
        running.terminate()
        running.wait(30)


def until_there(client: httpx2.Client, running: Any, log: Path) -> None:
    """Its first start makes its tables, some minutes on two cores."""
    for _ in range(500):
        assert running.poll() is None, log.read_text()[-2_000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(1)
    pytest.fail(log.read_text()[-2_000:])


def done(reply: httpx2.Response) -> Any:
    assert reply.is_success, reply.text
    return reply.json()


def test_regions_are_at_the_pixels_of_the_answer(
    studio: httpx2.Client, tiny: Grounder, browser: Any, tmp_path: Path
) -> None:
    """From upload to screenshot; the key is a personal one, bought for each image."""
    photos = [photo(number) for number in range(2)]
    alone = CONFIG.replace(PHRASE, "")  # photos are uploaded where tasks have no other field
    made = studio.post("/api/projects/", json={"title": "boxes", "label_config": alone})
    project = done(made)["id"]
    tasks = []
    uploads = []
    for number, content in enumerate(photos):
        sent = {"file": (f"photo {number}.png", content, "image/png")}
        upload = studio.post(f"/api/projects/{project}/import?commit_to_project=false", files=sent)
        (name,) = done(upload)["file_upload_ids"]
        uploads.append(done(studio.get(f"/api/import/file-upload/{name}"))["file"])
    done(studio.patch(f"/api/projects/{project}/", json={"label_config": CONFIG}))
    for number, file in enumerate(uploads):
        data = {"image": f"/data/{file}", "phrase": SAMPLES[number].question}
        task = {"project": project, "data": data}
        tasks.append(done(studio.post("/api/tasks/", json=task))["id"])
    personal = done(studio.post("/api/token/"))["token"]
    origin = LabelStudio(LabelStudio.of(str(studio.base_url)).address, personal)
    with served(tiny, tiny, studio=origin) as ours:
        backend = {"project": project, "url": str(ours.base_url).rstrip("/"), "title": "ReGround"}
        connected = done(studio.post("/api/ml", json=backend))
        assert done(studio.get(f"/api/ml/{connected['id']}"))["state"] == "CO"
        chosen = {"selectedItems": {"all": True, "excluded": []}}
        where = {"id": "retrieve_tasks_predictions", "project": project}
        done(studio.post("/api/dm/actions", params=where, json=chosen))
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    for number, task in enumerate(tasks):
        (prediction,) = done(studio.get(f"/api/tasks/{task}"))["predictions"]
        image = decoded(photos[number], "photo")
        found = tiny.ground([image], SAMPLES[number].question)
        assert prediction["model_version"] == "tiny" and len(prediction["result"]) == 1
        (region,), (box,) = prediction["result"], found.answer.boxes
        value = region["value"]
        share = (value["x"], value["y"], value["width"], value["height"])
        pixels = (box.x1, box.y1, box.width, box.height)
        assert share == pytest.approx([100 * side / 112 for side in pixels])
        assert region["score"] == pytest.approx(found.scores[0], abs=1e-3)
        shown(studio, page, project, task, pixels, Path(os.environ.get("SCREENSHOTS", tmp_path)))


def shown(
    studio: httpx2.Client, page: Any, project: int, task: int, box: Any, folder: Path
) -> None:
    """The frame on the screen surrounds the box of the photo on the screen, to 4 pixels."""
    address = str(studio.base_url).rstrip("/")
    page.goto(f"{address}/user/login/")
    if page.locator("input[name=email]").count():
        page.fill("input[name=email]", USER)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "login" not in url, wait_until="commit")
    page.goto(f"{address}/projects/{project}/data?task={task}")
    page.wait_for_selector(".konvajs-content canvas", timeout=60_000)
    page.wait_for_timeout(3_000)
    page.screenshot(path=folder / f"label_studio_{task}.png")
    boxes = [each.bounding_box() for each in page.locator("img").all()]
    image = max(filter(None, boxes), key=lambda each: each["width"])
    scale = image["width"] / 112
    screen = Image.open(folder / f"label_studio_{task}.png").convert("RGB")
    area = [image["x"], image["y"], image["x"] + image["width"], image["y"] + image["height"]]
    expected = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    seen = frame(screen.crop([round(each) for each in area]))
    assert seen == pytest.approx([each * scale for each in expected], abs=4)


def frame(picture: Image.Image) -> list[float]:
    """The bounds of all magenta pixels."""
    own = [
        (place % picture.width, place // picture.width)
        for place, (r, g, b) in enumerate(picture.get_flattened_data())
        if r > 180 and g < 110 and b > 180
    ]
    across, down = zip(*own, strict=True)
    return [min(across), min(down), max(across) + 1, max(down) + 1]
