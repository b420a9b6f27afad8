"""What config.json must say before weights are read. Called by inspect, and by fetch for hub sources. Pure."""

import json
from typing import Any, Final

from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, Field, ValidationError

from bert_build.failures import BuildError
from bert_operator.api.spec import Build, Format, Framework, Task

SUPPORTED: Final = ("bert",)
"""Values of model_type that are built; each needs a layout in bert_layout."""
CLASSIFIER: Final = "BertForSequenceClassification"
ACTIVATIONS: Final = ("gelu", "gelu_new", "relu")
"""Values of hidden_act that to_savedmodel writes; transformers' names."""


class Config(PydanticModel):
    """The parts of config.json that decide; defaults are those of transformers' BertConfig."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: str = ""
    architectures: list[str] | None = None
    vocab_size: int = Field(30522, ge=1)
    hidden_size: int = Field(768, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    intermediate_size: int = Field(3072, ge=1)
    max_position_embeddings: int = Field(512, ge=1)
    type_vocab_size: int = Field(2, ge=1)
    hidden_act: str = "gelu"
    layer_norm_eps: float = Field(1e-12, gt=0)
    pad_token_id: int | None = 0
    position_embedding_type: str | None = "absolute"
    id2label: dict[str, str] | None = None
    num_labels: int | None = None

    @property
    def labels(self) -> int:
        """How many classes the head tells apart."""
        return len(self.id2label) if self.id2label else (self.num_labels or 2)

    @property
    def architecture(self) -> str:
        """The class that wrote the checkpoint, for people."""
        return (self.architectures or ["BertModel"])[0][:100]


def check(text: bytes, build: Build) -> Config:
    """Everything that config.json alone can tell.

    Raises:
        BuildError: this model can't be built as asked.
    """
    raw = _parsed(text)
    _refuse_code(raw)
    _refuse_types(raw)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BuildError(
            "SourceCorrupt",
            f"config.json: {field} is {str(first['input'])[:80]!r}: {first['msg']}.",
            "Correct the file.",
        ) from error
    _check_shape(config, build)
    if build.format is Format.SAVEDMODEL and build.framework is Framework.PYTORCH:
        _check_activation(config)
    if build.task is Task.SEQUENCE_CLASSIFICATION:
        _check_head(config)
    return config


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise BuildError(
            "SourceCorrupt", f"config.json is no JSON: {error}.", "Copy or upload the file again."
        ) from error
    if not isinstance(raw, dict):
        raise BuildError("SourceCorrupt", "config.json is no JSON object.", "Copy or upload the file again.")
    return raw


def _refuse_code(raw: dict[str, Any]) -> None:
    for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if raw.get(key):
            raise BuildError(
                "RemoteCodeRefused",
                f"config.json has {key}: {json.dumps(raw[key])[:200]}: the model brings its own Python code, "
                "and Python code of a source is never run.",
                "Use a model that transformers knows without trust_remote_code; "
                f"if this one is a plain BERT, remove {key}.",
            )


def _refuse_types(raw: dict[str, Any]) -> None:
    found = raw.get("model_type")
    if found not in SUPPORTED:
        raise BuildError(
            "UnsupportedModel",
            f"config.json has model_type {str(found)[:60]!r}; supported: {', '.join(SUPPORTED)}.",
            "Use a BERT model.",
        )
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise BuildError(
            "UnsupportedModel",
            "config.json has is_decoder or add_cross_attention: this BERT is a decoder.",
            "Use an encoder (both false).",
        )
    if raw.get("quantization_config"):
        raise BuildError(
            "UnsupportedModel",
            "config.json has quantization_config: the weights are quantized already.",
            "Use the original weights.",
        )
    kind = raw.get("position_embedding_type", "absolute")
    if kind not in ("absolute", None):
        raise BuildError(
            "UnsupportedModel",
            f"config.json has position_embedding_type {str(kind)[:60]!r}; supported: absolute.",
            "Use a BERT with absolute positions.",
        )


def _check_shape(config: Config, build: Build) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise BuildError(
            "SourceCorrupt",
            f"config.json: hidden_size {config.hidden_size} can't be split into {config.num_attention_heads} heads.",
            "Correct num_attention_heads.",
        )
    if build.max_sequence_length > config.max_position_embeddings:
        raise BuildError(
            "SequenceTooLong",
            f"build.maxSequenceLength is {build.max_sequence_length}, the model knows only "
            f"{config.max_position_embeddings} positions (max_position_embeddings).",
            f"Set build.maxSequenceLength to at most {config.max_position_embeddings}.",
        )


def _check_activation(config: Config) -> None:
    """TensorFlow's BERT is written by hand here: other formats get the source's own activation."""
    if config.hidden_act not in ACTIVATIONS:
        raise BuildError(
            "UnsupportedModel",
            f"config.json has hidden_act {config.hidden_act[:60]!r}; build.format savedmodel knows "
            f"{', '.join(ACTIVATIONS)}.",
            "Serve this model by Triton or TorchServe (server.type), which take any activation.",
        )


def _check_head(config: Config) -> None:
    if config.architectures and CLASSIFIER not in config.architectures:
        raise BuildError(
            "HeadMissing",
            f"build.task is sequence-classification, but config.json names the architecture {config.architecture}.",
            f"Use a {CLASSIFIER} checkpoint, or set build.task: feature-extraction.",
        )
