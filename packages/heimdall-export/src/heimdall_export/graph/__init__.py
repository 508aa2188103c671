"""The model file's graph: traced, rewritten, written, quantised, compared."""
