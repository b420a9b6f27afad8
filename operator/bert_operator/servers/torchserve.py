"""TorchServe: configuration, container, endpoints. Called through `servers.SERVERS`; no I/O.

An archive's name and version are inside it, but an artifact doesn't know how it will be served: the container's command
(launch.py of our image) unpacks each under the right ones. The management API answers inside the pod alone; the probe
asks it, because /ping takes a worker that never loads for a healthy one.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Final

from bert_operator.api import names, quantities, spec
from bert_operator.servers import releases, sizing, torchserve_config, torchserve_sizing
from bert_operator.servers.base import ConfigFile, Mount, Ports, ServedVersion, ServerContainer, Volume
from bert_operator.settings import HardwareProfile, Settings

HTTP_PORT: Final = 8080
METRICS_PORT: Final = 8082
GRPC_PORT: Final = 7070
USER: Final = 1000
PRE_STOP_SECONDS: Final = 8
"""Endpoints are told everywhere that the pod goes while it still answers: at SIGTERM TorchServe drops what runs."""
_DRAIN_SECONDS: Final = 12
_STARTUP_PERIOD_SECONDS: Final = 3
_MINIMUM_QUEUE: Final = 100

_PROGRAMS: Final = "/opt/bert-operator"
"""Where our image has launch.py and ready.py."""
_CONFIG: Final = "/etc/torchserve/config.properties"
_UNPACKED: Final = "/tmp/store"  # noqa: S108 - an emptyDir
_OWN_ENV: Final = r"TS_.*|_?JAVA.*|JDK_.*|LOG_LOCATION|METRICS_LOCATION|SM_TELEMETRY_LOG|ENABLE_TORCH_PROFILER"
_MISSING: Final = (
    "spec.server.type is 'torchserve', and this installation has no TorchServe: build build_jobs/torchserve.Dockerfile "
    "and name the image in the operator's chart (torchserve.releases)"
)


class TorchServe:
    """TorchServe, on a CPU."""

    ports: Final = Ports(http=HTTP_PORT, grpc=GRPC_PORT, metrics=METRICS_PORT)

    def formats(self, profile: HardwareProfile) -> tuple[spec.Format, ...]:
        """Model archives only, whatever the profile."""
        del profile
        return (spec.Format.MAR,)

    def unsupported(self, wish: spec.BertDeploymentSpec, settings: Settings) -> list[str]:
        """What can't be served as written: field, what was found, what to write instead."""
        return [
            *releases.faults(wish, settings.torchserve, _MISSING),
            *releases.gpu_faults(wish, settings, "TorchServe"),
            *_env_faults(wish),
            *(fault for index, model in enumerate(wish.models) for fault in _model_faults(index, model)),
        ]

    def container(
        self, served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, settings: Settings
    ) -> ServerContainer:
        """TorchServe's container; every writable folder is a volume."""
        startup = torchserve_sizing.startup_seconds(wish, served)
        loaded = {"exec": {"command": _ready_command(served)}, "timeoutSeconds": 5}
        alive = {"httpGet": {"path": "/ping", "port": "http"}, "timeoutSeconds": 5}
        room = quantities.mebibytes(torchserve_sizing.disk_bytes(served))
        return ServerContainer(
            mounts=tuple(mount(one) for one in served),
            files={_CONFIG: ConfigFile(key="config.properties", text=_config(served, wish, startup))},
            image=wish.server.image or releases.chosen(wish, settings.torchserve).image,
            command=("python", f"{_PROGRAMS}/launch.py"),
            args=_arguments(served),
            env=_env(served, wish),
            startup_probe=loaded
            | {"periodSeconds": _STARTUP_PERIOD_SECONDS, "failureThreshold": ceil(startup / _STARTUP_PERIOD_SECONDS)},
            readiness_probe=loaded | {"periodSeconds": 5, "failureThreshold": 3},
            liveness_probe=alive | {"periodSeconds": 10, "failureThreshold": 6},
            lifecycle={"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
            resources=torchserve_sizing.resources(wish, served),
            termination_grace_seconds=PRE_STOP_SECONDS + _DRAIN_SECONDS,
            run_as_user=USER,
            volumes=(Volume(name="tmp", mount_path="/tmp", source={"emptyDir": {"sizeLimit": room}}),),  # noqa: S108
        )


def mount(one: ServedVersion) -> Mount:
    """Every version under the model's own name: clients add the version to the path, or get the default one."""
    return Mount(served=one, name=one.model.name, path=f"{names.MODELS_MOUNT}/{one.model.name}/{one.version}")


def _arguments(served: Sequence[ServedVersion]) -> tuple[str, ...]:
    heap = torchserve_sizing.heap_bytes(served) // quantities.MEBIBYTE
    direct = torchserve_sizing.direct_bytes(served) // quantities.MEBIBYTE
    java = (f"-Xmx{heap}m", f"-XX:MaxDirectMemorySize={direct}m", "-XX:+UseSerialGC", "-XX:-UsePerfData")
    # A full heap ends the process instead of half of its threads: the pod restarts.
    return (
        *(f"--config={_CONFIG}", f"--store={_UNPACKED}"),
        *(f"--java={flag}" for flag in (*java, "-XX:+ExitOnOutOfMemoryError")),
        *(part for one in served for part in ("--model", one.model.name, str(one.version), mount(one).path)),
    )


def _ready_command(served: Sequence[ServedVersion]) -> list[str]:
    return ["python", "-I", "-S", f"{_PROGRAMS}/ready.py", *(f"{one.model.name}/{one.version}" for one in served)]


def _config(served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, startup: int) -> str:
    models: dict[str, dict[int, torchserve_config.ServedModel]] = {}
    for one in served:
        models.setdefault(one.model.name, {})[one.version] = _served_model(one, startup)
    server = torchserve_config.Server(
        http=HTTP_PORT,
        grpc=GRPC_PORT,
        metrics=METRICS_PORT,
        # They only pass requests on; unset, there is one for each core of the node.
        netty_threads=max(2, min(8, int(sizing.cpu_limit(wish)))),
        queue=max(_MINIMUM_QUEUE, *(8 * model.serving.max_batch_size for model in wish.models)),
        max_request=torchserve_sizing.request_bytes(served),
        max_response=torchserve_sizing.response_bytes(served),
    )
    return torchserve_config.render(server, models)


def _served_model(one: ServedVersion, startup: int) -> torchserve_config.ServedModel:
    serving = one.model.serving
    return torchserve_config.ServedModel(
        defaultVersion=one.version == one.model.default,
        marName=f"{one.model.name}-{one.version}",
        minWorkers=serving.instances,
        maxWorkers=serving.instances,
        batchSize=serving.max_batch_size if _batches(one) else 1,
        maxBatchDelay=max(1, ceil(serving.batching.max_queue_delay_microseconds / 1000)),
        responseTimeout=torchserve_sizing.REQUEST_SECONDS,
        startupTimeout=startup,
    )


def _batches(one: ServedVersion) -> bool:
    """Token outputs are long: the answers of a whole batch, each of many rows, would have to be held at once."""
    token_outputs = any(-1 in output.dims for output in one.artifact.report.outputs)
    return one.model.serving.batching.enabled and not token_outputs


def _env(served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec) -> Mapping[str, str]:
    """Ours win over the user's: the CRD and `unsupported` refuse theirs by the same names."""
    threads = str(max(torchserve_sizing.threads(wish, one.model) for one in served))
    told = {model.name: {"rows": model.serving.max_batch_size, "warmup": model.serving.warmup} for model in wish.models}
    ours = {
        "BERTOPS_HANDLER": json.dumps(told, sort_keys=True),
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",  # noqa: S108 - an emptyDir
        # Memory that one thread gave back serves the others.
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {variable.name: variable.value for variable in wish.server.env} | ours


def _env_faults(wish: spec.BertDeploymentSpec) -> Iterator[str]:
    for index, variable in enumerate(wish.server.env):
        if re.fullmatch(_OWN_ENV, variable.name):
            yield (
                f"spec.server.env[{index}] is {variable.name!r}, which changes how TorchServe or Java start and could "
                "open the management API: remove it"
            )


def _model_faults(index: int, model: spec.BertModel) -> Iterator[str]:
    field = f"spec.models[{index}]"
    if model.build.framework is not spec.Framework.PYTORCH:
        yield (
            f"{field}.build.framework is {model.build.framework.value!r}, and TorchServe serves PyTorch models: write "
            "'pytorch', or another server.type"
        )
    if model.serving.batching.preferred_batch_sizes:
        yield (
            f"{field}.serving.batching.preferredBatchSizes is {model.serving.batching.preferred_batch_sizes}, which "
            "TorchServe doesn't know: remove it, maxBatchSize is the limit"
        )
