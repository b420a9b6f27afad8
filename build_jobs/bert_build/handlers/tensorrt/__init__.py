"""Runs in NVIDIA's TensorRT image: only compile_engine.py is carried there, as a file."""
