"""Good and bad BertDeployments: the unit tests give them to the models, the cluster tests to a real API server.

Each bad one is the good one with one mistake, and the words a user must read about it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Resource = dict[str, Any]
Mutation = Callable[[Resource], None]

FIRST = "spec.models.0"
SOURCE = f"{FIRST}.versions.0.source"


def good() -> Resource:
    """The smallest BertDeployment anybody would write."""
    return {
        "apiVersion": "bertops.dev/v1alpha1",
        "kind": "BertDeployment",
        "metadata": {"name": "minilm"},
        "spec": {
            "server": {"type": "triton"},
            "storage": {"size": "5Gi"},
            "models": [model("minilm")],
        },
    }


def model(name: str, *numbers: int, **more: Any) -> Resource:
    """One model with these versions (1, if none is given)."""
    versions = [version(number) for number in numbers or (1,)]
    return {"name": name, "build": {"task": "feature-extraction"}, "versions": versions, **more}


def version(number: int) -> Resource:
    """One version from a claim."""
    return {"version": number, "source": {"pvc": {"claimName": "models", "path": "minilm"}}}


def put(path: str, value: Any) -> Mutation:
    """Set what the dotted path names; objects on the way are made."""

    def mutate(resource: Resource) -> None:
        *way, last = path.split(".")
        here: Any = resource
        for step in way:
            here = here[int(step)] if step.isdigit() else here.setdefault(step, {})
        here[int(last) if last.isdigit() else last] = copy.deepcopy(value)  # another mutation may change it

    return mutate


def drop(path: str) -> Mutation:
    """Remove what the dotted path names."""

    def mutate(resource: Resource) -> None:
        *way, last = path.split(".")
        here: Any = resource
        for step in way:
            here = here[int(step)] if step.isdigit() else here[step]
        del here[last]

    return mutate


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One mistake."""

    id: str
    mutations: tuple[Mutation, ...]
    says: str
    """What the API server's answer contains."""
    parsed: bool = True
    """Whether the models refuse it too. They don't see metadata, and they take `"3"` for 3 as YAML readers do."""

    def resource(self) -> Resource:
        """The good one with this mistake."""
        resource = copy.deepcopy(good())
        for mutate in self.mutations:
            mutate(resource)
        return resource


def _bad(id_: str, *mutations: Mutation, says: str, parsed: bool = True) -> Bad:
    return Bad(id=id_, mutations=mutations, says=says, parsed=parsed)


def _each(prefix: str, path: str, values: list[Any], says: str) -> list[Bad]:
    return [_bad(f"{prefix}-{number}", put(path, value), says=says) for number, value in enumerate(values)]


_hub = put(SOURCE, {"huggingFace": {"repo": "org/bert"}})
_bucket = {"uri": "s3://models/bert"}

NAMES = [
    _bad("name-too-long", put("metadata.name", "a" * 41), says="metadata.name can have at most 40", parsed=False),
    _bad("name-starts-with-digit", put("metadata.name", "7b"), says="start with a letter", parsed=False),
    _bad("name-has-a-dot", put("metadata.name", "mini.lm"), says="use only a-z, 0-9 and '-'", parsed=False),
    *_each(
        "model-name",
        f"{FIRST}.name",
        [
            "../etc",
            "a/b",
            "Mini",
            "a_b",
            "-a",
            "a-",
            "",
            "a" * 41,
            "a\n",
            "ünicode",
            "a\x00",
            'a"b',
            "{{a}}",
            "${env:A}",
        ],
        "spec.models[0].name: ",
    ),
    _bad("model-unnamed", drop(f"{FIRST}.name"), says="spec.models[0].name: Required value"),
    _bad("model-twice", put("spec.models", [model("a"), model("a")]), says="spec.models[1]: Duplicate value"),
    _bad("no-model", put("spec.models", []), says="spec.models: Invalid value"),
    _bad("17-models", put("spec.models", [model(f"m{n}") for n in range(17)]), says="spec.models: Too many"),
    _bad(
        "model-named-like-a-version",
        put("spec.models", [model("bert", 1, 2, defaultVersion=1), model("bert-v2")]),
        says="a model can't be named <name>-v<N> beside a model <name> with several versions",
    ),
]

VERSIONS = [
    *_each("version", f"{FIRST}.versions.0.version", [0, -1, 2_147_483_648, 1.5, "x"], "spec.models[0].versions[0]"),
    _bad(
        "version-twice", put("spec.models", [model("a", 2, 2, defaultVersion=2)]), says="versions[1]: Duplicate value"
    ),
    _bad("no-version", put(f"{FIRST}.versions", []), says="versions: Invalid value"),
    _bad("9-versions", put("spec.models", [model("a", *range(1, 10), defaultVersion=1)]), says="versions: Too many"),
    _bad(
        "versions-without-default",
        put("spec.models", [model("a", 1, 2)]),
        says="with more than one version, set defaultVersion",
    ),
    _bad("default-is-none-of-them", put(f"{FIRST}.defaultVersion", 7), says="defaultVersion must be one of versions"),
    _bad(
        "labels-of-triton",
        put(f"{FIRST}.versions.0.labels", ["production"]),
        says="versions[].labels are TF Serving's: remove them, or write `server: {type: tfserving}`",
    ),
    _bad(
        "label-of-two-versions",
        put("spec.server.type", "tfserving"),
        put("spec.models", [model("a", 1, 2, defaultVersion=2)]),
        put(f"{FIRST}.versions.0.labels", ["production"]),
        put(f"{FIRST}.versions.1.labels", ["test", "production"]),
        says="a label can stand for one version of a model only: remove it from the others",
    ),
    *[
        _bad(
            f"label-{number}",
            put("spec.server.type", "tfserving"),
            put(f"{FIRST}.versions.0.labels", labels),
            says="versions[0].labels",
        )
        for number, labels in enumerate(
            [[""], ["a b"], ["a-b"], ["a/b"], ["a:b"], ['a"'], ["a\n"], ["ü"], ["a" * 64], ["a", "a"], ["a"] * 9]
        )
    ],
]

SOURCES = [
    _bad(
        "no-source",
        put(SOURCE, {}),
        says="source needs exactly one of huggingFace, pvc, s3 or artifact, e.g. `source: {pvc:",
    ),
    _bad(
        "two-sources",
        put(f"{SOURCE}.huggingFace", {"repo": "org/bert"}),
        says="exactly one of huggingFace, pvc, s3 or artifact, e.g.",
    ),
    *[
        _bad(f"bucket-{number}", put(SOURCE, {"s3": {"uri": uri}}), says="s3.uri: ")
        for number, uri in enumerate(
            [
                "",
                "http://models/a",
                "s3://m",
                "s3://Models/a",
                "s3://models/../a",
                "s3://models/a/..",
                "s3://models//a",
                "s3://models/a b",
                "s3://models/.hidden",
                "s3://models/a?versionId=1",
                "s3://models/a\n",
                "s3://../a",
            ]
        )
    ],
    *[
        _bad(f"endpoint-{number}", put(SOURCE, {"s3": {**_bucket, "endpoint": text}}), says="s3.endpoint: ")
        for number, text in enumerate(
            [
                "",
                "minio:9000",
                "ftp://minio",
                "http://user:pass@minio",
                "http://minio/path",
                "http://a b",
                "http://minio\n",
            ]
        )
    ],
    *[
        _bad(
            f"link-local-{number}",
            put(SOURCE, {"s3": {**_bucket, "endpoint": text}}),
            says="is a link-local or metadata",
        )
        for number, text in enumerate(
            [
                "http://169.254.169.254",
                "https://169.254.170.2:80/",
                "http://[fe80::1]:80",
                "http://[FEB0::1]",
                "http://[fd00:ec2::254]",
                "http://[fd20:ce::254]:80",
                "http://[fd00:c1::a9fe:a9fe]",
                "http://168.63.129.16",
                "http://100.100.100.200/",
            ]
        )
    ],
    *[
        _bad(f"hidden-{number}", put(SOURCE, {"s3": {**_bucket, "endpoint": text}}), says="endpoint hides an IPv4")
        for number, text in enumerate(
            [
                "http://2852039166",
                "http://0xA9FEA9FE:80/",
                "http://169.16689662",
                "http://0251.0376.0251.0376",
                "http://[::ffff:a9fe:a9fe]:80",
                "http://[0:0:0:0:0:FFFF:a9fe:a9fe]",
            ]
        )
    ],
    *[
        _bad(f"region-{number}", put(SOURCE, {"s3": {**_bucket, "region": text}}), says="s3.region: ")
        for number, text in enumerate(["", "EU", "eu west"])
    ],
    _bad(
        "keys-in-the-spec",
        put(SOURCE, {"s3": {**_bucket, "accessKeyId": "AKIA"}}),
        says='unknown field "spec.models[0].versions[0].source.s3.accessKeyId"',
    ),
    _bad("no-artifact-named", put(SOURCE, {"artifact": {}}), says="source.artifact.name: Required value"),
    *_each(
        "path",
        f"{SOURCE}.pvc.path",
        ["..", "../x", "a/../b", "/etc", "a//b", "a/", "", ".hidden", "a/./b", "a\\b", "a b", "$(HOME)", "a" * 513],
        "source.pvc.path: ",
    ),
    *_each("claim", f"{SOURCE}.pvc.claimName", ["", "Other/claim", "../x", "a..b", "-a", "a_b"], "pvc.claimName: "),
    _bad("no-claim", drop(f"{SOURCE}.pvc.claimName"), says="pvc.claimName: Required value"),
    *[
        _bad(f"repo-{number}", _hub, put(f"{SOURCE}.huggingFace.repo", repo), says="huggingFace.repo: ")
        for number, repo in enumerate(
            ["", "http://169.254.169.254/", "file:///etc", "a/b/c", "../x", "org/..", "org/a b", "org/a?x=1", "@evil/x"]
        )
    ],
    *[
        _bad(f"revision-{number}", _hub, put(f"{SOURCE}.huggingFace.revision", text), says="huggingFace.revision: ")
        for number, text in enumerate(["", "../main", "a/../b", "..", "main?x", "-x", "a b", "main\n", "a..b"])
    ],
    _bad(
        "secret-of-another-namespace",
        _hub,
        put(f"{SOURCE}.huggingFace.tokenSecretRef", {"name": "hub", "namespace": "kube-system"}),
        says='unknown field "spec.models[0].versions[0].source.huggingFace.tokenSecretRef.namespace"',
    ),
    _bad(
        "claim-of-another-namespace",
        put(f"{SOURCE}.pvc.namespace", "kube-system"),
        says='unknown field "spec.models[0].versions[0].source.pvc.namespace"',
    ),
    _bad(
        "remote-code",
        _hub,
        put(f"{SOURCE}.huggingFace.trustRemoteCode", value=True),
        says='.trustRemoteCode"',
    ),
]

BUILDS = [
    _bad("no-task", put(f"{FIRST}.build", {}), says="build.task: Required value"),
    _bad("task-unknown", put(f"{FIRST}.build.task", "translation"), says='Unsupported value: "translation"'),
    _bad(
        "task-of-tensorflow",
        put(f"{FIRST}.build", {"task": "fill-mask", "framework": "tensorflow"}),
        says="framework tensorflow does the tasks sequence-classification and feature-extraction only",
    ),
    _bad(
        "torchscript-of-tensorflow",
        put(f"{FIRST}.build", {"task": "feature-extraction", "framework": "tensorflow", "format": "torchscript"}),
        says="format torchscript is traced from PyTorch checkpoints",
    ),
    _bad("precision-unknown", put(f"{FIRST}.build.precision", "fp8"), says='supported values: "fp32"'),
    _bad("format-unknown", put(f"{FIRST}.build.format", "gguf"), says='supported values: "auto", "onnx"'),
    *_each("sequence-length", f"{FIRST}.build.maxSequenceLength", [7, 0, -1, 8193], "build.maxSequenceLength: "),
    _bad("bucket-too-long", put(f"{FIRST}.build.sequenceBuckets", [64, 256]), says="raise maxSequenceLength or remove"),
    _bad(
        "bucket-twice", put(f"{FIRST}.build.sequenceBuckets", [64, 64]), says="sequenceBuckets[1]: Duplicate value: 64"
    ),
    _bad("bucket-zero", put(f"{FIRST}.build.sequenceBuckets", [0]), says="sequenceBuckets[0]: Invalid value"),
    _bad("no-bucket", put(f"{FIRST}.build.sequenceBuckets", []), says="sequenceBuckets: Invalid value"),
    _bad("9-buckets", put(f"{FIRST}.build.sequenceBuckets", list(range(1, 10))), says="sequenceBuckets: Too many"),
    _bad("pickle-as-word", put(f"{FIRST}.build.allowPickle", "maybe"), says="allowPickle: Invalid value"),
    *_each(
        "difference", f"{FIRST}.build.fidelity.maxAbsDifference", ["-1", "inf", "NaN", "1e999", ".1"], "Difference: "
    ),
    _bad("difference-unquoted", put(f"{FIRST}.build.fidelity.maxAbsDifference", 0.001), says="must be of type string"),
    *_each("cosine", f"{FIRST}.build.fidelity.minCosine", ["1.1", "-0.5", "2", "nan"], "fidelity.minCosine: "),
    *_each("agreement", f"{FIRST}.build.fidelity.minAgreement", ["1.1", "98%"], "fidelity.minAgreement: "),
    _bad("on-failure-unknown", put(f"{FIRST}.build.fidelity.onFailure", "Ignore"), says='values: "Fallback", "Fail"'),
    _bad("17-samples", put(f"{FIRST}.build.fidelity.samples", [{"text": "x"}] * 17), says="samples: Too many"),
    _bad("sample-of-a-pair", put(f"{FIRST}.build.fidelity.samples", [{"textPair": "x"}]), says="text: Required value"),
    *[
        _bad(
            f"{precision}-in-{made}",
            put(f"{FIRST}.build.precision", precision),
            put(f"{FIRST}.build.format", made),
            says="write `precision: fp32`, or a format that goes with it",
        )
        for precision, made in (
            *(("int8", "savedmodel"), ("int8", "mar"), ("int8", "torchscript"), ("fp16", "onnx"), ("bf16", "onnx")),
        )
    ],
    _bad("texts-from-nowhere", put(f"{FIRST}.build.fidelity.samplesFrom", {}), says="exactly one of configMapName or"),
    _bad(
        "texts-from-both",
        put(f"{FIRST}.build.fidelity.samplesFrom", {"configMapName": "a", "claimName": "b", "path": "c"}),
        says="exactly one of configMapName or claimName",
    ),
    _bad(
        "texts-of-a-claim-without-a-file",
        put(f"{FIRST}.build.fidelity.samplesFrom", {"claimName": "b"}),
        says="path says which file of the claim it is",
    ),
    _bad(
        "texts-of-a-claim-with-a-key",
        put(f"{FIRST}.build.fidelity.samplesFrom", {"claimName": "b", "path": "c", "key": "d"}),
        says="key says which entry of the ConfigMap it is",
    ),
    _bad(
        "texts-above-the-claim",
        put(f"{FIRST}.build.fidelity.samplesFrom", {"claimName": "b", "path": "../c"}),
        says="samplesFrom.path: ",
    ),
    _bad(
        "samples-written-and-from-a-file",
        put(f"{FIRST}.build.fidelity", {"samples": [{"text": "x"}], "samplesFrom": {"configMapName": "a"}}),
        says="are written in samples or come from samplesFrom",
    ),
    _bad(
        "calibration-of-fp16",
        put(f"{FIRST}.build.calibration", {"texts": {"configMapName": "a"}}),
        says="build.calibration is for precision int8",
    ),
    _bad(
        "calibration-of-an-artifact",
        put(f"{FIRST}.build.precision", "int8"),
        put(f"{FIRST}.build.calibration", {"texts": {"configMapName": "a"}}),
        put(SOURCE, {"artifact": {"name": "onnx-1"}}),
        says="a published artifact doesn't hold",
    ),
    *[
        _bad(
            f"{field}-of-an-artifact",
            put(f"{FIRST}.build.fidelity", {field: texts}),
            put(SOURCE, {"artifact": {"name": "onnx-1"}}),
            says="build.fidelity.samples and samplesFrom need the source's tokenizer",
        )
        for field, texts in (("samples", [{"text": "x"}]), ("samplesFrom", {"configMapName": "a"}))
    ],
    *_each(
        "key-of-texts",
        f"{FIRST}.build.fidelity.samplesFrom",
        [{"configMapName": "a", "key": key} for key in ("", ".", "..", "..data", "a/b")],
        "samplesFrom.key: ",
    ),
]

SERVING = [
    *_each("batch", f"{FIRST}.serving.maxBatchSize", [0, 1025], "serving.maxBatchSize: "),
    *_each("instances", f"{FIRST}.serving.instances", [0, 17], "serving.instances: "),
    _bad(
        "preferred-too-large",
        put(f"{FIRST}.serving.batching.preferredBatchSizes", [4, 16]),
        says="raise maxBatchSize or remove the larger entries",
    ),
    _bad(
        "queue-delay-negative",
        put(f"{FIRST}.serving.batching.maxQueueDelayMicroseconds", -1),
        says="maxQueueDelayMicroseconds: Invalid value",
    ),
]

SERVERS = [
    _bad("no-server", drop("spec.server"), says="spec.server: Required value"),
    _bad("server-unknown", put("spec.server.type", "vllm"), says='supported values: "triton"'),
    *_each("image", "spec.server.image", ["", "x y", "http;//x", "-x", "a" * 513, "x\n"], "spec.server.image: "),
    *_each("release", "spec.server.release", ["../x", "24.10/x", "", "X"], "spec.server.release: "),
    *[
        _bad(f"env-{name}", put("spec.server.env", [{"name": name, "value": "x"}]), says="to change thread counts set")
        for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "BERTOPS_SERVED", "OMP_NUM_THREADS")
    ],
    _bad(
        "env-twice", put("spec.server.env", [{"name": "A"}, {"name": "A"}]), says="spec.server.env[1]: Duplicate value"
    ),
    _bad("env-name", put("spec.server.env", [{"name": "A=B"}]), says="spec.server.env[0].name: "),
    _bad("env-secret", put("spec.server.env", [{"name": "A", "valueFrom": {}}]), says='"spec.server.env[0].valueFrom"'),
    _bad("65-env", put("spec.server.env", [{"name": f"A{n}"} for n in range(65)]), says="spec.server.env: Too many"),
    *_each(
        "flag",
        "spec.server.extraArgs",
        [
            ["--model-repository=/x"],
            ["--model-control-mode=explicit"],
            ["--http-port=1"],
            ["--metrics-port=1"],
            ["--allow-http=false"],
            ["--http-restricted-api=x"],
            ["--backend-directory=/tmp"],
            ["--log-verbose", "1"],
            ["--log-verbose=1\n--x=1"],
            ["x"],
        ],
        "extraArgs takes --flag=value entries of these flags only",
    ),
    _bad(
        "torchserve-flag",
        put("spec.server.type", "torchserve"),
        put("spec.server.extraArgs", ["--log-verbose=1"]),
        says="TorchServe takes a generated file instead: remove them",
    ),
    *[
        _bad(
            f"tfserving-flag-{number}",
            put("spec.server.type", "tfserving"),
            put("spec.server.extraArgs", [flag]),
            says="these flags only: --rest_api_num_threads",
        )
        for number, flag in enumerate(
            [
                "--model_config_file=/x",
                "--model_base_path=/x",
                "--port=1",
                "--rest_api_port=1",
                "--grpc_socket_path=/tmp/s",
                "--platform_config_file=/x",
                "--enable_batching=false",
                "--enable_profiler=true",
                "--rest_api_num_threads",
                "--grpc_max_threads=1\n--port=1",
                "--log-verbose=1",
                "x",
            ]
        )
    ],
    *_each(
        "cpu", "spec.server.resources.limits.cpu", ["-1", "two", "1 ", "", "1e3", 0.5, "1Kb"], "resources.limits.cpu"
    ),
    _bad(
        "cpu-request-above-limit",
        put("spec.server.resources", {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}),
        says="requests.cpu is more than limits.cpu: write at most the limit",
    ),
    _bad(
        "memory-request-above-limit",
        put("spec.builds.resources", {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}}),
        says="requests.memory is more than limits.memory: write at most the limit",
    ),
    _bad("exit-timeout", put("spec.server.triton.exitTimeoutSeconds", 0), says="triton.exitTimeoutSeconds: "),
    _bad("host-network", put("spec.server.podTemplate.hostNetwork", value=True), says='.podTemplate.hostNetwork"'),
]

PODS = [
    _bad("label-key", put("spec.server.podTemplate.labels", {"a b": "c"}), says="each key can have at most 317"),
    _bad(
        "label-key-long", put("spec.server.podTemplate.labels", {"a" * 318: "c"}), says="each key can have at most 317"
    ),
    _bad("label-value", put("spec.server.podTemplate.labels", {"a": "b c"}), says="podTemplate.labels.a: "),
    _bad("17-labels", put("spec.builds.podTemplate.labels", {f"a{n}": "" for n in range(17)}), says="labels: Too many"),
    _bad("annotation-key", put("spec.builds.podTemplate.annotations", {"": "c"}), says="each key can have at most 317"),
    _bad("priority-class", put("spec.server.podTemplate.priorityClassName", "A"), says="priorityClassName: "),
    _bad(
        "pull-secret-twice",
        put("spec.server.podTemplate.imagePullSecrets", [{"name": "a"}, {"name": "a"}]),
        says="imagePullSecrets[1]: Duplicate value",
    ),
    _bad("profile", put("spec.hardware.profile", "../x"), says="spec.hardware.profile: "),
    _bad("node-selector", put("spec.hardware.nodeSelector", {"a": "b!"}), says="spec.hardware.nodeSelector.a: "),
    _bad("toleration-all", put("spec.hardware.tolerations", [{"value": "x"}]), says="needs `operator: Exists`"),
    _bad(
        "toleration-exists-value",
        put("spec.hardware.tolerations", [{"key": "gpu", "operator": "Exists", "value": "x"}]),
        says="remove value, or write `operator: Equal`",
    ),
    _bad(
        "toleration-effect",
        put("spec.hardware.tolerations", [{"key": "a", "effect": "No"}]),
        says="tolerations[0].effect",
    ),
    *_each("deadline", "spec.builds.activeDeadlineSeconds", [59, 86401], "activeDeadlineSeconds: "),
    *_each("queue", "spec.builds.queueName", ["", "Nightly", "a/b", "q" * 64], "spec.builds.queueName"),
]

STORAGE = [
    _bad("no-storage", drop("spec.storage"), says="spec.storage: Required value"),
    _bad("storage-empty", put("spec.storage", {}), says="storage needs exactly one of claimName"),
    _bad("storage-two", put("spec.storage.claimName", "models"), says="e.g. `storage: {size: 5Gi}`"),
    _bad(
        "class-of-a-claim",
        put("spec.storage", {"claimName": "models", "storageClassName": "fast"}),
        says="storageClassName and accessModes belong to a new claim",
    ),
    _bad(
        "modes-of-a-claim",
        put("spec.storage", {"claimName": "models", "accessModes": ["ReadWriteOnce"]}),
        says="remove them or replace claimName by size",
    ),
    *_each("size", "spec.storage.size", ["5 Gi", "5GB", "", "-5Gi", "1Ei"], "spec.storage.size: "),
    _bad("size-without-unit", put("spec.storage.size", "5"), says="write a number with a unit, e.g. `5Gi`"),
    _bad("size-number", put("spec.storage.size", 5), says="must be of type string"),
    _bad("access-mode", put("spec.storage.accessModes", ["ReadOnlyMany"]), says='"ReadWriteOnce", "ReadWriteMany"'),
    _bad("access-mode-twice", put("spec.storage.accessModes", ["ReadWriteOnce"] * 2), says="accessModes[1]: Duplicate"),
    _bad("retention", put("spec.storage.retentionPolicy", "Recycle"), says='supported values: "Retain", "Delete"'),
]

AUTO = "spec.autoscaling"
_cpu = {"type": "cpu", "averageUtilization": 70}
_auto = put(AUTO, {"minReplicas": 2, "maxReplicas": 5, "metrics": [_cpu]})

AUTOSCALING = [
    _bad("autoscaling-empty", put(AUTO, {}), says="spec.autoscaling.maxReplicas: Required value"),
    _bad("no-metrics", put(AUTO, {"maxReplicas": 3}), says="spec.autoscaling.metrics: Required value"),
    _bad(
        "least-above-most",
        _auto,
        put(f"{AUTO}.minReplicas", 6),
        says="spec.autoscaling.minReplicas: Invalid value",
    ),
    _bad(
        "default-least-is-fine-but-most-is-not",
        put(AUTO, {"minReplicas": 9, "maxReplicas": 8, "metrics": [_cpu]}),
        says="lower minReplicas, or raise maxReplicas to at least it",
    ),
    *[_bad(f"least-{n}", _auto, put(f"{AUTO}.minReplicas", n), says=f"{AUTO}.minReplicas: ") for n in (0, -1, 1001)],
    *[_bad(f"most-{n}", _auto, put(f"{AUTO}.maxReplicas", n), says=f"{AUTO}.maxReplicas: ") for n in (0, 1001)],
    _bad("metrics-empty", _auto, put(f"{AUTO}.metrics", []), says="metrics: Invalid value"),
    _bad("metric-twice", _auto, put(f"{AUTO}.metrics", [_cpu, _cpu]), says="metrics[1]: Duplicate value"),
    _bad(
        "metric-unknown",
        _auto,
        put(f"{AUTO}.metrics", [{"type": "memory", "averageUtilization": 70}]),
        says='supported values: "cpu"',
    ),
    *[
        _bad(f"utilization-{n}", _auto, put(f"{AUTO}.metrics.0.averageUtilization", n), says="averageUtilization: ")
        for n in (0, 1001, 0.7)
    ],
    _bad(
        "window-too-long",
        _auto,
        put(f"{AUTO}.behavior", {"scaleDown": {"stabilizationWindowSeconds": 3601}}),
        says="stabilizationWindowSeconds: ",
    ),
    _bad(
        "policies-not-offered",
        _auto,
        put(f"{AUTO}.behavior", {"scaleUp": {"stabilizationWindowSeconds": 0, "policies": []}}),
        says='unknown field "spec.autoscaling.behavior.scaleUp.policies"',
    ),
]

PEERS = "spec.networkPolicy.allowFrom"

PROTECTION = [
    *_each("max-unavailable", "spec.podDisruptionBudget.maxUnavailable", [0, 1001, -1], "maxUnavailable: "),
    _bad("percent", put("spec.podDisruptionBudget", {"maxUnavailable": "25%"}), says="must be of type integer"),
    _bad("least-available", put("spec.podDisruptionBudget", {"minAvailable": 1}), says="minAvailable"),
    _bad("policy-as-text", put("spec.networkPolicy", {"enabled": "on"}), says="of type boolean", parsed=False),
    _bad("peer-nobody", put(PEERS, [{}]), says="name who may send requests: write `podSelector: {...}`"),
    _bad("peer-address", put(PEERS, [{"ipBlock": {"cidr": "0.0.0.0/0"}}]), says="ipBlock"),
    _bad("peer-label", put(PEERS, [{"podSelector": {"matchLabels": {"no good": ""}}}]), says="matchLabels"),
    _bad("peers-many", put(PEERS, [{"podSelector": {}}] * 17), says="must have at most 16 items"),
]

TUNING = [
    _bad("tuning-mode", put("spec.tuning.mode", "Auto"), says='supported values: "Off", "Recommend", "Apply"'),
    _bad("tuning-off-without-quotes", put("spec.tuning.mode", False), says="must be of type string"),
    _bad(
        "tuning-of-two-models",
        put("spec.tuning", {"mode": "Recommend"}),
        put("spec.models", [model("a"), model("b")]),
        says="give the model a BertDeployment of its own",
    ),
    _bad(
        "tuning-length-too-long",
        put("spec.tuning", {"lengths": [64, 129]}),
        says="every entry of tuning.lengths must be at most the model's maxSequenceLength",
    ),
    _bad("tuning-length-twice", put("spec.tuning.lengths", [64, 64]), says="lengths[1]: Duplicate value"),
    _bad("tuning-lengths-empty", put("spec.tuning.lengths", []), says="spec.tuning.lengths: Invalid value"),
    *_each("headroom", "spec.tuning.headroomPercent", [-1, 401], "headroomPercent: "),
    *_each("planned-replicas", "spec.tuning.maxReplicas", [0, 1001], "maxReplicas: "),
    *_each("search-concurrency", "spec.tuning.search.maxConcurrency", [0, 257], "maxConcurrency: "),
    *_each("search-instances", "spec.tuning.search.maxInstances", [0, 17], "maxInstances: "),
    *_each("search-batch", "spec.tuning.search.maxBatchSize", [0, 1025], "maxBatchSize: "),
    *_each("search-budget", "spec.tuning.search.budgetMinutes", [0, 241], "budgetMinutes: "),
    _bad("percentile", put(f"{FIRST}.objective.percentile", 50), says='supported values: "90", "95", "99"'),
    *_each("latency-limit", f"{FIRST}.objective.maxLatencyMilliseconds", [0, 600_001], "maxLatencyMilliseconds: "),
    *_each("target-load", f"{FIRST}.objective.targetRequestsPerSecond", [0, 1_000_001], "targetRequestsPerSecond: "),
]

OTHERS = [
    _bad("no-spec", drop("spec"), says="spec: Required value", parsed=False),
    _bad("replicas-negative", put("spec.replicas", -1), says="spec.replicas: "),
    _bad("replicas-many", put("spec.replicas", 1001), says="spec.replicas: "),
    _bad("replicas-as-text", put("spec.replicas", "3"), says="must be of type integer", parsed=False),
    _bad("verify-as-text", put("spec.rollout.verify", "true"), says="must be of type boolean", parsed=False),
    _bad("strategy", put("spec.rollout.strategy", "Canary"), says='supported values: "RollingUpdate", "Recreate"'),
    _bad("history", put("spec.rollout.revisionHistoryLimit", 0), says="revisionHistoryLimit: "),
    _bad("typo", put("spec.replica", 2), says='unknown field "spec.replica"'),
    _bad("typo-deep", put(f"{FIRST}.serving.batching.maxQueueDelay", 2), says='batching.maxQueueDelay"'),
    _bad("snake-case", put("spec.storage", {"claim_name": "a"}), says='"spec.storage.claim_name"', parsed=False),
]

BAD: tuple[Bad, ...] = (
    *NAMES,
    *VERSIONS,
    *SOURCES,
    *BUILDS,
    *SERVING,
    *SERVERS,
    *PODS,
    *STORAGE,
    *AUTOSCALING,
    *PROTECTION,
    *TUNING,
    *OTHERS,
)

GOOD: dict[str, tuple[Mutation, ...]] = {
    "smallest": (),
    "longest-name": (put("metadata.name", "a" * 40),),
    "scaled-to-zero": (put("spec.replicas", 0),),
    "autoscaled": (_auto,),
    "no-budget": (put("spec.podDisruptionBudget", {"enabled": False}),),
    "guarded": (
        put("spec.podDisruptionBudget", {"maxUnavailable": 3}),
        put(
            "spec.networkPolicy",
            {
                "enabled": True,
                "allowFrom": [
                    {"podSelector": {}},
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
                    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "gateway"}}},
                ],
            },
        ),
    ),
    "tuned": (
        put("spec.tuning", {"mode": "Apply", "lengths": [32, 128], "search": {"maxInstances": 4, "budgetMinutes": 3}}),
        put(f"{FIRST}.objective", {"maxLatencyMilliseconds": 50, "percentile": 99, "targetRequestsPerSecond": 200}),
    ),
    "autoscaled-with-windows": (
        _auto,
        put(
            f"{AUTO}.behavior",
            {"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": {"stabilizationWindowSeconds": 900}},
        ),
    ),
    "autoscaled-with-the-default-least": (put(AUTO, {"maxReplicas": 1, "metrics": [_cpu]}),),
    "existing-claim": (put("spec.storage", {"claimName": "models"}),),
    "claim-with-class": (
        put("spec.storage", {"size": "500Mi", "storageClassName": "fast.ssd", "accessModes": ["ReadWriteMany"]}),
    ),
    "hub-with-token": (
        put(
            SOURCE,
            {
                "huggingFace": {
                    "repo": "sentence-transformers/all-MiniLM-L6-v2",
                    "revision": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
                    "tokenSecretRef": {"name": "hub"},
                }
            },
        ),
    ),
    "hub-branch-with-slash": (put(SOURCE, {"huggingFace": {"repo": "bert", "revision": "refs/pr/12"}}),),
    "savedmodel-from-a-claim": (put(f"{FIRST}.build.framework", "tensorflow"),),
    "savedmodel-from-the-hub": (put(f"{FIRST}.build.framework", "tensorflow"), _hub),
    "bucket": (
        put(
            SOURCE,
            {
                "s3": {
                    "uri": "s3://team.models/dt=2026-11-22/my_bert/",
                    "endpoint": "https://minio.storage.svc:9000",
                    "region": "eu-central-1",
                    "credentialsSecretRef": {"name": "bucket"},
                }
            },
        ),
    ),
    "whole-bucket-of-amazon": (put(SOURCE, {"s3": {"uri": "s3://models"}}),),
    "bucket-by-ipv6": (put(SOURCE, {"s3": {**_bucket, "endpoint": "http://[2001:db8::1]:9000"}}),),
    "bucket-by-ipv4": (put(SOURCE, {"s3": {**_bucket, "endpoint": "http://10.0.0.5:9000/"}}),),
    "bucket-by-a-name-of-digits": (put(SOURCE, {"s3": {**_bucket, "endpoint": "http://4.minio.168.x1:9000"}}),),
    "published-artifact": (
        put(SOURCE, {"artifact": {"name": "onnx-5555-abcdef"}}),
        put(f"{FIRST}.build.fidelity", {"minCosine": "0.99", "samples": []}),
    ),
    "texts-of-a-hidden-key": (
        put(f"{FIRST}.build.fidelity.samplesFrom", {"configMapName": "a", "key": ".my..texts.txt"}),
    ),
    "root-of-a-claim": (put(SOURCE, {"pvc": {"claimName": "models"}}),),
    "two-versions": (put("spec.models", [model("bert", 1, 2, defaultVersion=2)]),),
    "labels": (
        put("spec.server", {"type": "tfserving", "extraArgs": ["--grpc_max_threads=64"]}),
        put("spec.models", [model("bert", 1, 2, defaultVersion=2), model("other")]),
        put(f"{FIRST}.versions.0.labels", ["stable", "production", "Prod_1"]),
        put(f"{FIRST}.versions.1.labels", ["test"]),
        put("spec.models.1.versions.0.labels", ["production"]),
    ),
    "torchserve": (put("spec.server", {"type": "torchserve", "extraArgs": []}),),
    "no-label-is-no-label": (put(f"{FIRST}.versions.0.labels", []),),
    "names-that-only-look-alike": (
        put("spec.models", [model("bert", 1, 2, defaultVersion=2), model("bert-vision"), model("bert-large-v2")]),
    ),
    "16-models": (put("spec.models", [model(f"m{n}", *range(1, 9), defaultVersion=1) for n in range(16)]),),
    "everything-about-pods": (
        put("spec.server.env", [{"name": "HTTP_PROXY", "value": "http://proxy:3128"}, {"name": "EMPTY"}]),
        put("spec.server.extraArgs", ["--log-verbose=1", "--metrics-config=summary_latencies=true"]),
        put(
            "spec.server.resources", {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
        ),
        put("spec.server.podTemplate.labels", {"example.com/team": "search", "plain": ""}),
        put("spec.server.podTemplate.annotations", {"example.com/note": "any text, even {{this}}"}),
        put("spec.server.podTemplate.imagePullSecrets", [{"name": "registry"}]),
        put("spec.hardware", {"profile": "cpu", "nodeSelector": {"kubernetes.io/arch": "amd64"}}),
        put(
            "spec.hardware.tolerations", [{"operator": "Exists"}, {"key": "gpu", "value": "a", "effect": "NoSchedule"}]
        ),
    ),
    "everything-about-builds": (
        put(
            f"{FIRST}.build",
            {
                "task": "sequence-classification",
                "format": "onnx",
                "precision": "int8",
                "maxSequenceLength": 512,
                "sequenceBuckets": [32, 128, 512],
                "fidelity": {
                    "maxAbsDifference": "1e-3",
                    "minCosine": "0.9999",
                    "minAgreement": "0.98",
                    "onFailure": "Fail",
                    "samples": [{"text": "a question?", "textPair": "a passage"}, {"text": "x"}],
                },
                "allowPickle": True,
            },
        ),
        put(f"{FIRST}.serving", {"maxBatchSize": 32, "batching": {"preferredBatchSizes": [8, 32]}}),
        put("spec.builds.resources.limits", {"cpu": "1500m", "memory": "3.5Gi"}),
    ),
    "nulls-mean-unset": (
        put("spec.replicas", None),
        put("spec.hardware", None),
        put("spec.server.image", None),
        put(f"{FIRST}.build.sequenceBuckets", None),
    ),
}


def good_resource(name: str) -> Resource:
    """One of GOOD, made."""
    resource = copy.deepcopy(good())
    for mutate in GOOD[name]:
        mutate(resource)
    return resource
