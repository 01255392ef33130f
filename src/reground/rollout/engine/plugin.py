"""What vLLM calls as it starts (the entry point ``vllm.general_plugins``), in every process."""

from contextlib import suppress


def register() -> None:
    """Make ``--weight-transfer-config.backend reground`` known; nothing is imported until then."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    with suppress(ValueError):  # it is known: vLLM may call more than once
        WeightTransferEngineFactory.register_engine(
            "reground", "reground.rollout.engine.worker", "Receiver"
        )
