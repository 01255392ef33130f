"""What a worker of a vLLM server learns besides: to take new weights from a file."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file

from reground.errors import EngineError
from reground.rollout.engine import weights


class WeightWriter:
    """Mixed into vLLM's worker by ``--worker-extension-cls``."""

    model_runner: Any
    model_config: Any

    def write_weights(self, path: str) -> str | None:
        """Every parameter from the safetensors file ``path``, by the names of checkpoints.

        Returns what was wrong with them: an error would end the server.
        """
        try:
            weights.write(self.model_runner.get_model(), load_file(path), self.model_config)
        except EngineError as error:
            return str(error)
        return None
