"""The page in front of the API: one HTML file with its script and its style, from the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from reground.data.images import data_url, load
from reground.data.schemes import examples
from reground.data.source import read_dataset
from reground.grounding.sample import Sample

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
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
    found = {name: read_dataset(data, seed=7, limit=1)[0] for name, data in examples().items()}
    made = [_example(name, sample) for name, sample in found.items()]
    return sorted(made, key=lambda each: bool(each["about"]))  # what needs a word comes last


def _example(name: str, sample: Sample) -> dict[str, Any]:
    return {
        "name": name,
        "images": [data_url(load(image)) for image in sample.images],
        "text": sample.question,
        "target_image": sample.target_image,
        "about": _ABOUT_PHOTOS if sample.task == "photo" else "",
    }
