"""What config.json must say before weights are read. Called by inspect, and by fetch for hub sources. Pure."""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, Field, ValidationError

from bert_build import selection, tasks
from bert_build.failures import BuildError
from bert_build.families import FAMILIES, Family
from bert_operator.api.spec import Build, Format, Framework, Task

ACTIVATIONS: Final = ("gelu", "gelu_new", "relu")
"""Values of hidden_act that to_savedmodel writes; transformers' names."""


class Config(PydanticModel):
    """The parts of config.json that decide, by BERT's names; defaults are those of transformers' BertConfig."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: str = ""
    architectures: list[str] | None = None
    vocab_size: int = Field(30522, ge=1)
    hidden_size: int = Field(768, ge=1)
    embedding_size: int | None = Field(None, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    intermediate_size: int = Field(3072, ge=1)
    max_position_embeddings: int = Field(512, ge=1)
    type_vocab_size: int = Field(2, ge=0)
    hidden_act: str = "gelu"
    layer_norm_eps: float = Field(1e-12, gt=0)
    pad_token_id: int | None = 0
    position_embedding_type: str | None = "absolute"
    id2label: dict[str, str] | None = None
    num_labels: int | None = None
    task: Task = Task.FEATURE_EXTRACTION
    """Of the build, not of the file."""

    @property
    def family(self) -> Family:
        """What kind of encoder this is."""
        return FAMILIES[self.model_type]

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the artifact takes, each int64 [batch, length]."""
        least = self.family.types_from
        typed = least is not None and self.type_vocab_size >= least
        return ("input_ids", "attention_mask", *(("token_type_ids",) if typed else ()))

    @property
    def longest(self) -> int:
        """How many tokens fit into a row."""
        return self.max_position_embeddings - (self.first_position if self.family.offset else 0)

    @property
    def first_position(self) -> int:
        """The position of a row's first token, where positions begin behind the padding's."""
        return (self.pad_token_id or 0) + 1

    @property
    def embedded(self) -> int:
        """Width of a token before the first layer."""
        return self.embedding_size or self.hidden_size

    @property
    def labels(self) -> int:
        """How many classes the head tells apart."""
        return len(self.id2label) if self.id2label else (self.num_labels or 2)

    @property
    def architecture(self) -> str:
        """The class that wrote the checkpoint, for people."""
        return (self.architectures or [f"{self.family.classes}Model"])[0][:100]


def read(folder: Path, build: Build) -> Config:
    """`check` the config.json of a model's folder."""
    return check((folder / selection.CONFIG).read_bytes(), build)


def check(text: bytes, build: Build) -> Config:
    """Everything that config.json alone can tell.

    Raises:
        BuildError: this model can't be built as asked.
    """
    raw = _parsed(text)
    _refuse_code(raw)
    _refuse_types(raw)
    family = FAMILIES[raw["model_type"]]
    ours = {name: raw[theirs] for name, theirs in family.renamed.items() if theirs in raw}
    try:
        config = Config.model_validate({**family.defaults, **raw, **ours, "task": build.task})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(family.renamed.get(str(part), str(part)) for part in first["loc"])
        raise BuildError(
            "SourceCorrupt",
            f"config.json: {field} is {str(first['input'])[:80]!r}: {first['msg']}.",
            "Correct the file.",
        ) from error
    _check_shape(config, build)
    if build.framework is Framework.TENSORFLOW:
        _check_tensorflow(config)
    elif build.format is Format.SAVEDMODEL:
        _check_savedmodel(config)
    if build.task in tasks.HEADS:
        _check_head(config)
    return config


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
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
    if not isinstance(found, str) or found not in FAMILIES:
        raise BuildError(
            "UnsupportedModel",
            f"config.json has model_type {str(found)[:60]!r}; supported: {', '.join(FAMILIES)}.",
            "Use a model of one of these families; docs/support-matrix.md says what each can do.",
        )
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise BuildError(
            "UnsupportedModel",
            "config.json has is_decoder or add_cross_attention: this model is a decoder.",
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
            "Use a model with absolute positions.",
        )


def _check_shape(config: Config, build: Build) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise BuildError(
            "SourceCorrupt",
            f"config.json: hidden_size {config.hidden_size} can't be split into {config.num_attention_heads} heads.",
            "Correct num_attention_heads.",
        )
    if build.max_sequence_length > config.longest:
        raise BuildError(
            "SequenceTooLong",
            f"build.maxSequenceLength is {build.max_sequence_length}, the model knows only "
            f"{config.longest} positions (max_position_embeddings{', less those of padding' * config.family.offset}).",
            f"Set build.maxSequenceLength to at most {config.longest}.",
        )


def _check_tensorflow(config: Config) -> None:
    if config.model_type != "bert":
        raise BuildError(
            "UnsupportedModel",
            f"config.json has model_type {config.model_type!r}; build.framework tensorflow reads bert only.",
            "Use the PyTorch checkpoint of this model with build.framework: pytorch.",
        )


def _check_savedmodel(config: Config) -> None:
    """TensorFlow's models are written by hand here: other formats run the source's own code."""
    if not config.family.savedmodel:
        raise BuildError(
            "UnsupportedModel",
            f"config.json has model_type {config.model_type!r}; build.format savedmodel knows "
            f"{', '.join(name for name, family in FAMILIES.items() if family.savedmodel)}.",
            "Serve this model by Triton or TorchServe (server.type), which take every family.",
        )
    if config.hidden_act not in ACTIVATIONS:
        raise BuildError(
            "UnsupportedModel",
            f"config.json has {config.family.renamed.get('hidden_act', 'hidden_act')} {config.hidden_act[:60]!r}; "
            f"build.format savedmodel knows {', '.join(ACTIVATIONS)}.",
            "Serve this model by Triton or TorchServe (server.type), which take any activation.",
        )


def _check_head(config: Config) -> None:
    """A checkpoint of another class would leave the head to chance; its tensors are looked at later."""
    wanted = config.family.classes + tasks.HEADS[config.task]
    named = config.architectures or [wanted]
    # Pre-training has the same head, and another one besides.
    pretrained = config.task is Task.FILL_MASK and any(name.lower().endswith("forpretraining") for name in named)
    if wanted not in named and not pretrained:
        raise BuildError(
            "HeadMissing",
            f"build.task is {config.task}, but config.json names the architecture {config.architecture}.",
            f"Use a {wanted} checkpoint, or set the build.task that the model was trained for; feature-extraction "
            "needs no head.",
        )
