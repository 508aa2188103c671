"""Levels: power that receivers read, maps of it, and the posterior that they give."""
