"""How fast the scene world makes and draws images, on one core.

Usage: python benchmarks/synth.py [TASK] [SECONDS]; the last line printed is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time

from reground.data import synth


def main() -> None:
    """Sample and render one image after another for some seconds, and print the rate."""
    task = sys.argv[1] if len(sys.argv) > 1 else "referring"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0
    num_samples = num_images = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        sample = synth.sample(task, seed=0, index=num_samples)
        for image in sample.images:
            synth.render(image.path).load()
        num_samples, num_images = num_samples + 1, num_images + len(sample.images)
    print(
        json.dumps(
            {
                "task": task,
                "images_per_second": round(num_images / spent, 1),
                "samples_per_second": round(num_samples / spent, 1),
                "cpu_seconds": round(spent, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
