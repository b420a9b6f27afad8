"""Triton backend `onnxruntime_python`: only model.py goes into the image."""
