"""Step one: a model in this process or behind a server answers every sample."""
