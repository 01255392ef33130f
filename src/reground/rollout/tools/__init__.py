"""Detectors that a rollout may ask: one small protocol, and its implementations."""
