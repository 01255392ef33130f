"""Names that rows, configs and flags share."""

from typing import Literal, get_args

ProtocolName = Literal["direct", "think", "think_rethink", "piter"]
"""How a question is put and answered; see :mod:`reground.protocols.protocol`."""
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
