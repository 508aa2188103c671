"""Storing recordings: files and manifests become sessions, checked before they are written."""
