"""Write the tables of the documents, from docs/results/*.json and the table of benchmarks.

    python scripts/figures.py           # rewrite what stands between the marks
    python scripts/figures.py --check   # say which document is out of date

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``; NAME is a function of the
folder tables.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tables.models import bccd, demo, headline, speed, tasks, tiny
from tables.published import prompts, published
from tables.refining import refiner, refiner_photos, refiner_photos_probes, refiner_probes
from tables.rl import curves, lab, table4, table5
from tables.scaling import data, growth, load, models, recipes, vllm, vs_trl
from tables.scored import (
    benchmarks,
    confidence,
    endpoint,
    families,
    harnesses,
    mig_bench,
    pizza,
    scorers,
    scoring,
    teacher,
)

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "results",
            "photos",
            "models",
            "benchmarks",
            "evaluation",
            "scorers",
            "teaching",
            "refining",
            "scale",
            "serving",
            "published",
            "harnesses",
        )
    ),
)
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite or check every document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not what docs/results says; run python scripts/figures.py")


def filled(text: str) -> str:
    """The text with every table made anew."""
    return _BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


TABLES: Mapping[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        headline,
        tasks,
        tiny,
        bccd,
        curves,
        table4,
        table5,
        lab,
        demo,
        speed,
        growth,
        load,
        data,
        refiner,
        refiner_probes,
        refiner_photos,
        refiner_photos_probes,
        recipes,
        models,
        vllm,
        vs_trl,
        teacher,
        scorers,
        mig_bench,
        pizza,
        families,
        scoring,
        confidence,
        endpoint,
        harnesses,
        benchmarks,
        prompts,
        published,
    )
}


if __name__ == "__main__":
    main()
