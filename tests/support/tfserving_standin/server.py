"""The server itself, once its flags are understood: reads its files, loads, opens its ports. `__main__` starts it."""

import threading
from typing import Final

import tensorflow as tf

from . import config_files, grpc_api, rest_api
from .batching import Parameters
from .flags import Flags
from .servables import Servables

_DEFAULT_METRICS_PATH: Final = "/monitoring/prometheus/metrics"


def serve(chosen: Flags) -> None:
    """Serve until killed.

    Raises:
        ServingError: it can't.
    """
    _set_threads(chosen)
    servables = _servables(chosen)
    if not chosen.switches["allow_version_labels_for_unavailable_models"]:
        servables.check_labels()
    metrics_path = _metrics_path(chosen)
    threading.Thread(target=servables.load, daemon=True).start()
    pause = threading.Event()
    while not servables.started():
        pause.wait(0.05)
    grpc_server = grpc_api.serve(servables, chosen.numbers["port"])
    print(f"Running gRPC ModelServer at 0.0.0.0:{chosen.numbers['port']} ...", flush=True)
    if chosen.numbers["rest_api_port"]:
        rest_api.serve(servables, chosen.numbers["rest_api_port"], metrics_path)
        print(f"Exporting HTTP/REST API at:localhost:{chosen.numbers['rest_api_port']} ...", flush=True)
    grpc_server.wait_for_termination()


def _set_threads(chosen: Flags) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(chosen.numbers["tensorflow_intra_op_parallelism"])
    tf.config.threading.set_inter_op_parallelism_threads(chosen.numbers["tensorflow_inter_op_parallelism"])


def _servables(chosen: Flags) -> Servables:
    file = chosen.texts["batching_parameters_file"]
    batching = Parameters.of(config_files.batching(file)) if file else None
    models = config_files.models(chosen.texts["model_config_file"])
    return Servables(models, batching, warm_up=chosen.switches["enable_model_warmup"])


def _metrics_path(chosen: Flags) -> str:
    file = chosen.texts["monitoring_config_file"]
    prometheus = config_files.monitoring(file).prometheus_config if file else None
    return (prometheus.path or _DEFAULT_METRICS_PATH) if prometheus and prometheus.enable else ""
