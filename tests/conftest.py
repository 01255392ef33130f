"""What every test shares: quiet, repeatable property tests."""

from __future__ import annotations

from hypothesis import settings

# The machines of a continuous integration are slow and uneven: no deadline for one example.
# Examples are derived from the test itself, so that a failure is the same everywhere.
settings.register_profile("reground", deadline=None, derandomize=True)
settings.load_profile("reground")
