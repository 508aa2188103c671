"""Decoding of recordings: NumPy files, KiwiSDR WAVs and SigMF."""
