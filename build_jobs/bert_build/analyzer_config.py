"""What Model Analyzer and perf_analyzer are told, and what they answered: pure, but for nothing. `profile` calls it.

One run of the analyzer measures one variant: its model is loaded already, with the very config.pbtxt that would be
served, so the analyzer searches nothing and only sweeps the load.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_operator.api.measurement import AskedVariant, MeasuredPoint, MeasuredVariant, ProfileRequest, VariantConfig

HTTP: Final = "127.0.0.1:8000"
GRPC: Final = "127.0.0.1:8001"
METRICS: Final = "http://127.0.0.1:8002/metrics"

SAMPLES_PER_LENGTH: Final = 4
STEADY_WINDOWS: Final = 3
"""perf_analyzer counts a point once so many windows in a row agree."""
MAX_WINDOWS: Final = 8
_WINDOW_MILLISECONDS: Final = (500, 2000)
_OVERHEAD_SECONDS: Final = 5.0
"""Of each point beside its windows: starting perf_analyzer, the analyzer's own turns."""
_STEADY_PERCENTILE: Final = 95
"""The latency that must be steady. Not the objective's: another objective chooses anew among the same points."""
_STEADY_PERCENT: Final = 75
"""How far a window may be from the mean of the last three; a point that never gets there is lost, and on a node that
does other work beside, the p95 of a second or two varies by half. What is reported is the mean over those windows."""
_FIELDS: Final = (
    "model_name",
    "batch_size",
    "concurrency",
    "model_config_path",
    "instance_group",
    "max_batch_size",
    "satisfies_constraints",
    "perf_throughput",
    "perf_latency_p90",
    "perf_latency_p95",
    "perf_latency_p99",
)
_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_THROUGHPUT: Final = "Throughput (infer/sec)"
_COLUMNS: Final = {"p90": "p90 Latency (ms)", "p95": "p95 Latency (ms)", "p99": "p99 Latency (ms)"}


def window_milliseconds(request: ProfileRequest) -> int:
    """Length of a measurement window, such that all points fit into the budget even if none is steady at once."""
    points = len(request.variants) * len(request.concurrency)
    seconds = request.budget_seconds / points - _OVERHEAD_SECONDS
    shortest, longest = _WINDOW_MILLISECONDS
    return int(min(longest, max(shortest, 1000 * seconds / MAX_WINDOWS)))


def expected_seconds(request: ProfileRequest) -> float:
    """How long one variant takes if its points are steady soon."""
    windows = (STEADY_WINDOWS + 1) * window_milliseconds(request) / 1000
    return len(request.concurrency) * (windows + _OVERHEAD_SECONDS) + _OVERHEAD_SECONDS


def analyzer(request: ProfileRequest, variant: AskedVariant, work: Path, inputs: Path) -> dict[str, Any]:
    """Model Analyzer's configuration file for one variant.

    Args:
        request: the run.
        variant: a model that the server has loaded under its name.
        work: an empty folder for everything that the analyzer writes.
        inputs: perf_analyzer's input file.
    """
    return {
        "triton_launch_mode": "remote",
        "reload_model_disable": True,  # it is loaded, just as it would be served
        "run_config_search_disable": True,
        "client_protocol": "grpc",
        "triton_http_endpoint": HTTP,
        "triton_grpc_endpoint": GRPC,
        "triton_metrics_url": METRICS,
        "output_model_repository_path": str(work / "configs"),
        "export_path": str(work),
        "checkpoint_directory": str(work / "checkpoints"),
        "skip_detailed_reports": True,
        "dcgm_disable": True,  # the GPU is the server's, not this container's
        "duration_seconds": 1,
        "perf_analyzer_timeout": 120,
        "perf_analyzer_cpu_util": 6400,
        "perf_analyzer_max_auto_adjusts": 1,
        "inference_output_fields": list(_FIELDS),
        "profile_models": {
            variant.name: {
                "cpu_only": True,
                "parameters": {"batch_sizes": [1], "concurrency": list(request.concurrency)},
                "perf_analyzer_flags": {
                    "input-data": str(inputs),
                    "percentile": _STEADY_PERCENTILE,
                    "measurement-mode": "time_windows",
                    "measurement-interval": window_milliseconds(request),
                    "stability-percentage": _STEADY_PERCENT,
                    "max-trials": MAX_WINDOWS,
                },
            }
        },
    }


def inputs(golden: Sequence[Mapping[str, npt.NDArray[Any]]], lengths: Sequence[int]) -> dict[str, Any]:
    """perf_analyzer's input data: real token ids of the golden requests, tiled and cut to each length.

    Args:
        golden: inputs of the golden requests, integers of shape [batch, length].
        lengths: sequence lengths; the requests of all lengths take turns.

    Raises:
        ValueError: the golden requests hold no token.
    """
    ids = _real_ids(golden)
    others = {name: array.dtype for name, array in golden[0].items() if name != _IDS}
    rows = []
    for sample in range(SAMPLES_PER_LENGTH):
        for length in lengths:
            # Each sample starts elsewhere, so no two requests of a length are alike.
            content = np.resize(np.roll(ids, -sample * 3), length)
            row = {_IDS: {"content": content.tolist(), "shape": [length]}}
            for name in others:
                row[name] = {"content": [1 if name == _MASK else 0] * length, "shape": [length]}
            rows.append(row)
    return {"data": rows}


def measured(text: str, variant: AskedVariant) -> MeasuredVariant | None:
    """The points of one variant from metrics-model-inference.csv, by header name; a missing column is no error.

    Args:
        text: content of the file.
        variant: what was measured.

    Returns:
        None if no row has a concurrency and a throughput.
    """
    points = {
        point.concurrency: point
        for row in csv.DictReader(io.StringIO(text.strip()))
        if row.get("Model", variant.name) == variant.name and (point := _point(row)) is not None
    }
    if not points:
        return None
    shape = variant.model_dump(include=set(VariantConfig.model_fields))
    return MeasuredVariant(**shape, points=[points[concurrency] for concurrency in sorted(points)])


def _point(row: Mapping[str, str | None]) -> MeasuredPoint | None:
    concurrency, throughput = _number(row.get("Concurrency")), _number(row.get(_THROUGHPUT))
    if concurrency is None or throughput is None:
        return None
    latencies = {name: _number(row.get(column)) for name, column in _COLUMNS.items()}
    return MeasuredPoint(
        concurrency=int(concurrency),
        throughput=round(throughput, 1),
        **{name: round(value, 1) for name, value in latencies.items() if value is not None},
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _real_ids(golden: Sequence[Mapping[str, npt.NDArray[Any]]]) -> npt.NDArray[Any]:
    """All token ids that the mask shows, one after the other."""
    parts = list(_shown(golden))
    if not parts or not sum(part.size for part in parts):
        raise ValueError("the golden requests hold no token id")
    return np.concatenate(parts)


def _shown(golden: Sequence[Mapping[str, npt.NDArray[Any]]]) -> Iterator[npt.NDArray[Any]]:
    for tensors in golden:
        if _IDS in tensors:
            ids = tensors[_IDS]
            yield ids[tensors[_MASK].astype(bool)] if _MASK in tensors else ids.reshape(-1)
