"""Training of networks, from the sessions of a split to the best checkpoint."""
