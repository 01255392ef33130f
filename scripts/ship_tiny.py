"""Put a trained run into the package as the shipped tiny model, with the record of its training.

    python scripts/ship_tiny.py runs/tiny/1_dense runs/tiny/2_sft

The last run's newest checkpoint is stored in bfloat16; of every run the config and each 50th row of
its metrics (and all rows with a validation) go to docs/results/tiny_training/.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from reground.model.load import load, save

ROOT = Path(__file__).parents[1]
ASSET = ROOT / "src/reground/model/assets/tiny"
RECORD = ROOT / "docs/results/tiny_training"
EVERY = 50
LIMIT_MB = 12


def main() -> None:
    """Store the model and the record of its stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="the stages' runs, in order")
    runs = parser.parse_args().runs
    save(load(str(runs[-1])), ASSET, dtype=torch.bfloat16)
    size = sum(path.stat().st_size for path in ASSET.iterdir()) / 2**20
    print(f"{ASSET.relative_to(ROOT)}: {size:.1f} MB of at most {LIMIT_MB}")
    shutil.rmtree(RECORD, ignore_errors=True)
    for run in runs:
        _record(run, RECORD / run.name)


def _record(run: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(run / "config.yaml", folder)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["step"] % EVERY == 0 or "validation/acc@0.5" in row]
    lines = (json.dumps(row) + "\n" for row in kept)
    (folder / "metrics.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
