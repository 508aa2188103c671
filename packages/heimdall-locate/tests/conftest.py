"""Limits of the laws that are searched."""

from hypothesis import settings

settings.register_profile("quick", deadline=None, max_examples=60)
settings.load_profile("quick")
