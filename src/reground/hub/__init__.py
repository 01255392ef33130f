"""Models and data sets on the Hugging Face hub: what is uploaded, and cards that describe it."""
