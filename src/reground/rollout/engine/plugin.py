"""What vLLM calls as it starts (the entry point ``vllm.general_plugins``), in every process."""


def register() -> None:
    """Make ``--weight-transfer-config.backend reground`` known; nothing is imported until then."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(
        "reground", "reground.rollout.engine.worker", "Receiver"
    )
