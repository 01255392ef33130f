"""Step three: scores to reports, and runs side by side."""
