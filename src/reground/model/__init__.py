"""Checkpoints, chat rendering and the group-shared forward. The only home of model internals."""
