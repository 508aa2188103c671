"""Model files in an object store: stored under new names, fetched and verified."""
