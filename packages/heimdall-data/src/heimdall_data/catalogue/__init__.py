"""The catalogue in Postgres: stations, sources, sessions and their measurements."""
