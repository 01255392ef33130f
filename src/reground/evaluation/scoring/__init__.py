"""Step two: predictions to scores, and what scores amount to; no model, no image."""
