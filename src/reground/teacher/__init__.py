"""Chains of thought for supervised training."""
