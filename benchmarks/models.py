"""What asking each supported checkpoint would need, derived from its config: nothing is measured.

Weights are counted from the shapes of the language model (the checkpoint's config.json), and the
vision part is what is missing to the size on its card. Memory is weights and cache in bfloat16, and
``OVERHEAD``. A question takes one prefill (2 FLOPs of a weight for each token, in the vision part
for each of 4 patches of an image token) and an answer, token by token, each of which reads the
language weights. GPUs, and what is reached of them, are those of ``recipes.py``.

    python benchmarks/models.py --out docs/results/models.json
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common import parser, publish
from recipes import A10, BANDWIDTH, H100S, UTILISATION

PHOTO = (1024, 768)
WORDS, DIRECT, THINK = 100, 40, 200  # tokens of the prompt's text, and of an answer
OVERHEAD = 1.5 * 2**30  # CUDA's context, activations of a prefill
ROOM = 0.92  # of a GPU's GB that can be filled


@dataclass(frozen=True, slots=True)
class Shape:
    """A checkpoint: the language model's shape, and billions of weights on its card."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    total: float
    is_tied: bool = False
    head_dim: int = 128

    @property
    def language(self) -> float:
        """Weights of the layers and of the tables of tokens."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layers = self.layers * (attention + 3 * self.hidden * self.mlp)
        return layers + self.hidden * 152_000 * (1 if self.is_tied else 2)


MODELS = {
    "Qwen/Qwen2-VL-2B-Instruct": Shape(1536, 28, 12, 2, 8960, 2.21, True),
    "Qwen/Qwen2-VL-7B-Instruct": Shape(3584, 28, 28, 4, 18944, 8.29),
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape(2048, 36, 16, 2, 11008, 3.75, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(3584, 28, 28, 4, 18944, 8.29),
    "Qwen/Qwen2.5-VL-32B-Instruct": Shape(5120, 64, 40, 8, 27648, 33.5),
    "Qwen/Qwen3-VL-2B-Instruct": Shape(2048, 28, 16, 8, 6144, 2.13, True),
    "Qwen/Qwen3-VL-4B-Instruct": Shape(2560, 36, 32, 8, 9728, 4.44, True),
    "Qwen/Qwen3-VL-8B-Instruct": Shape(4096, 36, 32, 8, 12288, 8.77),
    "Qwen/Qwen3-VL-32B-Instruct": Shape(5120, 64, 64, 8, 25600, 33.4),
    "OpenGVLab/InternVL3-1B-hf": Shape(896, 24, 14, 2, 4864, 0.94, head_dim=64),
    "OpenGVLab/InternVL3-2B-hf": Shape(1536, 28, 12, 2, 8960, 2.09),
    "OpenGVLab/InternVL3-8B-hf": Shape(3584, 28, 28, 4, 18944, 7.94),
    "OpenGVLab/InternVL3-14B-hf": Shape(5120, 48, 40, 8, 13824, 15.1),
}


def main() -> None:
    """Derive and publish."""
    asked = parser(__doc__).parse_args()
    config = {"utilisation": UTILISATION, "bandwidth": BANDWIDTH, "photo": PHOTO}
    rows = {name: derived(name, shape) for name, shape in MODELS.items()}
    publish(rows, out=asked.out, config=config)


def derived(name: str, shape: Shape) -> dict[str, Any]:
    """GiB, the smaller GPU that holds them, and seconds of a direct and a thinking answer."""
    image = image_tokens(name)
    prompt = image + WORDS
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2 * (prompt + THINK)
    needed = 2 * shape.total * 1e9 + cache + OVERHEAD
    gpu, label = (A10, "A10, 24 GB") if needed < ROOM * A10.gb * 1e9 else (H100S, "H100, 80 GB")
    vision = max(shape.total * 1e9 - shape.language, 0.0)
    flops = 2 * shape.language * prompt + 2 * vision * 4 * image
    prefill = flops / (gpu.flops * UTILISATION)
    token = 2 * shape.language / (gpu.bytes * BANDWIDTH)
    return {
        "image tokens": image,
        "gib": round(needed / 2**30, 1),
        "gpu": label,
        "direct_s": round(prefill + DIRECT * token, 2),
        "think_s": round(prefill + THINK * token, 2),
    }


def image_tokens(name: str) -> int:
    """Of ``PHOTO``: squares of 28 pixels (Qwen2-VL, Qwen2.5-VL), 32 (Qwen3-VL), or 13 tiles."""
    if "InternVL" in name:
        return 13 * 256
    side = 32 if "Qwen3" in name else 28
    return round(PHOTO[0] / side) * round(PHOTO[1] / side)


if __name__ == "__main__":
    main()
