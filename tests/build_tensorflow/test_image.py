"""What the image holds, and what it must not hold."""

import importlib
import importlib.util

import pytest
import tensorflow as tf

from bert_build import formats
from bert_operator.api.spec import Format, Framework


@pytest.mark.parametrize("package", ["torch", "transformers", "keras", "tensorboard", "pip"])
def test_it_has_no(package: str) -> None:
    assert importlib.util.find_spec(package) is None


@pytest.mark.parametrize("module", ["bert_build.hub", "onnxruntime", "tensorflow_serving.apis.predict_pb2", "grpc"])
def test_it_has(module: str) -> None:
    """Among them the hub's client: PyTorch sources of SavedModels are fetched in this image."""
    assert importlib.import_module(module)


def test_what_decides_an_artifact_is_found_in_it() -> None:
    for source, made in ((f, m) for f, m in formats.RECIPES if f is Framework.TENSORFLOW or m is Format.SAVEDMODEL):
        if made is not Format.TENSORRT:
            assert formats.toolchain(formats.RECIPES[source, made])


def test_tensorflow_is_not_newer_than_tf_serving() -> None:
    """Its releases end with 2.20.0, and graphs of a newer TensorFlow aren't promised to load there."""
    assert tuple(map(int, tf.__version__.split(".")[:2])) <= (2, 20)
