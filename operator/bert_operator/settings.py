"""Settings of the operator: images, server releases, hardware profiles. Read once, from the chart's ConfigMap.

`handlers` loads them at start; everything below gets them as an argument.
"""

import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import Field, model_validator

from bert_operator.api.base import Model
from bert_operator.api.spec import LabelKey, LabelValue, Resources, Toleration

SETTINGS_ENV: Final = "BERTOPS_SETTINGS"
DEFAULT_PATH: Final = "/etc/bert-operator/settings.yaml"


class Images(Model):
    """Images of our own pods."""

    operator: str
    """Runs preflight and verify beside the servers; the operator's own image."""
    build: str
    """Runs the export steps: PyTorch, transformers, ONNX."""
    tensorflow: str = ""
    """Runs the steps that need TensorFlow: SavedModels, made or read. Empty: this installation makes none."""
    build_gpu: str = ""
    """Like `build`, with PyTorch for GPUs: traces TorchScript for profiles with GPUs. Empty: it isn't made for them."""
    analyzer: str = ""
    """Measures served models: Model Analyzer and perf_analyzer. Empty: this installation doesn't tune."""


class TritonRelease(Model):
    """One Triton image and what it can do."""

    image: str
    onnx_backend: Literal["", "onnxruntime", "onnxruntime_python"] = "onnxruntime"
    """Which of the image's backends runs ONNX: the public images' own, or ours over the Python backend; empty: none."""
    torch_backend: Literal["", "pytorch", "pytorch_python"] = ""
    """Which runs TorchScript: the public images' own, or ours over the Python backend, on CPUs; empty: none."""
    tensorrt_image: str = ""
    """NVIDIA's image with the TensorRT of this release, which compiles its engines; empty: it serves none."""
    tensorrt_version: str = ""
    """Version of TensorRT inside both images, e.g. 11.2.1.2. If it is set, builds and pods refuse any other."""


class Triton(Model):
    """Releases of Triton that users may name."""

    default_release: str
    releases: dict[str, TritonRelease]


class Release(Model):
    """One image of a server."""

    image: str


class Releases(Model):
    """Releases of a server that users may name."""

    default_release: str
    releases: dict[str, Release]


class HardwareProfile(Model):
    """A kind of node that users may name in `hardware.profile`."""

    resource_name: str = ""
    """Extended resource of its accelerators, e.g. nvidia.com/gpu; empty: there are none."""
    compute_capability: Annotated[str, Field(pattern=r"^([0-9]{1,2}\.[0-9])?$")] = ""
    """Of its GPUs, e.g. 8.6. If it is set, an engine for any other is refused."""
    export_profile: str = ""
    """Profile in which models are exported to ONNX before they are compiled here; empty: these nodes, without a GPU."""
    runtime_class_name: str = ""
    """RuntimeClass of the pods on these nodes, e.g. nvidia; empty: the cluster's default."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class BuildDefaults(Model):
    """What a build gets when the BertDeployment doesn't say."""

    resources: Resources
    hub_endpoint: str = ""
    """HF_ENDPOINT of the fetch container; empty is the public hub."""


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class StoreSettings(Model):
    """How the artifact stores are looked after."""

    unused_artifacts_retention: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,6}[smhd])$")] = "0"
    """How long an artifact that nothing uses stays: a number with s, m, h or d; 0: for ever."""

    @property
    def retention_seconds(self) -> float:
        """The same in seconds; 0: for ever."""
        text = self.unused_artifacts_retention
        return float(int(text[:-1]) * _SECONDS[text[-1]]) if text != "0" else 0.0


class LeaderElection(Model):
    """The Lease that one of several operators holds. Times are client-go's by default."""

    namespace: str
    name: str
    lease_duration_seconds: int = Field(15, ge=1, le=3600)
    """Others leave the Lease alone for this long after it was renewed last."""
    renew_deadline_seconds: int = Field(10, ge=1)
    """A leader that couldn't renew it for this long ends."""
    retry_period_seconds: int = Field(2, ge=1)
    """Between two renewals."""

    @model_validator(mode="after")
    def _in_this_order(self) -> Self:
        if not 2 * self.retry_period_seconds <= self.renew_deadline_seconds < self.lease_duration_seconds:
            raise ValueError(
                f"renewDeadlineSeconds is {self.renew_deadline_seconds}: write less than leaseDurationSeconds "
                f"({self.lease_duration_seconds}) and at least twice retryPeriodSeconds ({self.retry_period_seconds})"
            )
        return self


class Settings(Model):
    """Everything an installation can change."""

    images: Images
    triton: Triton
    tfserving: Releases | None = None
    """None: this installation has no TF Serving."""
    torchserve: Releases | None = None
    """None: this installation has no TorchServe."""
    hardware_profiles: Annotated[dict[str, HardwareProfile], Field(min_length=1)]
    build: BuildDefaults
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    workers: int = Field(8, ge=1, le=64)
    """Reconciles that run at once."""
    resync_seconds: int = Field(600, ge=10)
    """Every BertDeployment is looked at this often even if nothing stirs, ± 20 %."""
    store: StoreSettings = Field(default_factory=StoreSettings)
    leader_election: LeaderElection | None = None
    """None: there is no other operator for the same namespaces."""

    @model_validator(mode="after")
    def _exports_somewhere(self) -> Self:
        known = self.hardware_profiles
        for name, profile in known.items():
            if profile.export_profile and profile.export_profile not in known:
                raise ValueError(
                    f"hardwareProfiles.{name}.exportProfile is {profile.export_profile!r}: write one of "
                    f"{', '.join(sorted(known))}"
                )
        return self


def load(path: str | None = None) -> Settings:
    """Read the settings file named by BERTOPS_SETTINGS, or the chart's mount.

    Raises:
        OSError: the file can't be read.
        pydantic.ValidationError: a field is missing, unknown or of the wrong type; the text names it.
    """
    file = Path(path or os.environ.get(SETTINGS_ENV, DEFAULT_PATH))
    return Settings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
