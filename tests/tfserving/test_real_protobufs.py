"""The operator's files, read with the messages of tensorflow-serving-api."""

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from .conftest import GOLDEN


def read(name: str) -> model_server_config_pb2.ModelServerConfig:
    text = (GOLDEN / name).read_text(encoding="utf-8")
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def test_models_config_says_the_same_to_tf_serving() -> None:
    sentiment, toxic = read("models.config").model_config_list.config

    assert (sentiment.name, sentiment.base_path, sentiment.model_platform) == (
        "sentiment",
        "/models/sentiment",
        "tensorflow",
    )
    assert sentiment.model_version_policy.WhichOneof("policy_choice") == "specific"
    assert list(sentiment.model_version_policy.specific.versions) == [1, 2]
    assert dict(sentiment.version_labels) == {"production": 1, "canary": 2, "test": 2}
    assert list(toxic.model_version_policy.specific.versions) == [7]
    assert not toxic.version_labels


def test_a_hostile_name_is_one_name_to_tf_serving() -> None:
    (model,) = read("hostile.config").model_config_list.config

    hostile = 'x" } } model_config_list { config { name: "y\n{{ 7 * 7 }} ü \\'
    assert model.name == hostile
    assert dict(model.version_labels) == {hostile: 1}
