"""Evaluation in three steps, predict -> score -> report; each restarts from the file before it."""
