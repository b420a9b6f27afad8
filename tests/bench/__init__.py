"""Measurements: what a user would feel, each run by `make bench-NAME`."""
