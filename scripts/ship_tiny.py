"""Put a trained run into the package as a shipped tiny model, with the record of its training.

    python scripts/ship_tiny.py tiny runs/tiny/1_dense runs/tiny/2_sft
    python scripts/ship_tiny.py tiny_refiner runs/refiner/sft-0 runs/refiner/grpo-0

The last run's newest checkpoint is stored in bfloat16; of every run the config and each 50th row of
its metrics (and all rows with a validation) go to docs/results/NAME_training/.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from reground.io import read_jsonl
from reground.model.load import load, save

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src/reground/tinyworld/assets"
EVERY = 50
LIMIT_MB = 12


def main() -> None:
    """Store the model and the record of its stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="what it is called, as in --model NAME")
    parser.add_argument("runs", type=Path, nargs="+", help="the stages' runs, in order")
    asked = parser.parse_args()
    asset, record = ASSETS / asked.name, ROOT / f"docs/results/{asked.name}_training"
    save(load(str(asked.runs[-1])), asset, dtype=torch.bfloat16)
    size = sum(path.stat().st_size for path in asset.iterdir()) / 2**20
    print(f"{asset.relative_to(ROOT)}: {size:.1f} MB of at most {LIMIT_MB}")
    shutil.rmtree(record, ignore_errors=True)
    for run in asked.runs:
        _record(run, record / run.name)


def _record(run: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(run / "config.yaml", folder)
    rows = read_jsonl(run / "metrics.jsonl", dict)
    kept = [row for row in rows if row["step"] % EVERY == 0 or "validation/acc@0.5" in row]
    lines = (json.dumps(row) + "\n" for row in kept)
    (folder / "metrics.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
