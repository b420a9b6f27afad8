"""Triton Inference Server: configuration, container, endpoints. Called through `servers.SERVERS`; no I/O.

Flags are keyed by the release: an unknown one stops the server. Admin APIs are closed with a key that nobody knows:
the container draws a random one at each start, so no pod spec, ConfigMap or Secret holds it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Final

from bert_operator.api import names, spec
from bert_operator.servers import probes, triton_config, triton_sizing
from bert_operator.servers.base import ConfigFile, Mount, Ports, ServedVersion, ServerContainer, Volume
from bert_operator.settings import HardwareProfile, Settings, TritonRelease

HTTP_PORT: Final = 8000
GRPC_PORT: Final = 8001
METRICS_PORT: Final = 8002
USER: Final = 1000
PRE_STOP_SECONDS: Final = 8
"""Endpoints are told everywhere that the pod goes before Triton closes its ports."""
_GRACE_SECONDS: Final = 15
_STARTUP_PERIOD_SECONDS: Final = 3

_CONFIG_FILE: Final = "config.pbtxt"
_ADMIN_APIS: Final = "model-repository,shared-memory,trace,logging"
_START: Final = (
    # What a killed server has left there counts towards the memory limit, and fills it in the end.
    "rm -f /dev/shm/triton_python_backend_shm_region_*; "
    "key=$(cat /proc/sys/kernel/random/uuid) && exec /opt/tritonserver/bin/tritonserver "
    f'"--http-restricted-api={_ADMIN_APIS}:bertops-key=$key" '
    f'"--grpc-restricted-protocol={_ADMIN_APIS}:bertops-key=$key" "$@"'
)

_STUB: Final = "triton_python_b"
"""The kernel's name of triton_python_backend_stub."""

_OLDEST: Final = (24, 10)
_SINCE: Final[Mapping[str, tuple[int, int]]] = {"--http-max-input-size": (25, 6)}
"""Flags that users may give in extraArgs and that the oldest release doesn't know."""


class Triton:
    """Triton, on CPUs and GPUs."""

    ports: Final = Ports(http=HTTP_PORT, grpc=GRPC_PORT, metrics=METRICS_PORT)

    def formats(self, profile: HardwareProfile) -> tuple[spec.Format, ...]:
        """ONNX and TorchScript everywhere; a TensorRT engine where the profile has GPUs."""
        plain = (spec.Format.ONNX, spec.Format.TORCHSCRIPT)
        return (spec.Format.TENSORRT, *plain) if profile.resource_name else plain

    def unsupported(self, wish: spec.BertDeploymentSpec, settings: Settings) -> list[str]:
        """What can't be served as written: field, what was found, what to write instead."""
        return [
            *_release_faults(wish, settings),
            *_image_faults(wish, settings),
            *_backend_faults(wish, settings, self.formats),
        ]

    def container(
        self, served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, settings: Settings
    ) -> ServerContainer:
        """Triton's container; every writable folder is a volume."""
        release = _release(wish, settings)
        exit_timeout = wish.server.triton.exit_timeout_seconds
        startup = ceil(triton_sizing.startup_seconds(wish, served) / _STARTUP_PERIOD_SECONDS)
        stubs = _stubs(served, release)
        mounts = tuple(mount(one) for one in served)
        profile = settings.hardware_profiles[wish.hardware.profile]
        return ServerContainer(
            mounts=mounts,
            files=_config_files(mounts, wish, release, gpu=bool(profile.resource_name)),
            image=wish.server.image or release.image,
            command=("/bin/sh", "-c", _START, "tritonserver"),
            args=(*_flags(exit_timeout, gpu=bool(profile.resource_name)), *wish.server.extra_args),
            env=_env(wish, served, gpu=bool(profile.resource_name)),
            startup_probe=_probe("ready", period=_STARTUP_PERIOD_SECONDS, failures=startup),
            readiness_probe=_probe("ready", period=5, failures=3, stubs=stubs),
            liveness_probe=_probe("live", period=10, failures=6, stubs=stubs),
            lifecycle={"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
            resources=triton_sizing.resources(wish, served, profile.resource_name),
            termination_grace_seconds=PRE_STOP_SECONDS + exit_timeout + _GRACE_SECONDS,
            run_as_user=USER,
            volumes=_volumes(served),
            tensorrt_version=release.tensorrt_version,
        )


def mount(one: ServedVersion) -> Mount:
    """Triton sends unversioned requests to the highest version, so only the default one bears the model's own name."""
    default = one.version == one.model.default
    name = one.model.name if default else f"{one.model.name}-v{one.version}"
    return Mount(served=one, name=name, path=f"{names.MODELS_MOUNT}/{name}/{one.version}")


def _config_files(
    mounts: Sequence[Mount], wish: spec.BertDeploymentSpec, release: TritonRelease, *, gpu: bool
) -> Mapping[str, ConfigFile]:
    """One config.pbtxt per served version, beside its version folder."""
    return {
        f"{names.MODELS_MOUNT}/{one.name}/{_CONFIG_FILE}": ConfigFile(
            key=f"{one.name}.{_CONFIG_FILE}", text=triton_config.render(one, wish, release, gpu=gpu)
        )
        for one in mounts
    }


def _release(wish: spec.BertDeploymentSpec, settings: Settings) -> TritonRelease:
    return settings.triton.releases[wish.server.release or settings.triton.default_release]


def _version(release: str) -> tuple[int, int] | None:
    """(year, month) of a release: its name starts with NVIDIA's, e.g. 24.10 or 24.10-cpu."""
    found = re.match(r"(\d\d)\.(\d\d)(?!\d)", release)
    return (int(found[1]), int(found[2])) if found else None


def _release_faults(wish: spec.BertDeploymentSpec, settings: Settings) -> Iterator[str]:
    name = wish.server.release or settings.triton.default_release
    known = ", ".join(sorted(settings.triton.releases))
    if name not in settings.triton.releases:
        yield f"spec.server.release is {name!r}, which the operator's settings don't have: write one of {known}"
        return
    version = _version(name)
    if version is None:
        yield (
            f"spec.server.release is {name!r}, which doesn't start with a Triton release: name it e.g. '24.10' or "
            "'24.10-cpu' in the operator's settings (triton.releases), flags depend on it"
        )
        return
    if version < _OLDEST:
        oldest = f"{_OLDEST[0]}.{_OLDEST[1]}"
        yield f"spec.server.release is {name!r}: releases before {oldest} are not supported, write a newer one"
    yield from _flag_faults(wish, name, version)


def _image_faults(wish: spec.BertDeploymentSpec, settings: Settings) -> Iterator[str]:
    """Our CPU image, and one without CUDA, would leave a GPU idle that nobody else gets."""
    release = settings.triton.releases.get(wish.server.release or settings.triton.default_release)
    profile = settings.hardware_profiles.get(wish.hardware.profile)
    if release and profile and profile.resource_name and _cpu_only(release):
        name = wish.server.release or settings.triton.default_release
        able = sorted(key for key, one in settings.triton.releases.items() if not _cpu_only(one))
        yield (
            f"spec.server.release is {name!r}, whose image runs on CPUs only, but hardware profile "
            f"{wish.hardware.profile!r} has {profile.resource_name}: write "
            f"one of {', '.join(able) or '(none is set)'}, or a profile without GPUs"
        )


def _cpu_only(release: TritonRelease) -> bool:
    """Whether it is one of our images: its backends run in Python, on CPUs."""
    return release.onnx_backend == "onnxruntime_python" or release.torch_backend == "pytorch_python"


def _backend_faults(
    wish: spec.BertDeploymentSpec, settings: Settings, formats: Callable[[HardwareProfile], Sequence[spec.Format]]
) -> Iterator[str]:
    """Formats that the release's image has no backend for; what Triton never serves is the business of `builds`."""
    release = settings.triton.releases.get(wish.server.release or settings.triton.default_release)
    profile = settings.hardware_profiles.get(wish.hardware.profile)
    if release is None or profile is None:
        return
    offered = formats(profile)
    for index, model in enumerate(wish.models):
        found = offered[0] if model.build.format is spec.Format.AUTO else model.build.format
        if found not in offered or triton_config.backend(found, release):
            continue
        releases = settings.triton.releases.items()
        able = sorted(
            name
            for name, one in releases
            if triton_config.backend(found, one) and not (profile.resource_name and _cpu_only(one))
        )
        field = "torchBackend" if found is spec.Format.TORCHSCRIPT else "onnxBackend"
        others = [kind.value for kind in offered if triton_config.backend(kind, release)]
        yield (
            f"spec.models[{index}].build.format is {found.value!r}, and the image of release "
            f"{wish.server.release or settings.triton.default_release!r} has nothing that runs it: write "
            f"server.release: {' or '.join(able) or f'one with {field} (the chart sets none)'}, or "
            f"format: {' or '.join(others)}"
        )


def _flag_faults(wish: spec.BertDeploymentSpec, name: str, version: tuple[int, int]) -> Iterator[str]:
    for index, argument in enumerate(wish.server.extra_args):
        since = _SINCE.get(argument.partition("=")[0])
        if since and version < since:
            yield (
                f"spec.server.extraArgs[{index}] is {argument!r}, which Triton knows since {since[0]}.{since[1]:02}: "
                f"remove it or set server.release to a newer one than {name!r}"
            )


def _flags(exit_timeout: int, *, gpu: bool) -> tuple[str, ...]:
    return (
        f"--model-repository={names.MODELS_MOUNT}",
        "--model-control-mode=none",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--disable-auto-complete-config",
        # Else its table of options is all that a pod's last words have room for, and no error.
        "--log-info=false",
        f"--exit-timeout-secs={exit_timeout}",
        f"--http-port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
        f"--metrics-port={METRICS_PORT}",
        f"--allow-gpu-metrics={str(gpu).lower()}",
        # Host memory through which tensors reach the GPU; nothing uses it without one.
        f"--pinned-memory-pool-byte-size={triton_sizing.PINNED_BYTES if gpu else 0}",
    )


def _env(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion], *, gpu: bool) -> Mapping[str, str]:
    """Ours win over the user's: the CRD refuses theirs by the same names."""
    threads = max(triton_sizing.threads(wish, one.model) for one in served)
    ours = {
        "HOME": "/tmp",  # noqa: S108 - an emptyDir
        "OMP_NUM_THREADS": str(threads),
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if gpu and any(one.artifact.report.precision == spec.Precision.FP32.value for one in served):
        # ONNX Runtime and cuBLAS take TF32 for FP32 from compute capability 8.0 on: `verify` would refuse the answers.
        ours["NVIDIA_TF32_OVERRIDE"] = "0"
    return {variable.name: variable.value for variable in wish.server.env} | ours


def _stubs(served: Sequence[ServedVersion], release: TritonRelease) -> int:
    """How many processes serve models beside Triton's own: one for each instance of a Python-based backend."""
    return sum(
        one.model.serving.instances
        for one in served
        if triton_config.backend(one.artifact.report.format, release).endswith("_python")
    )


def _probe(kind: str, *, period: int, failures: int, stubs: int = 0) -> Mapping[str, Any]:
    """Triton's own word; where models are served by other processes, these must be alive, too.

    Triton doesn't start one again that has died: it calls itself healthy and answers every request with an error.
    """
    path = f"/v2/health/{kind}"
    shared = {"periodSeconds": period, "failureThreshold": failures}
    if stubs:
        # A process of its own, on the server's processors: it may take a while.
        return {**probes.answers_with(HTTP_PORT, [path], stubs, _STUB), "timeoutSeconds": 5} | shared
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 3} | shared


def _volumes(served: Sequence[ServedVersion]) -> tuple[Volume, ...]:
    """Memory used in /dev/shm counts towards the container's memory limit; `triton_sizing` has added it."""
    shm = triton_sizing.mib(triton_sizing.shm_bytes(served))
    return (
        Volume(name="shm", mount_path="/dev/shm", source={"emptyDir": {"medium": "Memory", "sizeLimit": shm}}),  # noqa: S108
        Volume(name="tmp", mount_path="/tmp", source={"emptyDir": {"sizeLimit": "256Mi"}}),  # noqa: S108
    )
