"""Short words for the world's objects, so that a test says only what matters to it."""

from collections.abc import Mapping
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api.report import BuildFailure, BuildReport, EngineProfile, FidelityFigures, TensorSpec
from bert_operator.settings import Settings

NAMESPACE: Final = "team"
BERT_UID: Final = "0b5f3c1a-7d9e-4c55-9a1b-3f2e1d0c9b8a"
CLAIM_UID: Final = "c1a1b2c3-0000-4000-8000-000000000001"
DIGEST: Final = "ab" * 32
GPU: Final = {
    "resourceName": "nvidia.com/gpu",
    "computeCapability": "8.6",
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A10"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "runtimeClassName": "nvidia",
    "exportProfile": "cpu",
}
"""A hardware profile with GPUs."""


def settings(**changes: Any) -> Settings:
    """Settings of a small installation."""
    plain: dict[str, Any] = {
        "images": {"operator": "registry.example/operator:1", "build": "registry.example/build:1"},
        "triton": {
            "defaultRelease": "24.10-cpu",
            "releases": {
                "24.10-cpu": {"image": "registry.example/triton-cpu:24.10", "onnxBackend": "onnxruntime_python"},
                "26.08": {
                    "image": "registry.example/tritonserver:26.08-py3",
                    "torchBackend": "pytorch",
                    "tensorrtImage": "registry.example/tensorrt:26.08-py3",
                },
            },
        },
        "hardwareProfiles": {"cpu": {}, "gpu": GPU},
        "build": {"resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}},
    }
    return Settings.model_validate(plain | changes)


def model(name: str = "minilm", **changes: Any) -> dict[str, Any]:
    """One model of a spec."""
    plain: dict[str, Any] = {
        "name": name,
        "build": {"task": "feature-extraction"},
        "versions": [{"version": 1, "source": {"pvc": {"claimName": "models", "path": name}}}],
    }
    return plain | changes


def bert(name: str = "minilm", *, spec: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A live BertDeployment."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": BERT_UID,
            "generation": 1,
            "resourceVersion": "10",
            "creationTimestamp": "2026-11-22T10:00:00Z",
        }
        | metadata,
        "spec": {"server": {"type": "triton"}, "storage": {"size": "2Gi"}, "models": [model()]} | dict(spec or {}),
    }


def claim(name: str = "minilm-store", *, uid: str = CLAIM_UID, ours: bool = True, **spec: Any) -> dict[str, Any]:
    """A live PersistentVolumeClaim."""
    labels = {names.MANAGED_BY: names.MANAGER, names.INSTANCE_LABEL: name.removesuffix("-store")} if ours else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "labels": labels},
        "spec": {"accessModes": ["ReadWriteOnce"]} | spec,
        "status": {"phase": "Bound"},
    }


def report(**changes: Any) -> BuildReport:
    """What a good build of MiniLM reports."""
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    good = BuildReport(
        format="onnx",
        artifact_key="5" * 32,
        manifest_sha256=DIGEST,
        weights_digest=DIGEST,
        revision=f"sha256:{DIGEST}",
        task="feature-extraction",
        precision="fp32",
        architecture="BertModel",
        inputs=[TensorSpec(name=name, dtype="INT64", dims=[-1]) for name in inputs],
        outputs=[TensorSpec(name="last_hidden_state", dtype="FP32", dims=[-1, 384])],
        max_sequence_length=128,
        size_bytes=90_000_000,
        parameters=22_713_216,
        fidelity=FidelityFigures(
            samples=12,
            max_abs_difference=2e-6,
            min_cosine=0.9999999,
            limit_max_abs_difference=1e-3,
            limit_min_cosine=0.9999,
        ),
        toolchain={"torch": "2.6.0", "onnx": "1.23.2"},
        durations_seconds={"convert": 12.5},
        peak_memory_bytes=900_000_000,
    )
    return good.model_copy(update=changes)


def engine_report(**changes: Any) -> BuildReport:
    """What a good compilation of MiniLM reports."""
    profiles = [{"min": [1, 1], "opt": [16, 64], "max": [32, 64]}, {"min": [1, 65], "opt": [16, 128], "max": [32, 128]}]
    engine: dict[str, Any] = {
        "format": "tensorrt",
        "artifact_key": "6" * 32,
        "compute_capability": "8.6",
        "tensorrt_version": "11.2.1.2",
        "profiles": [EngineProfile.model_validate(one) for one in profiles],
    }
    return report(**(engine | changes))


def failure(reason: str = "SourceNotFound", message: str = "no folder 'x'", next_step: str = "write y") -> str:
    """Termination message of a failed container."""
    return BuildFailure(reason=reason, message=message, next_step=next_step).model_dump_json(by_alias=True)


def terminated(name: str, code: int = 0, message: str = "", reason: str = "") -> dict[str, Any]:
    """Status of a container that ended."""
    ended = {"exitCode": code, "message": message, "reason": reason or ("Error" if code else "Completed")}
    return {"name": name, "state": {"terminated": ended}, "ready": code == 0, "restartCount": 0}


def running(name: str, *, ready: bool = False) -> dict[str, Any]:
    """Status of a container that runs."""
    return {"name": name, "state": {"running": {}}, "ready": ready, "restartCount": 0}


def waiting(name: str, reason: str = "PodInitializing", message: str = "") -> dict[str, Any]:
    """Status of a container that waits."""
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}, "ready": False}
