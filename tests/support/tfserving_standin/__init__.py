"""A stand-in for TF Serving, because no package registry carries its binary: for tests and demos, never for production.

It serves real SavedModels through TensorFlow's Python API, reads the real configuration files, and speaks TF Serving's
REST and gRPC APIs with the real protobufs of tensorflow-serving-api. What it imitates, and what not, is in
docs/tfserving.md. Where TFSERVING_IMAGE names the real image, the same tests run on that.
"""
