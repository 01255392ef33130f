"""People look at a share of the picked chains: which ones, the local page, what they found."""
