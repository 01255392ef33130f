"""New weights for an engine that runs: every parameter is written once, or the run stops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from reground.errors import EngineError
from reground.model.parts import described_state, merged_state

Named = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's weights by the names of checkpoints, one by one, each pass anew; adapters added in.

    Of a sharded model one is gathered at a time: every rank must take all of them. Names are
    converted one by one: no conversion of the adapters' models puts several weights into one.
    """

    model: Any

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._named(merged_state(self.model))

    def described(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the same names, dtypes and shapes on "meta", without meeting ranks."""
        return self._named(described_state(self.model))

    def _named(self, state: Named) -> Iterator[tuple[str, Tensor]]:
        for name, value in state:
            yield from revert_weight_conversion(self.model, {name: value}).items()


def load_format(weights: Weights) -> str:
    """The name under which the next engine of this process takes the ``weights``.

    vLLM keeps the loader for good, and the loader keeps the weights only until it has given them.
    """
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    held = [weights]

    class FromTrainer(BaseModelLoader):  # type: ignore[misc]
        def download_model(self, model_config: Any) -> None:
            """Nothing: they are in memory."""

        def load_weights(self, model: nn.Module, model_config: Any) -> None:
            _load(model, held.pop())

    register_model_loader("trainer")(FromTrainer)
    return "trainer"


def write(engine_model: nn.Module, named: Named, model_config: Any) -> None:
    """Load these weights into the model of a vLLM worker, through vLLM's reload of processed ones.

    Raises ``EngineError`` where a parameter is left out, or fewer or more numbers come than the
    parameters hold. Right weights can be written after that, as after any error.
    """
    from vllm.model_executor.model_loader import reload

    reload.initialize_layerwise_reload(engine_model)  # parameters have their loaded shapes again
    try:
        _load(engine_model, named)
        reload.finalize_layerwise_reload(engine_model, model_config)
    except Exception:
        _forget(engine_model)
        reload.finalize_layerwise_reload(engine_model, model_config)
        raise


def _forget(engine_model: nn.Module) -> None:
    """Layers that wait for weights keep those of before: what came does not fit."""
    from vllm.model_executor.model_loader.reload import layerwise

    for module in engine_model.modules():
        info = layerwise.get_layerwise_info(module)
        info.loaded_weights.clear()
        info.load_numel = 0


def _load(engine_model: nn.Module, named: Named) -> None:
    """Every parameter once, or an ``EngineError``."""
    places = {
        f"{where}.{name}": (module, parameter)
        for where, module in engine_model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    }
    expected = sum(_room(module, parameter) for module, parameter in places.values())
    num_given = 0

    def given() -> Iterator[tuple[str, Tensor]]:
        nonlocal num_given
        for name, tensor in named:
            num_given += tensor.numel()
            yield name, tensor

    written = set(cast(Any, engine_model).load_weights(given()))
    reached = {id(places[name][1]) for name in written & set(places)}  # tied ones by one name
    if missing := sorted(n for n, (_, parameter) in places.items() if id(parameter) not in reached):
        raise EngineError(
            f"{len(missing)} parameters of the engine got no weights, {missing[0]} first; expected "
            "a name for each; compare the architectures of trainer and engine"
        )
    if num_given != expected:
        raise EngineError(
            f"the engine's parameters hold {expected} numbers and {num_given} were given; "
            "expected each to be written once"
        )


def _room(module: nn.Module, parameter: Tensor) -> int:
    """How many numbers of a checkpoint a parameter takes, of which a worker may hold a part.

    vLLM pads the rows of a vocabulary, and gives a key-value head to several workers.
    """
    part: Any = module
    rows, columns = parameter.shape[0], parameter[0].numel()
    if hasattr(part, "org_vocab_size"):
        rows = part.org_vocab_size
    elif hasattr(part, "output_size_per_partition"):
        rows *= part.output_size // part.output_size_per_partition
        if hasattr(part, "total_num_kv_heads"):
            keys_and_values = part.total_num_kv_heads * (part.head_size + part.v_head_size)
            rows = part.total_num_heads * part.head_size + keys_and_values
        if parameter.dim() > 1:
            columns *= part.input_size // part.input_size_per_partition
    return int(rows) * int(columns)
