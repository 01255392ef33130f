"""Published figures made again: what a run needs, what it has cost others, whether it agrees."""
