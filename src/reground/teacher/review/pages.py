"""The pages of a review, as HTML; the script of the page of chains fills it."""

from __future__ import annotations

from importlib.resources import files

from reground.evaluation.reporting.pages import render
from reground.teacher.review.results import changes
from reground.teacher.review.session import Session

_PACKAGE = "reground.teacher.review"
_MAX_LISTED = 200  # edits, and rejections, on the page of results


def items_page(session: Session) -> str:
    """The page that shows one chain after the other, from the first that is not judged."""
    unjudged = session.unjudged()
    return render(
        "review.html.j2",
        _PACKAGE,
        name=session.path.name,
        reviewer=session.reviewer,
        total=len(session.queue),
        first=unjudged[0] if unjudged else None,
        left=len(unjudged),
    )


def results_page(session: Session) -> str:
    """What all reviewers found, with what this one has left."""
    found, reasoning = session.results()
    listed = found.edits[:_MAX_LISTED]
    return render(
        "results.html.j2",
        _PACKAGE,
        name=session.path.name,
        reviewer=session.reviewer,
        total=len(session.queue),
        picked=session.num_picked,
        unjudged=session.unjudged(),
        positions={sample_id: n for n, sample_id in enumerate(session.queue, start=1)},
        results=found,
        edits=[(each, changes(reasoning[each.sample], each.text or "")) for each in listed],
        rejections=found.rejections[:_MAX_LISTED],
    )


def style() -> str:
    """The style sheet: the reports' own, and what the review adds."""
    return render("review.css", _PACKAGE)


def script() -> str:
    """The script of the page of chains."""
    return files(_PACKAGE).joinpath("templates/review.js").read_text(encoding="utf-8")
