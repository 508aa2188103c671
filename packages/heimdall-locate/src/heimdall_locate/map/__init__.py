"""The map of a position: one HTML file that needs no other."""
