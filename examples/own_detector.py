"""A detector of your own, whose boxes a model checks: here it always points at the middle.

    python examples/own_detector.py
    reground eval --model tiny_refiner --tool examples/own_detector.py:Middle \
        --data synth:referring --limit 20 --out results/middle
"""

from reground.api import Grounder
from reground.data.images import load
from reground.data.source import open_dataset
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection


class Middle:
    """Finds the middle of every image; `name` and `settings` tell its answers from others'."""

    name, settings, by_image = "middle", "1", True

    def detect(self, requests):
        """The boxes for each request, the surest first."""
        found = []
        for request in requests:
            target = request.sample.target_image
            frame = request.sample.images[target].frame
            w, h = frame.width, frame.height
            found.append((Detection(target, Box(w / 4, h / 4, 3 * w / 4, 3 * h / 4, frame)),))
        return found


if __name__ == "__main__":
    sample = open_dataset("synth:referring", seed=3, limit=1)[0]
    refiner = Grounder.from_pretrained("tiny_refiner")
    found = refiner.ground([load(sample.images[0])], sample.question, tool=Middle())
    print(sample.question)
    print("the detector:", found.tool[0].box.xyxy)
    print(found.text)
    print("the answer:", [box.xyxy for box in found.answer.boxes])
