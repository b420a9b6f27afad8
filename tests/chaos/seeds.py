"""What R4's operations begin with: specs that write every property of the CRD once. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from chaos import workloads
from chaos.kubelet import CLASSIFIES
from chaos.operations import Node, Operation, nodes, operations
from support import builders
from support.operator_process import ROOT

Document = dict[str, Any]
_CRD: Final = ROOT / "crds" / "bertdeployments.yaml"
SETTINGS: Final[Document] = {
    **workloads.SETTINGS,
    "images": workloads.SETTINGS["images"] | {"analyzer": "registry.test/analyzer:1"},
    "triton": {
        "defaultRelease": "24.10",
        "releases": {
            name: {"image": f"registry.test/triton:{name}", "tensorrtImage": f"registry.test/tensorrt:{name}"}
            for name in ("24.10", "25.01")
        },
    },
    "torchserve": {"defaultRelease": "0.12.0", "releases": {"0.12.0": {"image": "registry.test/torchserve:1"}}},
    "hardwareProfiles": {"cpu": {}, "other": {"nodeSelector": {"kind": "other"}}, "gpu": builders.GPU},
}
"""Of an installation that can do everything."""
TEMPLATE: Final[Document] = {
    "labels": {"team": "search", "tier": "front"},
    "annotations": {"example.com/owner": "search", "example.com/note": "first"},
    "priorityClassName": "chaos-first",
    "imagePullSecrets": [{"name": "first"}, {"name": "second"}],
}
RESOURCES: Final[Document] = {
    "requests": {"cpu": "500m", "memory": "1Gi"},
    "limits": {"cpu": "4", "memory": "8Gi"},
}
UNPLAYED: Final = frozenset({"storage.size"})
"""What is misused only: a claim grows once it is bound, and nothing binds one here."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One spec, and the properties that are walked on it: those below these paths, as labels."""

    spec: Mapping[str, Any]
    walks: tuple[str, ...]
    theirs: str = "(?!)"
    """Pattern of what somebody else decides here, by what was before."""

    def nodes(self) -> list[Node]:
        """The properties, without those of lists' entries as a whole."""
        return [node for node in schema() if self._walks(node) and operations(node, self.spec)]

    def _walks(self, node: Node) -> bool:
        return any(node.label == one or node.label.startswith((f"{one}.", f"{one}[")) for one in self.walks)

    def operations(self, group: str) -> list[list[Operation]]:
        """Those on the properties of one object, property by property."""
        walked = (operations(node, self.spec) for node in self.nodes() if node.group == group)
        return [[one for one in walk if one.wrong or one.node.label not in UNPLAYED] for walk in walked]


def _spec(source: Document | None = None, build: Document | None = None, **parts: Any) -> Document:
    """A small spec with one model."""
    model, extra = parts.pop("model", {}), parts
    versions = [{"version": 1, "source": source or {"pvc": {"claimName": "models", "path": "one"}}}]
    made = {"name": "one", "build": {"task": "feature-extraction"} | (build or {}), "versions": versions} | model
    return {"replicas": 1, "server": {"type": "triton"}, "storage": {"size": "2Gi"}, "models": [made]} | extra


_SERVING: Final[Document] = {
    "maxBatchSize": 8,
    "instances": 2,
    "warmup": True,
    "batching": {"enabled": True, "maxQueueDelayMicroseconds": 500, "preferredBatchSizes": [2, 4]},
}
_PLAIN_BATCHES: Final[Document] = _SERVING | {"batching": {"enabled": True, "maxQueueDelayMicroseconds": 5000}}
"""What servers other than Triton know, of a model that they batch: see `_BATCHED`. TorchServe counts whole ms."""
_BATCHED: Final[Document] = {"task": CLASSIFIES}
_BUILD: Final[Document] = {
    "framework": "pytorch",
    "format": "onnx",
    "precision": "fp32",
    "maxSequenceLength": 128,
    "sequenceBuckets": [16, 64],
    "allowPickle": False,
    "fidelity": {
        "samples": [{"text": "Good.", "textPair": "Better."}, {"text": "Bad."}],
        "maxAbsDifference": "0.01",
        "minCosine": "0.99",
        "minAgreement": "0.9",
        "onFailure": "Fallback",
    },
}
_FROM_CLAIM: Final = {"claimName": "models", "path": "texts/mine.txt"}
_FROM_CONFIG: Final = {"configMapName": "texts", "key": "mine.txt"}
_HUB: Final[Document] = {"repo": "team/bert", "revision": "v1", "tokenSecretRef": {"name": "hub", "key": "token"}}
_S3: Final[Document] = {
    "uri": "s3://models/bert",
    "endpoint": "http://minio.test:9000",
    "region": "eu-central-1",
    "credentialsSecretRef": {"name": "s3"},
}
_TWO_VERSIONS: Final[Document] = {
    "defaultVersion": 3,
    "versions": [
        {"version": 1, "source": {"pvc": {"claimName": "models", "path": "one"}}},
        {"version": 3, "source": {"pvc": {"claimName": "models", "path": "three"}}},
    ],
}
_LABELLED: Final[Document] = {
    "defaultVersion": 2,
    "versions": [
        {"version": 1, "source": {"pvc": {"claimName": "models"}}, "labels": ["stable", "old"]},
        {"version": 2, "source": {"pvc": {"claimName": "models", "path": "two"}}, "labels": ["canary"]},
    ],
}
_PEERS: Final[Document] = {
    "namespaceSelector": {"matchLabels": {"team": "search", "tier": "front"}},
    "podSelector": {"matchLabels": {"app": "client", "tier": "front"}},
}
_AUTOSCALING: Final[Document] = {
    "minReplicas": 2,
    "maxReplicas": 5,
    "metrics": [{"type": "cpu", "averageUtilization": 70}],
    "behavior": {"scaleUp": {"stabilizationWindowSeconds": 30}, "scaleDown": {"stabilizationWindowSeconds": 120}},
}
_TOLERATIONS: Final = [
    {"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "example.com/team", "operator": "Equal", "value": "yes", "effect": "NoExecute"},
]
"""The first one's operator is not what a missing one means."""
_TUNING: Final[Document] = {
    "mode": "Recommend",
    "headroomPercent": 20,
    "maxReplicas": 5,
    "lengths": [16, 64],
    "search": {"maxConcurrency": 8, "maxBatchSize": 4, "maxInstances": 2, "budgetMinutes": 5},
}
_OBJECTIVE: Final[Document] = {"maxLatencyMilliseconds": 200, "percentile": 95, "targetRequestsPerSecond": 50}
_SERVER: Final[Document] = {
    "type": "triton",
    "image": "registry.test/mirror:1",
    "release": "24.10",
    "resources": RESOURCES,
    "env": [{"name": "FIRST", "value": "1"}, {"name": "SECOND", "value": "2"}],
    "extraArgs": ["--log-verbose=1", "--log-warning=0"],
    "podTemplate": TEMPLATE,
    "triton": {"exitTimeoutSeconds": 20},
}
SEEDS: Final[Mapping[str, Seed]] = {
    "server": Seed(spec=_spec(server=_SERVER), walks=("server",)),
    "pods": Seed(
        spec=_spec(
            replicas=2,
            hardware={"profile": "cpu", "nodeSelector": {"disk": "fast", "zone": "a"}, "tolerations": _TOLERATIONS},
            rollout={"strategy": "RollingUpdate", "verify": True, "revisionHistoryLimit": 2},
            podDisruptionBudget={"enabled": True, "maxUnavailable": 1},
            networkPolicy={"enabled": True, "allowFrom": [_PEERS, {"podSelector": {}}]},
        ),
        walks=("replicas", "hardware", "rollout", "podDisruptionBudget", "networkPolicy"),
    ),
    "autoscaled": Seed(
        spec=_spec(autoscaling=_AUTOSCALING),
        walks=("autoscaling", "rollout.strategy"),
        # Without metrics an autoscaler keeps to its bounds, and the count within them is what it was.
        theirs=r"\.spec\.replicas$|\.status\.|^(Pod|ReplicaSet)/",
    ),
    "builds": Seed(
        spec=_spec(
            builds={
                "resources": RESOURCES,
                "activeDeadlineSeconds": 600,
                "queueName": "first",
                "podTemplate": TEMPLATE,
            }
        ),
        walks=("builds",),
    ),
    "store": Seed(
        spec=_spec(
            storage={
                "size": "2Gi",
                "storageClassName": "fast",
                "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                "retentionPolicy": "Retain",
            }
        ),
        walks=("storage",),
    ),
    "claim": Seed(spec=_spec(storage={"claimName": "models"}), walks=("storage.claimName", "storage")),
    "build": Seed(spec=_spec(build=_BUILD), walks=("models[].build", "models[].name", "models")),
    "texts": Seed(spec=_spec(build={"fidelity": {"samplesFrom": _FROM_CONFIG}}), walks=("models[].build.fidelity",)),
    "texts-of-claim": Seed(
        spec=_spec(build={"fidelity": {"samplesFrom": _FROM_CLAIM}}),
        walks=("models[].build.fidelity.samplesFrom.claimName", "models[].build.fidelity.samplesFrom.path"),
    ),
    "int8": Seed(
        spec=_spec(build={"format": "onnx", "precision": "int8", "calibration": {"texts": _FROM_CONFIG}}),
        walks=("models[].build.calibration", "models[].build.precision"),
    ),
    "int8-of-claim": Seed(
        spec=_spec(build={"format": "onnx", "precision": "int8", "calibration": {"texts": _FROM_CLAIM}}),
        walks=("models[].build.calibration.texts.claimName", "models[].build.calibration.texts.path"),
    ),
    "serving": Seed(spec=_spec(model={"serving": _SERVING}), walks=("models[].serving",)),
    "tfserving": Seed(
        spec=_spec(
            build=_BATCHED,
            model=_LABELLED | {"serving": _PLAIN_BATCHES | {"instances": 1}},
            server={"type": "tfserving"},
        ),
        walks=("models[].serving", "models[].versions[].labels", "models[].defaultVersion", "server.type"),
    ),
    "torchserve": Seed(
        spec=_spec(build=_BATCHED, model={"serving": _PLAIN_BATCHES}, server={"type": "torchserve"}),
        walks=("models[].serving", "server.type"),
    ),
    "versions": Seed(
        spec=_spec(model=_TWO_VERSIONS),
        walks=("models[].versions[].version", "models[].versions", "models[].defaultVersion", "models[].name"),
    ),
    "hub": Seed(spec=_spec({"huggingFace": _HUB}), walks=("models[].versions[].source.huggingFace",)),
    "s3": Seed(spec=_spec({"s3": _S3}), walks=("models[].versions[].source.s3",)),
    "artifact": Seed(
        spec=_spec({"artifact": {"name": "published-one"}}, storage={"claimName": "models"}),
        walks=("models[].versions[].source.artifact",),
    ),
    "gpu": Seed(
        spec=_spec(
            build={"format": "tensorrt", "precision": "fp16", "maxBatchSize": 16},
            hardware={"profile": "gpu"},
            model={"serving": {"maxBatchSize": 8}},
        ),
        walks=("models[].build.maxBatchSize", "models[].build.precision", "hardware.profile"),
    ),
    "tuned": Seed(
        spec=_spec(tuning=_TUNING, model={"objective": _OBJECTIVE}),
        walks=("tuning", "models[].objective"),
    ),
}
"""Small ones: each operation is played on a resource that is served first."""
PROVIDED: Final = ("published-one", "published-two")
"""BertArtifacts that lie on the claim `models`."""


@cache
def schema(file: Path = _CRD) -> tuple[Node, ...]:
    """Every property of a BertDeployment's spec."""
    crd = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    whole = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return tuple(nodes(whole))


def leaves() -> set[str]:
    """Labels of all properties that hold a value."""
    return {node.label for node in schema() if node.leaf}


def groups() -> list[str]:
    """`seed/object` of each object whose properties are walked."""
    return [
        f"{name}/{group or 'spec'}"
        for name, seed in SEEDS.items()
        for group in dict.fromkeys(node.group for node in seed.nodes())
    ]
