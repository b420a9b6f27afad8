"""What the operator asks of a profile Job, what the Job answers, and what a BertArtifact keeps of it.

The answer travels as a termination message: the bounds below keep it under MAX_REPORT_BYTES by construction.
"""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from bert_operator.api.base import Model, unique

MAX_VARIANTS: Final = 6
MAX_POINTS_OF_VARIANT: Final = 5
MAX_MEASUREMENTS: Final = 16
"""Kept per artifact; the oldest that nobody asks for goes."""
PERCENTILES: Final = (90, 95, 99)
"""Latency percentiles that Model Analyzer reports."""

Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$", max_length=64)]
_Milliseconds = Annotated[float, Field(ge=0, le=1e8)]


class VariantConfig(Model):
    """One way of serving the model: what Triton is told and what is measured."""

    instances: int = Field(ge=1, le=16, description="Copies of the model per server pod.")
    max_batch_size: int = Field(ge=1, le=1024, description="Largest batch the server runs at once.")
    max_queue_delay_microseconds: int | None = Field(
        None, ge=0, le=1_000_000, description="How long a request waits to share a batch; unset: no dynamic batching."
    )


class AskedVariant(VariantConfig):
    """One variant that a profile Job is to measure."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9]*$", max_length=63)]
    """Its model's name in the Job's repository."""
    config: str = ""
    """Text of its config.pbtxt, made by what makes the served one; only `prepare` gets it."""


class ProfileRequest(Model):
    """One profile run, as JSON in the environment variable BERTOPS_PROFILE_REQUEST."""

    key: Key
    kept: Annotated[list[Key], Field(max_length=MAX_MEASUREMENTS)] = Field(default_factory=list)
    """Measurements of this artifact that are recorded; the files of others may go."""
    model: str
    version: int
    artifact: str
    """Name of the BertArtifact, for messages."""
    artifact_path: str = ""
    """Its folder inside the claim."""
    manifest_sha256: str
    variants: Annotated[list[AskedVariant], Field(min_length=1, max_length=MAX_VARIANTS)]
    concurrency: Annotated[list[int], Field(min_length=1, max_length=MAX_POINTS_OF_VARIANT)]
    """Requests in flight at once, each measured for each variant."""
    lengths: Annotated[list[int], Field(min_length=1, max_length=8)]
    """Sequence lengths in tokens; the requests take turns."""
    budget_seconds: int
    model_file: str
    """The artifact's model file, which must be there."""
    owner: str = ""
    """`namespace/name` of who asked."""


class MeasuredPoint(Model):
    """One variant under one load: closed loop, `concurrency` requests in flight, one sequence each."""

    concurrency: int = Field(ge=1, le=1024, description="Requests in flight at once.")
    throughput: float = Field(ge=0, le=1e8, description="Answered requests per second.")
    p90: _Milliseconds | None = Field(None, description="90th percentile of the latency in milliseconds.")
    p95: _Milliseconds | None = Field(None, description="95th percentile of the latency in milliseconds.")
    p99: _Milliseconds | None = Field(None, description="99th percentile of the latency in milliseconds.")

    def latency(self, percentile: int) -> float | None:
        """Latency in milliseconds at one of PERCENTILES; None if the analyzer didn't report it."""
        found: float | None = getattr(self, f"p{percentile}")
        return found


class MeasuredVariant(VariantConfig):
    """One variant with what was measured of it."""

    points: Annotated[list[MeasuredPoint], Field(max_length=MAX_POINTS_OF_VARIANT)] = Field(
        description="One for each load."
    )


class ProfileReport(Model):
    """What a finished profile Job tells the operator."""

    key: Key
    variants: Annotated[list[MeasuredVariant], Field(min_length=1, max_length=MAX_VARIANTS)]
    skipped: int = 0
    """Variants that were not measured: the budget was spent, or the server couldn't run them."""
    seconds: int
    """How long the run took."""
    analyzer: Annotated[str, StringConstraints(max_length=32)] = ""
    """Version of Model Analyzer."""


class Measurement(Model):
    """What is kept of a profile run, beside the artifact that was measured. It holds for its key alone."""

    key: Key = Field(description="Hash of what was measured: artifact, image, hardware, resources, search, lengths.")
    measured_at: str = Field(max_length=40, description="When the run ended, RFC 3339.")
    image: str = Field(max_length=512, description="Image of the server that was measured.")
    profile: str = Field(max_length=63, description="Hardware profile that it ran on.")
    lengths: Annotated[list[int], Field(max_length=8)] = Field(description="Sequence lengths of the requests, tokens.")
    seconds: int = Field(description="How long the run took.")
    skipped: int = Field(0, description="Variants that were not measured.")
    analyzer: str = Field("", max_length=32, description="Version of Model Analyzer.")
    variants: Annotated[list[MeasuredVariant], Field(max_length=MAX_VARIANTS)] = Field(description="What was measured.")


Measurements = Annotated[
    list[Measurement],
    Field(max_length=MAX_MEASUREMENTS, json_schema_extra={"x-kubernetes-list-map-keys": ["key"]}),
    unique("key"),
]
