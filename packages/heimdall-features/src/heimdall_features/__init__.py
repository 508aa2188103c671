"""IQ recordings to mel features, the same in training and in service."""
