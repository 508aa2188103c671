"""Positions from a model file, without torch."""
