"""Stands in for the package numba in the analyzer's image, where Model Analyzer asks it one thing: which GPUs are here.

None, ever: the analyzer's container has no GPU, the server beside it may. The real package and its compiler would be
half of the image, for the same answer.
"""

from . import cuda

__all__ = ["cuda"]
