"""Computed features, kept on disk and in a bucket."""
