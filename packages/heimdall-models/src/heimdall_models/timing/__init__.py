"""Times of arrival: a network that solves for the position by geometry, and its training."""
