"""How fast the scene world makes and draws images, on one core.

python benchmarks/synth.py --task referring --out docs/results/synth.json
"""

from __future__ import annotations

import time

from common import parser, publish

from reground.tinyworld import scenes as synth


def main() -> None:
    """Sample and render one image after another for some seconds, and print the rate."""
    command_line = parser(__doc__)
    command_line.add_argument("--task", default="referring", choices=synth.TASKS)
    command_line.add_argument("--seconds", type=float, default=3.0)
    asked = command_line.parse_args()
    num_samples = num_images = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < asked.seconds:
        sample = synth.sample(asked.task, seed=0, index=num_samples)
        for image in sample.images:
            synth.render(image.path).load()
        num_samples, num_images = num_samples + 1, num_images + len(sample.images)
    figures = {
        "images_per_second": round(num_images / spent, 1),
        "samples_per_second": round(num_samples / spent, 1),
        "cpu_seconds": round(spent, 3),
    }
    publish(figures, out=asked.out, config={"task": asked.task})


if __name__ == "__main__":
    main()
