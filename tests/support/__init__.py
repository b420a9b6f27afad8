"""Builders and stand-ins for tests. Nothing here ships."""
