"""Fixtures with real servers and a faulty proxy, for tests here and in other packages."""
