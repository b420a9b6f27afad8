"""What the operator reports: status of a BertDeployment. It says what was observed, never what was just asked for."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from bert_operator.api.base import Model


class ConditionType(StrEnum):
    """Conditions in the order in which a BertDeployment passes through them."""

    ACCEPTED = "Accepted"
    SOURCE_RESOLVED = "SourceResolved"
    BUILT = "Built"
    VERIFIED = "Verified"
    PROGRESSING = "Progressing"
    AVAILABLE = "Available"
    READY = "Ready"
    UP_TO_DATE = "UpToDate"
    TUNED = "Tuned"
    DEGRADED = "Degraded"


class Condition(Model):
    """One condition, as metav1.Condition."""

    type: str = Field(max_length=63, description="CamelCase name of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=128, description="CamelCase cause.")
    message: str = Field("", max_length=4096, description="What was found and what to do next.")
    last_transition_time: str = Field(max_length=40, description="When status last changed, RFC 3339.")
    observed_generation: int = Field(0, description="Generation of the spec this was judged for.")


class VersionStatus(Model):
    """One version of a model: what was built for it."""

    version: int = Field(description="Version number.")
    stage: str = Field("", max_length=64, description="Where its build stands.")
    request_key: str = Field("", max_length=64, description="What was asked.")
    artifact: str = Field("", max_length=253, description="Name of the BertArtifact that answers it.")
    revision: str = Field("", max_length=256, description="Resolved commit, or digest of the weights.")
    precision: str = Field("", max_length=16, description="Achieved precision.")
    precision_reason: str = Field("", max_length=256, description="Why it isn't the precision of the spec.")
    max_abs_difference: str = Field("", max_length=24, description="Largest difference to the source model.")
    min_cosine: str = Field("", max_length=24, description="Smallest cosine similarity to the source model.")


class ModelStatus(Model):
    """One model."""

    name: str = Field(max_length=63, description="Name of the model.")
    versions: Annotated[
        list[VersionStatus], Field(max_length=8, json_schema_extra={"x-kubernetes-list-map-keys": ["version"]})
    ] = Field(default_factory=list, description="Its versions.")


class Endpoint(Model):
    """Where clients send requests."""

    http: str = Field("", max_length=512, description="Base URL of the HTTP API inside the cluster.")
    grpc: str = Field("", max_length=512, description="host:port of the gRPC API inside the cluster.")
    metrics: str = Field("", max_length=512, description="URL of the Prometheus metrics inside the cluster.")


class Summary(Model):
    """The printer columns' words."""

    stage: str = Field("", max_length=64, description="Where the whole stands.")
    precision: str = Field("", max_length=32, description="Achieved precision.")
    fidelity: str = Field("", max_length=32, description="Smallest cosine similarity to the source models.")
    models: str = Field("", max_length=16, description="Built versions of all versions, e.g. 2/3.")


class TunedPlan(Model):
    """How to serve, by measurement."""

    instances: int = Field(description="Copies of the model per pod.")
    max_batch_size: int = Field(description="Largest batch the server runs at once.")
    batching: bool = Field(description="Whether requests are joined into batches.")
    max_queue_delay_microseconds: int = Field(0, description="How long a request waits to share a batch, in µs.")
    replicas: int | None = Field(None, description="Pods for the target load; unset: the objective names no load.")
    concurrency: int = Field(description="Requests in flight at once per pod, at which this was measured.")
    requests_per_second: str = Field(max_length=24, description="What one pod then answers.")
    latency_milliseconds: str = Field(max_length=24, description="Its latency at `percentile`.")
    percentile: int = Field(description="Which latency is meant.")
    key: str = Field(max_length=64, description="The measurement that this comes from.")
    why: str = Field("", max_length=1024, description="How it was chosen.")


class TuningStatus(Model):
    """What was measured and what follows from it."""

    mode: str = Field(max_length=16, description="Mode of the spec.")
    model: str = Field("", max_length=63, description="The model that is measured.")
    key: str = Field("", max_length=64, description="Names the measurement that the spec asks for.")
    artifact: str = Field("", max_length=253, description="BertArtifact that holds the measured points.")
    job: str = Field("", max_length=63, description="The Job that measures.")
    measured_at: str = Field("", max_length=40, description="When the measurement ended.")
    points: int = Field(0, description="Points measured.")
    max_latency_milliseconds: int | None = Field(None, description="Limit of the objective.")
    percentile: int = Field(95, description="Percentile of the objective.")
    plan: TunedPlan | None = Field(None, description="How to serve, by this measurement.")
    served: TunedPlan | None = Field(None, description="The plan that the server's Deployment follows now.")


class BertDeploymentStatus(Model):
    """Status of a BertDeployment."""

    observed_generation: int = Field(0, description="Generation of the spec this status was judged for.")
    conditions: Annotated[
        list[Condition], Field(max_length=16, json_schema_extra={"x-kubernetes-list-map-keys": ["type"]})
    ] = Field(default_factory=list, description="What is true of this BertDeployment.")
    summary: Summary = Field(default_factory=Summary, description="The printer columns' words.")
    models: Annotated[
        list[ModelStatus], Field(max_length=16, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]})
    ] = Field(default_factory=list, description="Each model and its versions.")
    endpoint: Endpoint = Field(default_factory=Endpoint, description="Where clients send requests.")
    tuning: TuningStatus | None = Field(None, description="What was measured; unset while tuning is off.")
    replicas: int = Field(0, description="Serving pods that exist.")
    ready_replicas: int = Field(0, description="Serving pods that are ready.")
    selector: str = Field("", max_length=256, description="Label selector of the serving pods, for autoscalers.")
