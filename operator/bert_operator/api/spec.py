"""What users write: the spec of a BertDeployment.

`crd.py` turns these models into the CustomResourceDefinition, so every bound, default, description and CEL rule
here is enforced by the API server at admission; `plan` parses the same models again from what the watch delivers.
Only what this version can do is offered; later versions add fields and enum values, never change these.
"""

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from bert_operator.api import quantities
from bert_operator.api.base import Model, Rule, unique

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)]
ObjectName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", min_length=1, max_length=253
    ),
]


def _number_as_text(value: object) -> object:
    """`cpu: 2` in YAML is a number; Kubernetes takes it for `"2"` everywhere, so do we."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY_PATTERN, min_length=1, max_length=20),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
    BeforeValidator(_number_as_text),
]
LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        min_length=1,
        max_length=317,
    ),
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
Text = Annotated[str, StringConstraints(max_length=1024)]
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", max_length=512)
]


class Task(StrEnum):
    """What the model is asked to do; it decides which head is loaded and which outputs are served."""

    SEQUENCE_CLASSIFICATION = "sequence-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task, not a token
    QUESTION_ANSWERING = "question-answering"
    FILL_MASK = "fill-mask"
    FEATURE_EXTRACTION = "feature-extraction"


class Framework(StrEnum):
    """What the source model is written in."""

    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"


class Format(StrEnum):
    """What is built. `auto` chooses by server and hardware."""

    AUTO = "auto"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    SAVEDMODEL = "savedmodel"
    MAR = "mar"
    TORCHSCRIPT = "torchscript"


class Precision(StrEnum):
    """Number format of the built model's weights and activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class OnFailure(StrEnum):
    """What follows when a precision doesn't stay close enough to the source model."""

    FALLBACK = "Fallback"
    FAIL = "Fail"


class ServerType(StrEnum):
    """Which inference server serves the models."""

    TRITON = "triton"
    TFSERVING = "tfserving"
    TORCHSERVE = "torchserve"


class TuningMode(StrEnum):
    """What is done with measurements of the served model."""

    OFF = "Off"
    RECOMMEND = "Recommend"
    APPLY = "Apply"


class RolloutStrategy(StrEnum):
    """How pods are replaced when something changes."""

    ROLLING_UPDATE = "RollingUpdate"
    RECREATE = "Recreate"


class RetentionPolicy(StrEnum):
    """What happens to a claim made from `storage.size` when its BertDeployment is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class ResourceList(Model):
    """CPU and memory, as Kubernetes quantities."""

    cpu: Quantity | None = Field(None, description="CPU, e.g. `500m` or `2`.")
    memory: Quantity | None = Field(None, description="Memory, e.g. `512Mi` or `2Gi`.")


def _within_limit(name: str) -> Rule:
    """A container can't ask for more than it may use; Kubernetes would say so of a field that users never wrote."""
    request, limit = f"self.requests.{name}", f"self.limits.{name}"
    return Rule(
        rule=f"!has(self.requests) || !has(self.limits) || !has({request}) || !has({limit}) || "
        f"quantity(string({request})).compareTo(quantity(string({limit}))) <= 0",
        message=f"requests.{name} is more than limits.{name}: write at most the limit, or raise the limit",
        field_path=f".requests.{name}",
        holds=lambda self: (
            (asked := getattr(self.requests, name)) is None
            or (allowed := getattr(self.limits, name)) is None
            or quantities.parse(asked) <= quantities.parse(allowed)
        ),
    )


class Resources(Model):
    """Requests and limits of one container."""

    cel: ClassVar[tuple[Rule, ...]] = (_within_limit("cpu"), _within_limit("memory"))

    requests: ResourceList = Field(default_factory=ResourceList, description="What the scheduler sets aside.")
    limits: ResourceList = Field(
        default_factory=ResourceList,
        description="What the container may use; the CPU limit also sets the server's thread counts.",
    )


class EnvVar(Model):
    """A plain environment variable. Values from Secrets are not offered here."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] = Field(
        description="Name of the variable."
    )
    value: Text = Field("", description="Its value, taken literally.")


class LocalReference(Model):
    """The name of an object in the BertDeployment's own namespace."""

    name: ObjectName = Field(description="Name of the object.")


class PodTemplate(Model):
    """What the operator adds to the pods it makes."""

    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(
        default_factory=dict, description="Extra labels. The operator's own labels win."
    )
    annotations: Annotated[dict[LabelKey, Text], Field(max_length=16)] = Field(
        default_factory=dict, description="Extra annotations."
    )
    priority_class_name: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    image_pull_secrets: Annotated[
        list[LocalReference],
        Field(max_length=8, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}),
        unique("name"),
    ] = Field(default_factory=list, description="Secrets for pulling images from a private registry.")


class TritonOptions(Model):
    """Options of the Triton Inference Server; used when `type: triton`."""

    exit_timeout_seconds: int = Field(
        30, ge=1, le=600, description="How long Triton may finish running requests after SIGTERM, in seconds."
    )


_OWN_ENV: Final = r"^(LD_|PYTHON|BERTOPS_|OMP_|NVIDIA_VISIBLE_DEVICES$).*"
_TRITON_ARGS: Final = (
    r"^--(log-[a-z-]+|metrics-(config|interval-ms)|http-(thread-count|max-input-size)|grpc-infer-thread-count"
    r"|grpc-keepalive-[a-z-]+|grpc-max-connection-[a-z-]+|model-load-thread-count|cache-config|trace-config)=.+$"
)
_TFSERVING_ARGS: Final = (
    r"^--(rest_api_num_threads|rest_api_enable_cors_support|grpc_max_threads|grpc_channel_arguments|num_load_threads"
    r"|flush_filesystem_caches|enable_serialization_as_tensor_content|num_request_iterations_for_warmup)=.+$"
)


def _free_args(server: ServerType, pattern: str, flags: str) -> Rule:
    """ExtraArgs of one kind of server: only what neither collides with what is generated nor opens an admin API."""
    return Rule(
        rule=f"self.type != '{server.value}' || !has(self.extraArgs) || self.extraArgs.all(a, a.matches('{pattern}'))",
        message=f"extraArgs takes --flag=value entries of these flags only: {flags}; the operator generates the others "
        "from the spec",
        field_path=".extraArgs",
        holds=lambda self: self.type is not server or all(re.fullmatch(pattern, text) for text in self.extra_args),
    )


class Server(Model):
    """The inference server and its pods."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule=f"!has(self.env) || self.env.all(e, !e.name.matches('{_OWN_ENV}'))",
            message="env can't set LD_*, PYTHON*, OMP_*, BERTOPS_* or NVIDIA_VISIBLE_DEVICES, which the operator and "
            "the node set: remove it; to change thread counts set resources.limits.cpu",
            field_path=".env",
            holds=lambda self: not any(re.match(_OWN_ENV, variable.name) for variable in self.env),
        ),
        _free_args(
            ServerType.TRITON,
            _TRITON_ARGS,
            "--log-*, --metrics-config, --metrics-interval-ms, --http-thread-count, --http-max-input-size, "
            "--grpc-infer-thread-count, --grpc-keepalive-*, --grpc-max-connection-*, --model-load-thread-count, "
            "--cache-config, --trace-config",
        ),
        _free_args(
            ServerType.TFSERVING,
            _TFSERVING_ARGS,
            "--rest_api_num_threads, --rest_api_enable_cors_support, --grpc_max_threads, --grpc_channel_arguments, "
            "--num_load_threads, --flush_filesystem_caches, --enable_serialization_as_tensor_content, "
            "--num_request_iterations_for_warmup",
        ),
        Rule(
            rule="self.type != 'torchserve' || !has(self.extraArgs) || size(self.extraArgs) == 0",
            message="extraArgs are flags of a server, and TorchServe takes a generated file instead: remove them; "
            "batch sizes, workers and delays come from models[].serving",
            field_path=".extraArgs",
            holds=lambda self: self.type is not ServerType.TORCHSERVE or not self.extra_args,
        ),
    )

    type: ServerType = Field(description="Which inference server: `triton`, `tfserving` or `torchserve`.")
    image: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=512)] | None = Field(
        None,
        description="Image to use instead of the release's one, e.g. a mirror. It must hold the same release, and bash "
        "for the probes of TF Serving and of a Triton whose backend runs in Python.",
    )
    release: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=63)] | None = Field(
        None, description="Release of the server as named in the operator's settings; unset takes their default."
    )
    resources: Resources = Field(
        default_factory=Resources,
        description="Resources of the server container; unset values are derived from the models' sizes.",
    )
    env: Annotated[
        list[EnvVar],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}),
        unique("name"),
    ] = Field(default_factory=list, description="Extra environment variables of the server container.")
    extra_args: Annotated[list[Text], Field(max_length=32)] = Field(
        default_factory=list, description="Extra flags of the server that the operator doesn't generate."
    )
    pod_template: PodTemplate = Field(default_factory=PodTemplate, description="What to add to the serving pods.")
    triton: TritonOptions = Field(default_factory=TritonOptions, description="Options when `type: triton`.")


class Toleration(Model):
    """A toleration of the pods, as in the core API."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.key) || self.operator == 'Exists'",
            message="a toleration without key tolerates every taint and needs `operator: Exists`; else name the key",
            holds=lambda self: self.key is not None or self.operator == "Exists",
        ),
        Rule(
            rule="!has(self.value) || self.value == '' || self.operator == 'Equal'",
            message="a toleration with `operator: Exists` matches any value: remove value, or write `operator: Equal`",
            holds=lambda self: not self.value or self.operator == "Equal",
        ),
    )

    key: LabelKey | None = Field(None, description="Taint key.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="How the key relates to the value.")
    value: LabelValue | None = Field(None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="Taint effect.")


class Hardware(Model):
    """Where builds and servers run."""

    profile: DnsLabel = Field("cpu", description="Name of a hardware profile in the operator's settings.")
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = Field(
        default_factory=dict, description="Extra node labels to require."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(
        default_factory=list, description="Extra tolerations."
    )


class Builds(Model):
    """How much a build may take. Nothing here makes a new artifact unless the build is run again."""

    resources: Resources = Field(
        default_factory=Resources, description="Resources of the build's containers; unset values come from settings."
    )
    active_deadline_seconds: int = Field(
        3600, ge=60, le=86400, description="A build that takes longer is stopped, in seconds."
    )
    queue_name: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=63)]
        | None
    ) = Field(
        None,
        description="LocalQueue of Kueue in which build and profile Jobs wait for their turn; without Kueue in the "
        "cluster it does nothing.",
    )
    pod_template: PodTemplate = Field(default_factory=PodTemplate, description="What to add to the build pods.")


AccessMode = Literal["ReadWriteOnce", "ReadWriteMany"]


def _kept(field: str) -> Rule:
    """What a made claim keeps for ever: Kubernetes takes no change of it, so it is refused at once, by name."""
    return Rule(
        rule=f"!has(self.size) || !has(oldSelf.size) || (has(self.{field}) == has(oldSelf.{field}) && "
        f"(!has(self.{field}) || self.{field} == oldSelf.{field}))",
        message=f"{field} can't change, because a PersistentVolumeClaim's can't: write what was there, or name another "
        "claim in claimName instead of size",
        field_path=f".{field}",
    )


class Storage(Model):
    """Where artifacts are kept: an existing claim, or a size to make one."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.claimName) != has(self.size)",
            message="storage needs exactly one of claimName (an existing PersistentVolumeClaim) or size (to make one), "
            "e.g. `storage: {size: 5Gi}`",
            holds=lambda self: (self.claim_name is None) != (self.size is None),
        ),
        Rule(
            rule="!has(self.claimName) || (!has(self.storageClassName) && !has(self.accessModes))",
            message="storageClassName and accessModes belong to a new claim: remove them or replace claimName by size",
            holds=lambda self: self.claim_name is None or (not self.storage_class_name and not self.access_modes),
        ),
        Rule(
            rule="!has(self.size) || quantity(self.size).compareTo(quantity('1Mi')) >= 0",
            message="size is less than 1Mi: write a number with a unit, e.g. `5Gi`",
            field_path=".size",
            holds=lambda self: self.size is None or quantities.parse(self.size) >= quantities.MEBIBYTE,
        ),
        Rule(
            rule="!has(self.size) || !has(oldSelf.size) || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
            message="size can't shrink, because a PersistentVolumeClaim can't: write the old size or a larger one",
            field_path=".size",
        ),
        _kept("storageClassName"),
        _kept("accessModes"),
    )

    claim_name: ObjectName | None = Field(None, description="An existing PersistentVolumeClaim of this namespace.")
    size: Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=20)] | None = Field(
        None, description="Size of a claim to make, named `<name>-store`, e.g. `5Gi`. It can grow, not shrink."
    )
    storage_class_name: ObjectName | None = Field(None, description="StorageClass of the new claim; unset: default.")
    access_modes: (
        Annotated[
            list[AccessMode],
            Field(min_length=1, max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}),
            unique(),
        ]
        | None
    ) = Field(None, description="Access modes of the new claim; unset: ReadWriteOnce.")
    retention_policy: RetentionPolicy = Field(
        RetentionPolicy.RETAIN,
        description="Retain keeps a claim made from `size` when the BertDeployment is deleted (artifacts are reused); "
        "Delete removes it.",
    )


class SecretKeyReference(Model):
    """A key of a Secret in the BertDeployment's own namespace. The operator never reads it; the kubelet does."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = Field(
        "token", description="Key inside the Secret."
    )


class HuggingFaceSource(Model):
    """A model repository on the Hugging Face Hub (or a mirror that speaks its API)."""

    repo: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=200)
    ] = Field(description="Repository, e.g. `sentence-transformers/all-MiniLM-L6-v2`.")
    revision: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_/-]|\.[A-Za-z0-9_/-])*$", max_length=200)
    ] = Field(
        "main", description="Commit, tag or branch. A branch is resolved once; see the annotation bertops.dev/refresh."
    )
    token_secret_ref: SecretKeyReference | None = Field(
        None, description="Token for a private or gated repository. Only the fetch container sees it."
    )


class PvcSource(Model):
    """A model folder on a PersistentVolumeClaim: config.json, *.safetensors, tokenizer files."""

    claim_name: ObjectName = Field(description="A PersistentVolumeClaim of this namespace; it is mounted read-only.")
    path: RelativePath | None = Field(None, description="Folder inside the claim; unset is its root. No `..`.")


_METADATA: Final = (
    r"^https?://(169[.]254[.]|168[.]63[.]129[.]16(:|/|$)|100[.]100[.]100[.]200(:|/|$)"
    r"|\[[fF][eE][89abAB][0-9a-fA-F]:|\[[fF][dD]00:0?[eE][cC]2:|\[[fF][dD]20:0?0?[cC][eE]:"
    r"|\[[fF][dD]00:0?0?[cC]1:)"
)
"""Link-local addresses, and those at which AWS, Azure, Alibaba, Google and Oracle Cloud answer their nodes."""
_NUMBER: Final = r"^https?://([A-Za-z0-9.-]*[.])?(0[xX][0-9a-fA-F]*|[0-9]+)(:[0-9]+)?/?$"
"""A host that everybody's resolver takes for an IPv4 address: `2852039166`, `0xa9fea9fe`, `169.16689662`."""
_QUAD: Final = r"^https?://(0|[1-9][0-9]{0,2})([.](0|[1-9][0-9]{0,2})){3}(:|/|$)"
_MAPPED: Final = r"^https?://\[[0:]*:[fF]{4}:"


def _hides_ipv4(endpoint: str) -> bool:
    odd = bool(re.match(_NUMBER, endpoint)) and not re.match(_QUAD, endpoint)
    return odd or bool(re.match(_MAPPED, endpoint))


class S3Source(Model):
    """A model folder in a bucket of Amazon S3, or of anything that speaks its API."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule=f"!has(self.endpoint) || !self.endpoint.matches(r'{_METADATA}')",
            message="endpoint is a link-local or metadata address, where clouds hand out their nodes' credentials: "
            "write the address of an S3 service",
            field_path=".endpoint",
            holds=lambda self: self.endpoint is None or not re.match(_METADATA, self.endpoint),
        ),
        Rule(
            rule="!has(self.endpoint) || ("
            f"(!self.endpoint.matches(r'{_NUMBER}') || self.endpoint.matches(r'{_QUAD}')) && "
            f"!self.endpoint.matches(r'{_MAPPED}'))",
            message="endpoint hides an IPv4 address: write it as four decimal numbers, e.g. `http://10.0.0.5:9000`",
            field_path=".endpoint",
            holds=lambda self: self.endpoint is None or not _hides_ipv4(self.endpoint),
        ),
    )

    uri: Annotated[
        str,
        StringConstraints(
            pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9._=+@,~-]*)*/?$", max_length=1024
        ),
    ] = Field(description="Bucket and folder, e.g. `s3://models/team/my-bert`. No `..`.")
    endpoint: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/?$",
                max_length=253,
            ),
        ]
        | None
    ) = Field(None, description="Address of the service, e.g. `http://minio.minio:9000`; unset: Amazon's.")
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", min_length=1, max_length=63)] | None = Field(
        None, description="Region of the bucket, e.g. `eu-central-1`; unset: `us-east-1`."
    )
    credentials_secret_ref: LocalReference | None = Field(
        None,
        description="Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, and where they are needed "
        "`AWS_SESSION_TOKEN` and `ca.crt` (PEM). Only the fetch container sees it; unset: a public bucket.",
    )


class ArtifactSource(Model):
    """What another BertDeployment of this namespace has built into the same store: it is served as it is."""

    name: ObjectName = Field(description="Name of a BertArtifact (`kubectl get bertartifacts`) on the same claim.")


class Source(Model):
    """Where a version's weights come from: exactly one member."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="[has(self.huggingFace), has(self.pvc), has(self.s3), has(self.artifact)].filter(h, h).size() == 1",
            message="source needs exactly one of huggingFace, pvc, s3 or artifact, "
            "e.g. `source: {pvc: {claimName: models, path: my-bert}}`",
            holds=lambda self: [self.hugging_face, self.pvc, self.s3, self.artifact].count(None) == 3,  # noqa: PLR2004
        ),
    )

    hugging_face: HuggingFaceSource | None = Field(None, description="A repository on the Hugging Face Hub.")
    pvc: PvcSource | None = Field(None, description="A folder on a PersistentVolumeClaim.")
    s3: S3Source | None = Field(None, description="A folder in an S3 bucket.")
    artifact: ArtifactSource | None = Field(None, description="A published artifact of this store; nothing is built.")


Share = Annotated[str, StringConstraints(pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$", max_length=20)]


class SampleText(Model):
    """One text that judges a build."""

    text: Annotated[Text, StringConstraints(min_length=1)] = Field(description="The text, or the question.")
    text_pair: Text | None = Field(None, description="Second text, e.g. the passage that holds the answer.")


class TextsSource(Model):
    """A text file of yours: one text a line, of a pair the second behind a tab."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.configMapName) != has(self.claimName)",
            message="texts come from exactly one of configMapName or claimName, e.g. `{configMapName: my-texts}` or "
            "`{claimName: models, path: texts/mine.txt}`",
            holds=lambda self: (self.config_map_name is None) != (self.claim_name is None),
        ),
        Rule(
            rule="has(self.path) == has(self.claimName)",
            message="path says which file of the claim it is: write it with claimName, and without configMapName, "
            "whose file is named by key",
            holds=lambda self: (self.path is None) == (self.claim_name is None),
        ),
        Rule(
            rule="!has(self.key) || has(self.configMapName)",
            message="key says which entry of the ConfigMap it is: remove it, or write configMapName instead of "
            "claimName",
            holds=lambda self: self.key is None or self.config_map_name is not None,
        ),
    )

    config_map_name: ObjectName | None = Field(
        None, description="A ConfigMap of this namespace. The operator never reads it; the build Job does."
    )
    key: (
        Annotated[
            str,
            # As Kubernetes names them: `.` and `..` are no files, and what begins with `..` is the kubelet's.
            StringConstraints(
                pattern=r"^([-_a-zA-Z0-9]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$", min_length=1, max_length=253
            ),
        ]
        | None
    ) = Field(None, description="Key inside the ConfigMap; unset: `texts.txt`.")
    claim_name: ObjectName | None = Field(
        None, description="A PersistentVolumeClaim of this namespace; it is mounted read-only."
    )
    path: RelativePath | None = Field(None, description="File inside the claim. No `..`.")

    @property
    def file(self) -> str:
        """Where the file lies below what is mounted."""
        return self.path or self.key or "texts.txt"


class Calibration(Model):
    """From what the ranges of INT8 activations are taken."""

    texts: TextsSource = Field(
        description="Texts like those that clients will send, 4 to 512 of them, other than those that judge the build."
    )


class Fidelity(Model):
    """How close the built model must stay to its source model, on real texts. Unset values depend on precision."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.samplesFrom) || !has(self.samples) || size(self.samples) == 0",
            message="the texts that judge are written in samples or come from samplesFrom: remove one of them",
            field_path=".samplesFrom",
            holds=lambda self: self.samples_from is None or not self.samples,
        ),
    )

    samples: Annotated[list[SampleText], Field(max_length=16)] = Field(
        default_factory=list,
        description="Your own texts to compare with; unset: built-in ones of several languages and lengths.",
    )
    samples_from: TextsSource | None = Field(None, description="The same from a file of at most 64 texts.")

    max_abs_difference: Annotated[
        str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(e-?[0-9]{1,2})?$", max_length=20)
    ] | (
        None
    ) = Field(None, description='Largest allowed absolute difference of any output element, as text: `"0.001"`.')
    min_cosine: Share | None = Field(
        None, description='Smallest allowed cosine similarity of any output of any text, as text: `"0.9999"`.'
    )
    min_agreement: Share | None = Field(
        None,
        description="Smallest allowed share of labels, tags, spans or best tokens that are those of the source model, "
        'as text: `"0.98"`.',
    )
    on_failure: OnFailure = Field(
        OnFailure.FALLBACK,
        description="When no model of the precision is close enough: `Fallback` takes the next finer one (engines: "
        "int8 or bf16, fp16, mixed, fp32; format onnx: int8, fp32), and the status says so; `Fail` stops. The other "
        "formats stop.",
    )


FORMATS_IN: Final = {
    Precision.FP16: (Format.TENSORRT, Format.TORCHSCRIPT),
    Precision.BF16: (Format.TENSORRT, Format.TORCHSCRIPT),
    Precision.INT8: (Format.ONNX, Format.TENSORRT),
}
"""Which formats can be built in a precision other than fp32, on hardware that has it."""
DEFAULT_ENGINE_BATCH: Final = 32
"""Largest batch of a TensorRT engine whose spec names none."""


class Build(Model):
    """What is built: everything here makes a new artifact."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.sequenceBuckets) || self.sequenceBuckets.all(b, b <= self.maxSequenceLength)",
            message="every entry of sequenceBuckets must be at most maxSequenceLength: raise maxSequenceLength or "
            "remove the larger entries",
            field_path=".sequenceBuckets",
            holds=lambda self: all(length <= self.max_sequence_length for length in self.sequence_buckets or ()),
        ),
        Rule(
            rule="!has(self.precision) || self.precision == 'fp32' || !has(self.format) || self.format == 'auto' || "
            + " || ".join(
                f"(self.precision == '{precision.value}' && self.format in {[one.value for one in formats]})"
                for precision, formats in FORMATS_IN.items()
            ),
            message="precision fp16 and bf16 are for formats tensorrt and torchscript on a profile with GPUs, int8 "
            "for format tensorrt on such a profile and for format onnx on one without; the other formats are built in "
            "fp32: write `precision: fp32`, or a format that goes with it",
            field_path=".precision",
            holds=lambda self: (
                self.format is Format.AUTO or self.format in FORMATS_IN.get(self.precision, tuple(Format))
            ),
        ),
        Rule(
            rule="self.framework != 'tensorflow' || self.task in ['sequence-classification', 'feature-extraction']",
            message="build.framework tensorflow does the tasks sequence-classification and feature-extraction only: "
            "take a PyTorch checkpoint (`framework: pytorch`) for the other tasks",
            field_path=".task",
            holds=lambda self: (
                self.framework is not Framework.TENSORFLOW
                or self.task in (Task.SEQUENCE_CLASSIFICATION, Task.FEATURE_EXTRACTION)
            ),
        ),
        Rule(
            rule="self.framework != 'tensorflow' || !has(self.format) || self.format != 'torchscript'",
            message="format torchscript is traced from PyTorch checkpoints (`framework: pytorch`): write "
            "`format: onnx` for a TensorFlow source served by Triton",
            field_path=".format",
            holds=lambda self: self.framework is not Framework.TENSORFLOW or self.format is not Format.TORCHSCRIPT,
        ),
        Rule(
            rule="!has(self.maxBatchSize) || !has(self.format) || self.format in ['auto', 'tensorrt']",
            message="build.maxBatchSize is for format tensorrt, whose engines are built for a largest batch: remove "
            "it; serving.maxBatchSize sets the batch of every other format",
            field_path=".maxBatchSize",
            holds=lambda self: self.max_batch_size is None or self.format in (Format.AUTO, Format.TENSORRT),
        ),
    )

    task: Task = Field(
        description="What the model does: `sequence-classification`, `token-classification`, `question-answering`, "
        "`fill-mask` or `feature-extraction`. A `tensorflow` source does the first and the last."
    )
    framework: Framework = Field(
        Framework.PYTORCH,
        description="What the source is written in: `pytorch` (a transformers checkpoint) or `tensorflow` (a TF2 "
        "SavedModel).",
    )
    format: Format = Field(
        Format.AUTO,
        description="What to build: `onnx`, `tensorrt` or `torchscript` (Triton), `savedmodel` (TF Serving), `mar` "
        "(TorchServe), or `auto`: by server and hardware, never `torchscript`.",
    )
    precision: Precision = Field(
        Precision.FP32,
        description="Number format: `fp32`; on a profile with GPUs `fp16` and `bf16` for formats tensorrt and "
        "torchscript, and `int8` for format tensorrt; on a profile without `int8` for format onnx.",
    )
    max_sequence_length: int = Field(128, ge=8, le=8192, description="Longest input in tokens.")
    sequence_buckets: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=8192)]],
            Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}),
            unique(),
        ]
        | None
    ) = Field(
        None,
        description="Padding targets in tokens, used for warm-up, checks and the shapes of a TensorRT engine; unset: "
        "derived.",
    )
    max_batch_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Largest batch that a TensorRT engine is built for; unset: 32. serving.maxBatchSize may be less.",
    )
    fidelity: Fidelity = Field(default_factory=Fidelity, description="How close to the source model it must stay.")
    calibration: Calibration | None = Field(
        None, description="Texts of yours for precision int8; unset: built-in ones of several languages."
    )
    allow_pickle: bool = Field(
        False, description="Also read pytorch_model.bin (with weights_only) where no safetensors file exists."
    )

    @property
    def engine_batch(self) -> int:
        """Largest batch of a TensorRT engine."""
        return self.max_batch_size or DEFAULT_ENGINE_BATCH

    @property
    def texts(self) -> dict[str, TextsSource]:
        """Where texts of the user's come from, by what they are for: `samples` judge, those of `calibration` don't."""
        found = {"samples": self.fidelity.samples_from, "calibration": self.calibration and self.calibration.texts}
        return {role: source for role, source in found.items() if source}


class Batching(Model):
    """Dynamic batching of the server."""

    enabled: bool = Field(True, description="Whether requests are joined into batches.")
    max_queue_delay_microseconds: int = Field(
        1000, ge=0, le=1_000_000, description="How long a request may wait for others to join its batch, in µs."
    )
    preferred_batch_sizes: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=1024)]],
            Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}),
            unique(),
        ]
        | None
    ) = Field(None, description="Batch sizes to aim for; leave unset unless a profile needs them.")


class Serving(Model):
    """How a model is served: nothing here makes a new artifact."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.batching) || !has(self.batching.preferredBatchSizes) || "
            "self.batching.preferredBatchSizes.all(b, b <= self.maxBatchSize)",
            message="every entry of batching.preferredBatchSizes must be at most maxBatchSize: raise maxBatchSize or "
            "remove the larger entries",
            field_path=".batching",
            holds=lambda self: all(n <= self.max_batch_size for n in self.batching.preferred_batch_sizes or ()),
        ),
    )

    max_batch_size: int = Field(8, ge=1, le=1024, description="Largest batch the server runs at once.")
    instances: int = Field(1, ge=1, le=16, description="Copies of the model per server pod (instance group count).")
    warmup: bool = Field(True, description="Run real shapes through the model before it turns ready.")
    batching: Batching = Field(default_factory=Batching, description="Dynamic batching.")


VersionLabel = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_]+$", min_length=1, max_length=63)]


class Objective(Model):
    """What a model must do for its clients; `tuning` looks for a plan that does."""

    max_latency_milliseconds: int | None = Field(
        None, ge=1, le=600_000, description="Longest latency at `percentile`, in milliseconds; unset: any."
    )
    percentile: Literal[90, 95, 99] = Field(95, description="Which latency is meant: 90, 95 or 99.")
    target_requests_per_second: int | None = Field(
        None, ge=1, le=1_000_000, description="Load that all pods together must bear; sets the plan's replicas."
    )


class ModelVersion(Model):
    """One version of a model: its number and its source."""

    version: int = Field(ge=1, le=2_147_483_647, description="Version number, as clients name it.")
    source: Source = Field(description="Where the weights come from.")
    labels: Annotated[
        list[VersionLabel], Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}), unique()
    ] = Field(
        default_factory=list,
        description="Names that clients may write instead of the number (`type: tfserving` only), e.g. `production`.",
    )


class BertModel(Model):
    """One model of the server."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="size(self.versions) == 1 || has(self.defaultVersion)",
            message="with more than one version, set defaultVersion to the one unversioned requests get",
            holds=lambda self: len(self.versions) == 1 or self.default_version is not None,
        ),
        Rule(
            rule="!has(self.defaultVersion) || self.versions.exists(v, v.version == self.defaultVersion)",
            message="defaultVersion must be one of versions[].version",
            field_path=".defaultVersion",
            holds=lambda self: (
                self.default_version is None or any(entry.version == self.default_version for entry in self.versions)
            ),
        ),
        Rule(
            rule="!has(self.build.calibration) || self.build.precision == 'int8'",
            message="build.calibration is for precision int8, the other precisions have no ranges to take: remove it, "
            "or write `precision: int8`",
            field_path=".build",
            holds=lambda self: self.build.calibration is None or self.build.precision is Precision.INT8,
        ),
        Rule(
            rule="!has(self.build.calibration) || self.versions.all(v, !has(v.source.artifact))",
            message="build.calibration needs the source's tokenizer, which a published artifact doesn't hold: remove "
            "it (the artifact brings token ids of its own), or name where the weights come from",
            field_path=".build",
            holds=lambda self: (
                self.build.calibration is None or all(one.source.artifact is None for one in self.versions)
            ),
        ),
        Rule(
            rule="(!has(self.build.fidelity.samplesFrom) && (!has(self.build.fidelity.samples) || "
            "size(self.build.fidelity.samples) == 0)) || self.versions.all(v, !has(v.source.artifact))",
            message="build.fidelity.samples and samplesFrom need the source's tokenizer, which a published artifact "
            "doesn't hold: remove them (the artifact brings the token ids that judged it), or name where the weights "
            "come from",
            field_path=".build",
            holds=lambda self: (
                not (self.build.fidelity.samples or self.build.fidelity.samples_from)
                or all(one.source.artifact is None for one in self.versions)
            ),
        ),
        Rule(
            rule="self.versions.all(v, !has(v.labels) || v.labels.all(l, "
            "self.versions.exists_one(o, has(o.labels) && l in o.labels)))",
            message="a label can stand for one version of a model only: remove it from the others",
            field_path=".versions",
            holds=lambda self: (
                len({label for version in self.versions for label in version.labels})
                == sum(len(version.labels) for version in self.versions)
            ),
        ),
    )

    name: DnsLabel = Field(description="Name of the model as clients call it.")
    build: Build = Field(description="What is built from the source.")
    serving: Serving = Field(default_factory=Serving, description="How it is served.")
    objective: Objective = Field(default_factory=Objective, description="What it must do for its clients.")
    default_version: int | None = Field(
        None, ge=1, le=2_147_483_647, description="The version that unversioned requests get."
    )
    versions: Annotated[
        list[ModelVersion],
        Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-map-keys": ["version"]}),
        unique("version"),
    ] = Field(description="Versions served at once, keyed by number.")

    @property
    def default(self) -> int:
        """The version that unversioned requests get."""
        return self.default_version if self.default_version is not None else self.versions[0].version


class Rollout(Model):
    """How changes reach the pods."""

    strategy: RolloutStrategy = Field(
        RolloutStrategy.ROLLING_UPDATE, description="RollingUpdate never drops below the wished replicas; or Recreate."
    )
    verify: bool = Field(
        True, description="A pod gets traffic only once it answers the golden requests like the source model."
    )
    revision_history_limit: int = Field(3, ge=1, le=10, description="Old ReplicaSets kept as the way back.")


class CpuMetric(Model):
    """Pods are added while they use more CPU than this, and removed while they use less."""

    type: Literal["cpu"] = Field(description="What is measured: `cpu`.")
    average_utilization: int = Field(
        ge=1, le=1000, description="CPU to aim for, averaged over the pods, in percent of what they request."
    )


class ScalingRule(Model):
    """How one direction of scaling behaves."""

    stabilization_window_seconds: int = Field(
        ge=0, le=3600, description="How long the autoscaler looks back for a more cautious count, in seconds."
    )


class ScalingBehavior(Model):
    """How fast the autoscaler follows; unset directions follow the cluster's defaults."""

    scale_up: ScalingRule | None = Field(None, description="When pods are added; by default at once.")
    scale_down: ScalingRule | None = Field(None, description="When pods are removed; by default after 300 s.")


class Autoscaling(Model):
    """The bounds and the measure of the server's HorizontalPodAutoscaler."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.minReplicas <= self.maxReplicas",
            message="minReplicas is greater than maxReplicas: lower minReplicas, or raise maxReplicas to at least it",
            field_path=".minReplicas",
            holds=lambda self: self.min_replicas <= self.max_replicas,
        ),
    )

    min_replicas: int = Field(1, ge=1, le=1000, description="Fewest server pods; at least 1.")
    max_replicas: int = Field(ge=1, le=1000, description="Most server pods.")
    metrics: Annotated[
        list[CpuMetric],
        Field(min_length=1, max_length=4, json_schema_extra={"x-kubernetes-list-map-keys": ["type"]}),
        unique("type"),
    ] = Field(description="What is measured, keyed by type, e.g. `[{type: cpu, averageUtilization: 70}]`.")
    behavior: ScalingBehavior | None = Field(None, description="How fast the autoscaler follows.")


class Search(Model):
    """How far a measurement looks, and how long it may take."""

    max_concurrency: int = Field(16, ge=1, le=256, description="Most requests in flight at once.")
    max_batch_size: int | None = Field(
        None, ge=1, le=1024, description="Largest batch to try; unset: the model's `serving.maxBatchSize`."
    )
    max_instances: int = Field(2, ge=1, le=16, description="Most copies of the model per pod to try.")
    budget_minutes: int = Field(
        6, ge=1, le=240, description="The measurement stops after this long and uses what it has."
    )


class Tuning(Model):
    """Measures the served model with Triton Model Analyzer, and plans instances, batching and replicas from it."""

    mode: TuningMode = Field(
        TuningMode.OFF,
        description='"Off" (in quotes: YAML reads a bare Off as false); Recommend measures and shows a plan in '
        "`status.tuning`; Apply also serves by it.",
    )
    headroom_percent: int = Field(
        30, ge=0, le=400, description="How much more than the target load the planned replicas must bear, in percent."
    )
    max_replicas: int = Field(
        10, ge=1, le=1000, description="Most replicas a plan may ask for; `spec.replicas` is the fewest."
    )
    lengths: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=8192)]],
            Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}),
            unique(),
        ]
        | None
    ) = Field(
        None, description="Sequence lengths of the requests, in tokens; unset: sequenceBuckets, else maxSequenceLength."
    )
    search: Search = Field(default_factory=Search, description="How far a measurement looks.")


class DisruptionBudget(Model):
    """How many server pods a drained node may take away at once."""

    enabled: bool = Field(
        True,
        description="Makes a PodDisruptionBudget. Write false if these pods have one of yours: two block every drain.",
    )
    max_unavailable: int = Field(
        1, ge=1, le=1000, description="Most server pods that evictions may take away at the same time."
    )


class LabelSelector(Model):
    """What carries all these labels; without any: everything."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=8)] = Field(
        default_factory=dict, description="Labels, all of which must match."
    )


class Peer(Model):
    """Pods that may send requests, as in a NetworkPolicy's `from`."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.namespaceSelector) || has(self.podSelector)",
            message="name who may send requests: write `podSelector: {...}` for pods of this namespace, "
            "`namespaceSelector: {...}` for all pods of other namespaces, or both",
            holds=lambda self: self.namespace_selector is not None or self.pod_selector is not None,
        ),
    )

    namespace_selector: LabelSelector | None = Field(
        None, description="Namespaces; `{}` is all of them. Unset: the BertDeployment's own."
    )
    pod_selector: LabelSelector | None = Field(
        None, description="Pods of those namespaces; unset or `{}`: all of them."
    )


class NetworkAccess(Model):
    """Who may reach the server's pods, and that they reach nobody."""

    enabled: bool = Field(
        False,
        description="Makes a NetworkPolicy: requests and metrics from `allowFrom` only, nothing out. Needs a network "
        "plugin that enforces it.",
    )
    allow_from: Annotated[list[Peer], Field(max_length=16)] = Field(
        default_factory=list,
        description="Who may send requests and read metrics; empty: all pods of the same namespace. Monitoring that "
        "runs in another namespace must be named here.",
    )


class BertDeploymentSpec(Model):
    """What a user asks for."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.models.all(m, size(m.versions) == 1 || self.models.all(o, !o.name.startsWith(m.name) || "
            "!o.name.substring(size(m.name)).matches('^-v[0-9]+$')))",
            message="a model can't be named <name>-v<N> beside a model <name> with several versions, because its "
            "versions are served under such names: rename it",
            field_path=".models",
            holds=lambda self: (
                not any(
                    re.fullmatch(f"{model.name}-v[0-9]+", other.name)
                    for model in self.models
                    for other in self.models
                    if len(model.versions) > 1
                )
            ),
        ),
        Rule(
            rule="self.tuning.mode == 'Off' || size(self.models) == 1",
            message="tuning measures one model alone on its server, which says little of several that share one: "
            'write `mode: "Off"`, or give the model a BertDeployment of its own',
            field_path=".tuning",
            holds=lambda self: self.tuning.mode is TuningMode.OFF or len(self.models) == 1,
        ),
        Rule(
            rule="!has(self.tuning.lengths) || self.tuning.lengths.all(l, "
            "self.models.all(m, l <= m.build.maxSequenceLength))",
            message="every entry of tuning.lengths must be at most the model's maxSequenceLength: remove the larger "
            "entries, or raise maxSequenceLength",
            field_path=".tuning",
            holds=lambda self: all(
                length <= model.build.max_sequence_length
                for length in self.tuning.lengths or ()
                for model in self.models
            ),
        ),
        Rule(
            rule="self.server.type == 'tfserving' || "
            "self.models.all(m, m.versions.all(v, !has(v.labels) || size(v.labels) == 0))",
            message="versions[].labels are TF Serving's: remove them, or write `server: {type: tfserving}`; clients of "
            "the other servers name versions by number",
            field_path=".models",
            holds=lambda self: (
                self.server.type is ServerType.TFSERVING
                or not any(version.labels for model in self.models for version in model.versions)
            ),
        ),
    )

    replicas: int = Field(
        1,
        ge=0,
        le=1000,
        description="Server pods. `kubectl scale` sets it. With `autoscaling` it is the start value only.",
    )
    autoscaling: Autoscaling | None = Field(
        None, description="Lets a HorizontalPodAutoscaler set the number of server pods."
    )
    server: Server = Field(description="The inference server.")
    hardware: Hardware = Field(default_factory=Hardware, description="Where builds and servers run.")
    builds: Builds = Field(default_factory=Builds, description="How much a build may take.")
    storage: Storage = Field(description="Where artifacts are kept.")
    models: Annotated[
        list[BertModel],
        Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-map-keys": ["name"]}),
        unique("name"),
    ] = Field(description="The models served by this server, keyed by name.")
    tuning: Tuning = Field(default_factory=Tuning, description="Measuring, and serving by what was measured.")
    rollout: Rollout = Field(default_factory=Rollout, description="How changes reach the pods.")
    pod_disruption_budget: DisruptionBudget = Field(
        default_factory=DisruptionBudget, description="How many server pods a drained node may take away at once."
    )
    network_policy: NetworkAccess = Field(
        default_factory=NetworkAccess, description="Who may reach the server's pods; off by default."
    )
