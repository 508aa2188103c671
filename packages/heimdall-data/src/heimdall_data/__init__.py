"""Approved recordings, from Postgres and S3 to training batches."""
