"""``reground serve``: a page and an HTTP API over models."""
