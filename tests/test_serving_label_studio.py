"""The back end of Label Studio by itself; test_label_studio.py tries it with the real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from asking import served
from reground.api import Grounder
from reground.data.images import data_url
from reground.serving.label_config import interface_of
from reground.serving.label_studio import LabelStudio
from reground.tinyworld import scenes as synth

SAMPLES = [synth.sample("referring", seed=7, index=index) for index in range(2)]
IMAGES = [synth.render(sample.images[0].path) for sample in SAMPLES]
PHRASE = SAMPLES[0].question
VIEW = """<View><Image name="photo" value="$image"/><TextArea name="t" toName="photo" value="$ask"/>
<RectangleLabels name="box" toName="photo">{}</RectangleLabels></View>"""
CONFIG = VIEW.format('<Label value="ring" alias="r"/><Label value="yellow triangle"/>')


def predicted(client: httpx2.Client, *tasks: Any, config: str = CONFIG, **params: Any) -> Any:
    asked = {"tasks": tasks, "label_config": config, "project": "1.2", "params": params}
    reply = client.post("/predict", json=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()["results"]


def task(number: int, image: str = data_url(IMAGES[0]), **data: Any) -> dict[str, Any]:
    return {"id": number, "data": {"image": image} | data}


def test_a_project_is_connected(client: httpx2.Client) -> None:
    for schema in (CONFIG, "<View></View>", ""):
        setup = client.post(
            "/setup", json={"project": "1.2", "schema": schema, "access_token": "k"}
        )
        assert (setup.status_code, setup.json()) == (200, {"model_version": "tiny"})
    other = client.post("/setup", json={"schema": '<View><Choices name="a" toName="b"/></View>'})
    assert other.status_code == 422 and "expected <RectangleLabels>" in other.json()["error"]
    assert client.post("/webhook", json={"action": "PROJECT_UPDATED"}).status_code == 201


def test_boxes_are_in_percent_under_the_names_of_the_interface(
    client: httpx2.Client, tiny: Grounder
) -> None:
    """What a person typed counts before the task's field."""
    typed = {"result": [{"type": "textarea", "value": {"text": ["old", PHRASE]}}]}
    (result,) = predicted(client, task(1, ask="a cross"), context=typed)
    found = tiny.ground([IMAGES[0]], PHRASE)
    (region,), (box,) = result["result"], found.answer.boxes
    edges = (box.x1, box.y1, box.width, box.height)
    value = region.pop("value")
    assert [value[name] for name in ("x", "y", "width", "height")] == pytest.approx(
        [100 * edge / 112 for edge in edges]
    )
    assert (value["rotation"], value["rectanglelabels"]) == (0, ["r"])
    assert region.pop("id") and region.pop("score") == pytest.approx(found.scores[0], abs=1e-3)
    assert region == {
        "from_name": "box",
        "to_name": "photo",
        "type": "rectanglelabels",
        "original_width": 112,
        "original_height": 112,
        "image_rotation": 0,
    }
    assert (result["task"], result["model_version"]) == (1, "tiny")


def test_a_wrong_task_leaves_the_others(client: httpx2.Client) -> None:
    wrong = [{"id": 2}, 3, task(4, "/data/upload/a.png"), task(5, "data:image/png;base64,AAAA")]
    first, *errors, last = predicted(client, task(1, ask=PHRASE), *wrong, task(6, ask=PHRASE))
    assert [each["value"] for each in first["result"]] == [each["value"] for each in last["result"]]
    assert all("result" not in each for each in errors)  # Label Studio would keep it
    said = ["task 2: found no data", "task None: found no data", "task 4: its image was uploaded"]
    said.append("task 5: image: not an image in")
    for error, begin in zip(errors, said, strict=True):
        assert error["error"].startswith(begin)


@pytest.mark.parametrize(
    ("typed", "data", "asked"),
    [
        ("the Ring left of it", {"ask": "no"}, {"the Ring left of it": "r"}),
        ("a yellow triangle in a ring", {}, {"a yellow triangle in a ring": "yellow triangle"}),
        ("a spring", {}, {"a spring": "r"}),  # no label in it: the first
        (None, {"ask": "the cross"}, {"the cross": "r"}),
        (" ", {"ask": "", "other": "x"}, {"ring": "r", "yellow triangle": "yellow triangle"}),
    ],
)
def test_what_is_asked(typed: str | None, data: dict[str, str], asked: dict[str, str]) -> None:
    found = interface_of(CONFIG).asked(typed, data)
    assert {phrase: label.name for phrase, label in found.items()} == asked


@pytest.fixture
def uploads() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server as Label Studio's, and what it was asked with which key."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            moved = "moved" in self.path
            self.send_response(302 if moved else 200)
            if moved:
                self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            if not moved:
                IMAGES[0].save(self.wfile, "png")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_only_uploads_of_the_named_label_studio_are_read(
    tiny: Grounder, uploads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = uploads
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret")
    good = ["/data/upload/1/a b.png", f"{address}/data/upload/2/ä.png", "/data/local-files/?d=a/b"]
    bad = [
        *("/api/users/", "/data/../api/users", "/data/%2e%2e/api", "/data/..\\api", "/user/logout"),
        *("//evil.example/data/a.png", f"{address}.evil.example/data/a", f"{address}@evil/data/a"),
        *(f"{address}/api/users", "/data/moved.png", "/data", "data/upload/a.png"),
    ]
    with served(tiny, tiny, studio=LabelStudio.of(address)) as client:
        images = [task(number, image, ask=PHRASE) for number, image in enumerate([*good, *bad])]
        results = predicted(client, *images)
    assert [bool(each.get("result")) for each in results] == [True] * 3 + [False] * len(bad)
    assert sorted(asked) == sorted(
        (path, "Token secret")
        for path in (
            "/data/upload/1/a%20b.png",
            "/data/upload/2/%C3%A4.png",
            "/data/local-files/?d=a/b",
            "/data/moved.png",
        )
    )
    assert "secret" not in str(results)
