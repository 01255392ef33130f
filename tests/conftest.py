"""What every test shares: quiet, repeatable property tests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

# The machines of a continuous integration are slow and uneven: no deadline for one example.
# Examples are derived from the test itself, so that a failure is the same everywhere.
settings.register_profile("reground", deadline=None, derandomize=True)
settings.load_profile("reground")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A small tokenizer for tiny models; a module's own, for tokenizers keep state."""
    from reground.model import tiny  # torch: tests of the layers without it start sooner

    return tiny.make_tokenizer(tiny.corpus(samples_per_task=20))
