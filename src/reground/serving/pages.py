"""The page in front of the API: one HTML file with its script and its style, from the package."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from reground.data.images import data_url, load
from reground.data.schemes import examples
from reground.data.source import read_dataset
from reground.grounding.sample import ImageRef, Sample, is_file_path

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PHOTOS = Path(__file__).with_name("photos") / "photos.jsonl"
_ABOUT_PHOTOS = (
    "A real photo (BCCD, MIT licence). A model of drawn scenes alone, as tiny, misses it."
)
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes(app: FastAPI) -> None:
    """Add the routes."""

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _part("index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return _part("docs.html")

    @app.get("/page/examples.json", include_in_schema=False)
    def at_hand() -> JSONResponse:
        return JSONResponse(_at_hand())

    @app.get("/page/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        return _part(name)


def _part(name: str) -> Response:
    """A file of the page, by its name alone."""
    known = {each.name: each for each in files(__package__).joinpath("page").iterdir()}
    if name not in known:
        raise HTTPException(404, "Not Found")
    kind = f"{_TYPES[PurePosixPath(name).suffix]}; charset=utf-8"
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(known[name].read_bytes(), media_type=kind, headers=headers)


@cache
def _at_hand() -> list[dict[str, Any]]:
    """Questions to try, with their images."""
    drawn = {name: read_dataset(data, seed=7, limit=1)[0] for name, data in examples().items()}
    photos = read_dataset(str(_PHOTOS))
    return [_example(name, sample) for name, sample in drawn.items()] + [
        _example(sample.id, sample, about=_ABOUT_PHOTOS) for sample in photos
    ]


def _example(name: str, sample: Sample, *, about: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "images": [_url(image) for image in sample.images],
        "text": sample.question,
        "target_image": sample.target_image,
        "about": about,
    }


def _url(image: ImageRef) -> str:
    """A photo as its file is, JPEG; a scene as PNG."""
    if is_file_path(image.path):
        return f"data:image/jpeg;base64,{base64.b64encode(Path(image.path).read_bytes()).decode()}"
    return data_url(load(image))
