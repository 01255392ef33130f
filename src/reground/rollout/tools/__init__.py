"""Detectors that a rollout may ask: one small protocol, and what stands behind it."""
