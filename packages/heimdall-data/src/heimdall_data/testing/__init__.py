"""Fixtures on real servers and a faulty proxy, for tests here and elsewhere."""
