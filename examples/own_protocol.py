"""Boxes written in your own way, after your own prompt: shares of the sides, in brackets.

    python examples/own_protocol.py

A family is a frame with a grammar, and a prompt for each protocol. This one is added before the
model is trained and loaded; then `family: workshop` in a config and `family="workshop"` name it.
"""

import tempfile
from pathlib import Path

from reground.api import Grounder
from reground.config import load
from reground.data.images import load as load_image
from reground.data.source import open_dataset
from reground.grounding.boxes import FrameKind
from reground.grounding.codecs import Codec
from reground.grounding.grammars import Grammar
from reground.protocols.families import FAMILIES, Family
from reground.training.run import train
from reground.training.settings import TrainConfig

PROMPT = "where is $question ? answer with left, upper, right, lower from 0 to 1"


def add_family(folder):
    """Make the family known; its prompt is a file."""
    prompt = folder / "workshop.txt"
    prompt.write_text(PROMPT)
    shares = Codec(FrameKind.UNIT, Grammar.BRACKETS, decimals=2)
    FAMILIES["workshop"] = Family("workshop", shares, {"direct": str(prompt)})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        add_family(Path(name))
        settings = ["method=sft", "model=tiny", "family=workshop", "steps=16"]
        settings += ["data=[{mix: {'synth:referring@1-2': 1}}]", "batch_size=8", "optim.lr=1e-3"]
        run = train(load(TrainConfig, None, settings), Path(name) / "run")
        sample = open_dataset("synth:referring", seed=3, limit=1)[0]
        grounder = Grounder.from_pretrained(str(run.path))
        found = grounder.ground([load_image(sample.images[0])], sample.question)
        print("asked:", PROMPT.replace("$question", sample.question))
        print(f"after 16 steps: {found.text!r}, read as {found.answer.status}")
        size = grounder.prompter.prompt(sample).images[0].size
        print("right would be:", grounder.protocol.render(sample.boxes, size=size))
