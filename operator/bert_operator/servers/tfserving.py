"""TF Serving: configuration, container, endpoints. Called through `servers.SERVERS`; no I/O.

Every model lies at /models/<model>/<version> under its own name; clients choose by number, by label, or get the highest
version. The server knows one batching file, one warm-up switch and one rule for unversioned requests for all its
models, so models that wish otherwise are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Final

from bert_operator.api import names, spec
from bert_operator.servers import probes, releases, tfserving_config, tfserving_sizing
from bert_operator.servers.base import ConfigFile, Mount, Ports, ServedVersion, ServerContainer, Volume
from bert_operator.settings import HardwareProfile, Settings

GRPC_PORT: Final = 8500
REST_PORT: Final = 8501
METRICS_PATH: Final = "/monitoring/prometheus/metrics"
USER: Final = 1000
PRE_STOP_SECONDS: Final = 8
"""Endpoints are told everywhere that the pod goes while it still answers."""
_DRAIN_SECONDS: Final = 12
"""For what runs by then. Process 1 without a handler ignores SIGTERM, so the kubelet always waits this long."""
REQUEST_SECONDS: Final = 120
"""A REST request that takes longer is given up; `verify` waits as long."""
_STARTUP_PERIOD_SECONDS: Final = 3
_MINIMUM_REST_THREADS: Final = 64

_PROGRAM: Final = "/usr/bin/tensorflow_model_server"
_CONFIG_FOLDER: Final = "/etc/tfserving"
_MODELS_FILE: Final = "models.config"
_MONITORING_FILE: Final = "monitoring.config"
_BATCHING_FILE: Final = "batching.config"

_MISSING: Final = (
    "spec.server.type is 'tfserving', and this installation has no TF Serving: set tfserving.releases in the "
    "operator's chart"
)


class TfServing:
    """TF Serving, on a CPU."""

    ports: Final = Ports(http=REST_PORT, grpc=GRPC_PORT, metrics=REST_PORT, metrics_path=METRICS_PATH)

    def formats(self, profile: HardwareProfile) -> tuple[spec.Format, ...]:
        """SavedModels only, whatever the profile."""
        del profile
        return (spec.Format.SAVEDMODEL,)

    def unsupported(self, wish: spec.BertDeploymentSpec, settings: Settings) -> list[str]:
        """What can't be served as written: field, what was found, what to write instead."""
        return [
            *releases.faults(wish, settings.tfserving, _MISSING),
            *releases.gpu_faults(wish, settings, "TF Serving"),
            *(fault for index, model in enumerate(wish.models) for fault in _model_faults(index, model)),
            *_disagreements(wish),
        ]

    def container(
        self, served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, settings: Settings
    ) -> ServerContainer:
        """TF Serving's container; the image's entry point, a bash script that stays its parent, is never used."""
        files = _config_files(served, wish)
        startup = ceil(tfserving_sizing.startup_seconds(wish, served) / _STARTUP_PERIOD_SECONDS)
        # Not REST: a REST request holds a thread until it is answered, and a busy server must not be restarted.
        alive = probes.greets(GRPC_PORT)
        return ServerContainer(
            mounts=tuple(mount(one) for one in served),
            files=files,
            image=wish.server.image or releases.chosen(wish, settings.tfserving).image,
            command=(_PROGRAM,),
            args=(*_flags(wish, files), *wish.server.extra_args),
            env=_env(wish),
            startup_probe=_servable(served) | {"periodSeconds": _STARTUP_PERIOD_SECONDS, "failureThreshold": startup},
            readiness_probe=_servable(served) | {"periodSeconds": 5, "failureThreshold": 3},
            liveness_probe=alive | {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
            lifecycle={"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
            resources=tfserving_sizing.resources(wish, served),
            termination_grace_seconds=PRE_STOP_SECONDS + _DRAIN_SECONDS,
            run_as_user=USER,
            volumes=(Volume(name="tmp", mount_path="/tmp", source={"emptyDir": {"sizeLimit": "256Mi"}}),),  # noqa: S108
        )


def mount(one: ServedVersion) -> Mount:
    """Every version under the model's own name."""
    return Mount(served=one, name=one.model.name, path=f"{_base_path(one.model)}/{one.version}")


def _base_path(model: spec.BertModel) -> str:
    return f"{names.MODELS_MOUNT}/{model.name}"


def _config_files(served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec) -> Mapping[str, ConfigFile]:
    texts = {
        _MODELS_FILE: tfserving_config.models([_served_model(model) for model in wish.models]),
        _MONITORING_FILE: tfserving_config.monitoring(METRICS_PATH),
    }
    if _batches(served, wish):
        serving = wish.models[0].serving
        texts[_BATCHING_FILE] = tfserving_config.batching(
            max_batch_size=serving.max_batch_size,
            timeout_microseconds=serving.batching.max_queue_delay_microseconds,
            threads=tfserving_sizing.threads(wish),
        )
    return {f"{_CONFIG_FOLDER}/{name}": ConfigFile(key=name, text=text) for name, text in texts.items()}


def _served_model(model: spec.BertModel) -> tfserving_config.ServedModel:
    return tfserving_config.ServedModel(
        name=model.name,
        base_path=_base_path(model),
        versions=sorted(version.version for version in model.versions),
        labels=sorted((label, version.version) for version in model.versions for label in version.labels),
    )


def _batches(served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec) -> bool:
    """A batch is padded to its longest request and answers aren't cut again, so token outputs must not be batched."""
    token_outputs = any(-1 in output.dims for one in served for output in one.artifact.report.outputs)
    return wish.models[0].serving.batching.enabled and not token_outputs


def _flags(wish: spec.BertDeploymentSpec, files: Mapping[str, ConfigFile]) -> tuple[str, ...]:
    threads = tfserving_sizing.threads(wish)
    batching = f"{_CONFIG_FOLDER}/{_BATCHING_FILE}"
    return (
        f"--port={GRPC_PORT}",
        f"--rest_api_port={REST_PORT}",
        f"--rest_api_timeout_in_ms={REQUEST_SECONDS * 1000}",
        f"--rest_api_num_threads={_rest_threads(wish)}",
        f"--model_config_file={_CONFIG_FOLDER}/{_MODELS_FILE}",
        f"--monitoring_config_file={_CONFIG_FOLDER}/{_MONITORING_FILE}",
        # What is mounted never changes: look once, and don't try a broken model again for five minutes.
        "--file_system_poll_wait_seconds=0",
        "--max_num_load_retries=0",
        # Labels are read before any version is loaded.
        "--allow_version_labels_for_unavailable_models=true",
        f"--enable_model_warmup={str(wish.models[0].serving.warmup).lower()}",
        # Unset, both are the node's cores, whatever the limit.
        f"--tensorflow_intra_op_parallelism={threads}",
        f"--tensorflow_inter_op_parallelism={threads}",
        *(("--enable_batching=true", f"--batching_parameters_file={batching}") if batching in files else ()),
    )


def _rest_threads(wish: spec.BertDeploymentSpec) -> int:
    """Each is held by one request: unset, four for each core of the node, and probes would queue behind predictions."""
    return max(_MINIMUM_REST_THREADS, *(4 * model.serving.max_batch_size for model in wish.models))


def _env(wish: spec.BertDeploymentSpec) -> Mapping[str, str]:
    """Ours win over the user's: the CRD refuses theirs by the same names."""
    ours = {"HOME": "/tmp", "OMP_NUM_THREADS": str(tfserving_sizing.threads(wish))}  # noqa: S108 - an emptyDir
    return {variable.name: variable.value for variable in wish.server.env} | ours


def _servable(served: Sequence[ServedVersion]) -> dict[str, Any]:
    """Succeeds once every version of every model can be asked.

    A version's metadata is answered only while it can be, its status (200 in every state) tells a probe nothing.
    """
    paths = [f"/v1/models/{one.model.name}/versions/{one.version}/metadata" for one in served]
    return {**probes.answers(REST_PORT, paths), "timeoutSeconds": 5}


def _model_faults(index: int, model: spec.BertModel) -> Iterator[str]:
    field = f"spec.models[{index}]"
    highest = max(version.version for version in model.versions)
    if model.default != highest:
        yield (
            f"{field}.defaultVersion is {model.default}, and TF Serving sends unversioned requests to the highest "
            f"version: write {highest}, and give version {model.default} a label (versions[].labels, e.g. production) "
            "for clients to ask for"
        )
    if model.serving.instances != 1:
        yield (
            f"{field}.serving.instances is {model.serving.instances}, and TF Serving runs one copy of a model on all "
            "its threads: write 1, and raise server.resources.limits.cpu or replicas for more throughput"
        )
    if model.serving.batching.preferred_batch_sizes:
        yield (
            f"{field}.serving.batching.preferredBatchSizes is {model.serving.batching.preferred_batch_sizes}, which "
            "TF Serving doesn't know: remove it, maxBatchSize is the limit"
        )


def _disagreements(wish: spec.BertDeploymentSpec) -> Iterator[str]:
    first = wish.models[0].serving
    for index, model in enumerate(wish.models[1:], start=1):
        for field, found, wanted in _server_wide(model.serving, first):
            if found != wanted:
                yield (
                    f"spec.models[{index}].serving.{field} is {_yaml(found)} and that of models[0] is {_yaml(wanted)}: "
                    "TF Serving has one setting for all its models, write the same for each or serve them by "
                    "BertDeployments of their own"
                )


def _server_wide(one: spec.Serving, other: spec.Serving) -> Iterator[tuple[str, int, int]]:
    """What TF Serving knows once only: field and both values."""
    yield "warmup", one.warmup, other.warmup
    yield "batching.enabled", one.batching.enabled, other.batching.enabled
    if one.batching.enabled and other.batching.enabled:
        yield "maxBatchSize", one.max_batch_size, other.max_batch_size
        yield (
            "batching.maxQueueDelayMicroseconds",
            one.batching.max_queue_delay_microseconds,
            other.batching.max_queue_delay_microseconds,
        )


def _yaml(value: int) -> str:
    return str(value).lower()
