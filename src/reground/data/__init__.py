"""Data: converters, the scene world, validation, drawing; nothing here imports torch."""
