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
from reground.data.source import read_dataset

SCENES = {
    "a phrase": "synth:referring",
    "the same object": "synth:refer_grounding",
    "one of four photos": "synth:group_grounding",
}
"""What is at hand on the page: names, and the data whose first sample is meant."""

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes(app: FastAPI) -> None:
    """Add the routes."""

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _part("index.html")

    @app.get("/page/examples.json", include_in_schema=False)
    def examples() -> JSONResponse:
        return JSONResponse(_examples())

    @app.get("/page/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        return _part(name)


def _part(name: str) -> Response:
    """A file of the page, by its name alone."""
    known = {each.name: each for each in files(__package__).joinpath("page").iterdir()}
    if name not in known:
        raise HTTPException(404, "Not Found")
    kind = f"{_TYPES[PurePosixPath(name).suffix]}; charset=utf-8"
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(known[name].read_bytes(), media_type=kind, headers=headers)


@cache
def _examples() -> list[dict[str, Any]]:
    """Questions to try, with their images."""
    found = []
    for name, data in SCENES.items():
        (sample,) = read_dataset(data, seed=7, limit=1)
        images = [data_url(load(image)) for image in sample.images]
        asked = {"text": sample.question, "target_image": sample.target_image}
        found.append({"name": name, "images": images} | asked)
    return found
