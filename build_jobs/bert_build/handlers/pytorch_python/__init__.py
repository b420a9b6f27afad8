"""Triton's Python-based backend for TorchScript; `model.py` is copied into the image."""
