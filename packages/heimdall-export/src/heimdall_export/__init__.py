"""From a checkpoint to a model in production, proven equal."""
