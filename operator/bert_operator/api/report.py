"""What the operator asks of a Job and what the Job answers.

The operator writes BuildRequest and ServedModels into pods; Jobs answer with BuildReport or BuildFailure as the
termination message, which Kubernetes cuts at 4,096 bytes: both stay below 3,500 by construction.
"""

from enum import IntEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from bert_operator.api.base import Model
from bert_operator.api.spec import Build, HuggingFaceSource, PvcSource, S3Source

MAX_REPORT_BYTES: Final = 3500


class ExitCode(IntEnum):
    """Why a build container stopped. The Job's podFailurePolicy and the operator's retries go by these."""

    OK = 0
    USER_ERROR = 65
    """Wrong input: the same input fails again. Never retried."""
    INTERNAL = 70
    """A defect of ours. Never retried; the message asks for a report."""
    NO_SPACE = 73
    """The claim is full. Never retried by itself."""
    PASSING = 75
    """A passing fault (network, busy lock): worth another try."""


Word = Annotated[str, StringConstraints(max_length=64)]
Text = Annotated[str, StringConstraints(max_length=256)]


class OnnxArtifact(Model):
    """The published ONNX artifact that an engine is compiled from, and what the engine must fit."""

    artifact_key: str
    manifest_sha256: str
    revision: str
    """What the source was resolved to when this artifact was asked for."""
    profile: str
    """Hardware profile that the engine is for, for messages."""
    compute_capability: str = ""
    """Of the profile's GPUs, if the installation's settings say; empty: whatever the node has."""
    tensorrt_version: str = ""
    """That the server will bring, if the installation's settings say; empty: whatever the image has."""


class BuildRequest(Model):
    """One artifact to build, as JSON in the environment variable BERTOPS_BUILD_REQUEST of each build container."""

    request_key: str
    model: str
    version: int
    build: Build
    hugging_face: HuggingFaceSource | None = None
    pvc: PvcSource | None = None
    s3: S3Source | None = None
    onnx: OnnxArtifact | None = None
    """Only for format tensorrt, which has no other source."""
    trace_device: Literal["cuda"] | None = None
    """Where TorchScript is traced, if not on the CPU: a trace remembers its device, and fails on any other."""
    images: list[str] = Field(default_factory=list)
    """What the Job's containers run in, for the manifest."""
    store_read_only: bool = False
    """The store's claim is ReadOnlyMany and nothing else: what isn't in it can't be built."""
    owner: str = ""
    """`namespace/name` of who asked, for logs and the lock file."""


class TensorSpec(Model):
    """One input or output of an artifact, as read from the artifact itself."""

    name: Annotated[str, StringConstraints(max_length=63)]
    """Name of the tensor."""
    dtype: Annotated[str, StringConstraints(max_length=12)]
    """Triton's name without TYPE_: INT64, FP32, ..."""
    dims: Annotated[list[int], Field(max_length=8)]
    """Without the batch axis; -1 is variable."""


class EngineProfile(Model):
    """Shapes [batch, tokens] that one optimization profile of an engine takes."""

    min: Annotated[list[int], Field(min_length=2, max_length=2)]
    """Smallest."""
    opt: Annotated[list[int], Field(min_length=2, max_length=2)]
    """The one it is fastest at."""
    max: Annotated[list[int], Field(min_length=2, max_length=2)]
    """Largest."""


class BatchSensitivity(Model):
    """Smallest cosine similarity of any output of any text, by the company in which the artifact was asked."""

    alone: float
    """To the source model, each text alone."""
    padded: float
    """To the source model, each text padded to longer inputs."""
    mixed: float
    """To the source model, in batches of texts of different lengths."""
    neighbours: float
    """Of the artifact's answers in company to its own answers alone: 1 means that company changes nothing."""


class Lowering(Model):
    """How fewer bits were reached, or why they were not."""

    asked: Word
    """Precision of the spec."""
    achieved: Word
    """Precision of what was published."""
    method: Word = ""
    """static or dynamic; empty if the published one has full precision."""
    size_ratio: float = 1.0
    """Size of the artifact, as a share of the FP32 one's."""
    speed_ratio: float = 1.0
    """How many times as fast as the FP32 one it answered the build's texts, one at a time on one core."""
    why: Text = ""
    """What was tried before and refused."""


class FidelityFigures(Model):
    """How close the artifact stays to its source model: worst case over all texts and outputs."""

    samples: int
    """Texts compared."""
    max_abs_difference: float
    """Largest absolute difference of any output element."""
    min_cosine: float
    """Smallest cosine similarity of any output of any text."""
    limit_max_abs_difference: float
    """Largest difference that was allowed."""
    limit_min_cosine: float
    """Smallest cosine similarity that was allowed."""
    agreement: float | None = None
    """Share of labels, tags, spans or best tokens that are those of the source model; unset: the task decides none."""
    limit_agreement: float | None = None
    """Smallest agreement that was allowed."""
    batch_sensitivity: BatchSensitivity | None = None
    """Whether padding and neighbours change answers; unset in reports of the first releases."""


class BuildReport(Model):
    """What a finished build tells the operator; becomes a BertArtifact."""

    format: Word
    """What was built: onnx."""
    artifact_key: Word
    """32 hex digits; the folder is artifacts/<format>-<artifact key>."""
    manifest_sha256: Text
    """Digest of manifest.json, which holds the digests of the other files."""
    weights_digest: Text
    """Digest of the source's weights."""
    revision: Text
    """Resolved commit of the hub, or `sha256:<weights digest>` for a PVC source."""
    task: Word
    """What the model does."""
    precision: Word
    """Achieved precision."""
    architecture: Text
    """Class of the source model."""
    inputs: Annotated[list[TensorSpec], Field(max_length=16)]
    """Inputs of the artifact."""
    outputs: Annotated[list[TensorSpec], Field(max_length=16)]
    """Outputs of the artifact."""
    max_sequence_length: int
    """Longest input in tokens."""
    size_bytes: int
    """Size of all files."""
    parameters: int
    """Parameters of the source model."""
    fidelity: FidelityFigures
    """How close it stays to the source model."""
    toolchain: Annotated[dict[Word, Text], Field(max_length=32)]
    """Versions of the tools that built it."""
    durations_seconds: Annotated[dict[Word, float], Field(max_length=16)]
    """How long each step took."""
    peak_memory_bytes: int
    """Most memory that the build used."""
    compute_capability: Word = ""
    """Of the only GPUs that an engine runs on, e.g. 8.6; empty for formats that run anywhere."""
    tensorrt_version: Word = ""
    """The only TensorRT that loads the engine; empty for other formats."""
    profiles: Annotated[list[EngineProfile], Field(max_length=9)] = Field(default_factory=list)
    """Shapes that an engine takes; empty for other formats."""
    lowering: Lowering | None = None
    """What came of a wish for int8; unset where none was made."""
    reused: bool = False
    """True if an earlier build had published it and nothing was converted."""


class BuildFailure(Model):
    """Why a build stopped, for the condition: what was found and what to do."""

    reason: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]+$", max_length=64)]
    message: Annotated[str, StringConstraints(max_length=1500)]
    next_step: Annotated[str, StringConstraints(max_length=800)] = ""


class ServedModel(Model):
    """One mounted artifact of a serving pod."""

    name: str
    """Name of the model as the server knows it."""
    version: int
    path: str
    """Where the artifact is mounted, e.g. /models/minilm/1."""
    artifact: str
    """Name of the BertArtifact, for messages."""
    manifest_sha256: str
    max_batch_size: int


class ServedModels(Model):
    """What preflight checks and verify asks, as JSON in the environment variable BERTOPS_SERVED."""

    server: str
    """triton"""
    owner: str = ""
    """`namespace/name` of the BertDeployment, for messages."""
    compute_capability: str = ""
    """Of the pod's GPU, if the installation's settings say."""
    tensorrt_version: str = ""
    """Inside the server's image, if the installation's settings say."""
    models: list[ServedModel]


class ManifestFile(Model):
    """Size and digest of one file."""

    size: int
    sha256: str


class Provenance(Model):
    """Where a published artifact comes from: what was asked, what was found, what built it."""

    source: dict[str, Any]
    """As the BertDeployment wrote it; the report has what it was resolved to."""
    source_files: dict[str, str] = Field(default_factory=dict)
    """Name -> sha256 of every file of the source that was read."""
    recipe: dict[str, Any]
    """What decides, beside source and toolchain, which artifact it is: the inputs of the artifact key."""
    images: list[str] = Field(default_factory=list)
    """References of the images that the Job's containers ran in."""


class Manifest(Model):
    """manifest.json of a published artifact: the report, and what proves that the files are the built ones."""

    schema_version: int = Field(1, ge=1)
    report: BuildReport
    """With manifest_sha256 left empty: a file can't hold its own digest."""
    files: dict[str, ManifestFile]
    """Relative path -> size and digest of every file but manifest.json itself."""
    warnings: list[str] = Field(default_factory=list)
    """What the build's checks could not see, e.g. an input to which the source model doesn't react."""
    provenance: Provenance | None = None
    """None in manifests of the first releases."""
