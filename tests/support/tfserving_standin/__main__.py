"""`tensorflow_model_server` of the stand-in: the same flags, files, ports and order of start as the real one."""

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from . import config_files, flags, grpc_api, rest_api
from .batching import Parameters
from .errors import ServingError
from .servables import Servables

_FAILED: Final = 255
_DEFAULT_METRICS_PATH: Final = "/monitoring/prometheus/metrics"


def main(arguments: Sequence[str]) -> int:
    """Serve until killed; the exit status where it can't."""
    print(f"STAND-IN for TF Serving, not the real server: tests only (TensorFlow {tf.__version__})", flush=True)
    # As process 1 the real server has no handler for SIGTERM and so never sees it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        chosen = flags.parse(arguments)
    except flags.UsageError as error:
        print(error)
        return _FAILED
    try:
        _serve(chosen)
    except ServingError as error:
        print(f"Failed to start server. Error: {error.code.value}: {error}")
        return _FAILED
    return 0


def _serve(chosen: flags.Flags) -> None:
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


def _set_threads(chosen: flags.Flags) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(chosen.numbers["tensorflow_intra_op_parallelism"])
    tf.config.threading.set_inter_op_parallelism_threads(chosen.numbers["tensorflow_inter_op_parallelism"])


def _servables(chosen: flags.Flags) -> Servables:
    file, enabled = chosen.texts["batching_parameters_file"], chosen.switches["enable_batching"]
    if file and not enabled:
        raise config_files.refused("batching_parameters_file is set without setting enable_batching to true.")
    batching = Parameters.of(config_files.batching(file)) if file else None
    models = config_files.models(chosen.texts["model_config_file"])
    return Servables(models, batching, warm_up=chosen.switches["enable_model_warmup"])


def _metrics_path(chosen: flags.Flags) -> str:
    file = chosen.texts["monitoring_config_file"]
    prometheus = config_files.monitoring(file).prometheus_config if file else None
    return (prometheus.path or _DEFAULT_METRICS_PATH) if prometheus and prometheus.enable else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
