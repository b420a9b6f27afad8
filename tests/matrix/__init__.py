"""docs/support-matrix.*: which family does which task in which format. `make support-matrix` writes them.

`__main__` runs `cells` inside the build images and writes what it found; nothing is written by hand.
"""
