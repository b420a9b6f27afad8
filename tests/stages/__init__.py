"""Runs the steps of `make demo` and `make test`: what can run at once does, each step logs to its own file.

Standard library only: it runs before anything is installed.
"""
