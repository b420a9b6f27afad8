"""What Model Analyzer is told, and how its answer is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bert_build import analyzer_config
from bert_operator.api.measurement import AskedVariant, ProfileRequest

VARIANT = AskedVariant(name="i2-b8", instances=2, max_batch_size=8, max_queue_delay_microseconds=1000)
REAL = """Model,Batch,Concurrency,Model Config Path,Instance Group,Max Batch Size,Satisfies Constraints,\
Throughput (infer/sec),p90 Latency (ms),p95 Latency (ms),p99 Latency (ms)
i2-b8,1,4,i2-b8_config_default,2:CPU,8,Yes,586.3,9.9,11.7,17.7
i2-b8,1,16,i2-b8_config_default,2:CPU,8,Yes,409.8,75.0,89.7,118.7
i2-b8,1,1,i2-b8_config_default,2:CPU,8,Yes,129.4,13.4,15.9,27.2

"""
"""metrics-model-inference.csv as Model Analyzer 1.58 wrote it."""


def request(**changes: Any) -> ProfileRequest:
    plain: dict[str, Any] = {
        "key": "ab" * 16,
        "model": "minilm",
        "version": 1,
        "artifact": "onnx-1",
        "manifest_sha256": "00",
        "variants": [VARIANT],
        "concurrency": [1, 4, 16],
        "lengths": [32, 128],
        "budget_seconds": 360,
        "model_file": "model.onnx",
    }
    return ProfileRequest(**plain | changes)


def golden(*lengths: tuple[int, int]) -> list[dict[str, Any]]:
    """Requests of (length, used): ids from 1 on, padded with 0."""
    found, following = [], 1
    for length, used in lengths:
        ids = np.zeros((1, length), np.int64)
        ids[0, :used] = np.arange(following, following + used)
        mask = (ids > 0).astype(np.int64)
        found.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        following += used
    return found


class TestInputs:
    def test_every_length_is_asked_in_turns_and_whole(self) -> None:
        rows = analyzer_config.inputs(golden((8, 8), (16, 11)), [32, 128])["data"]
        shapes = [row["input_ids"]["shape"] for row in rows]
        assert shapes[:4] == [[32], [128], [32], [128]]
        for row in rows:
            (length,) = row["input_ids"]["shape"]
            assert {len(tensor["content"]) for tensor in row.values()} == {length}
            assert row["attention_mask"]["content"] == [1] * length

    def test_ids_are_those_of_the_golden_requests_without_padding(self) -> None:
        rows = analyzer_config.inputs(golden((8, 5), (16, 11)), [4, 100])["data"]
        used = {number for row in rows for number in row["input_ids"]["content"]}
        assert used == set(range(1, 17))

    def test_requests_of_one_length_differ(self) -> None:
        rows = analyzer_config.inputs(golden((16, 16)), [16])["data"]
        assert len({tuple(row["input_ids"]["content"]) for row in rows}) == len(rows) == 4

    def test_only_the_inputs_that_the_artifact_has_are_sent(self) -> None:
        bare = [{"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]} for one in golden((8, 8))]
        assert set(analyzer_config.inputs(bare, [8])["data"][0]) == {"input_ids", "attention_mask"}

    def test_without_any_token_there_is_nothing_to_ask(self) -> None:
        with pytest.raises(ValueError, match="hold no token id"):
            analyzer_config.inputs(golden((8, 0)), [8])


class TestTheAnalyzersConfiguration:
    def test_it_searches_nothing_and_sweeps_the_loads_of_the_loaded_model(self) -> None:
        made = analyzer_config.analyzer(request(), VARIANT, Path("/work/i2-b8"), Path("/work/inputs.json"))
        assert yaml.safe_load(yaml.safe_dump(made)) == made
        assert made["triton_launch_mode"] == "remote"
        assert made["reload_model_disable"] is True
        assert made["run_config_search_disable"] is True
        (model,) = made["profile_models"].values()
        assert model["parameters"] == {"batch_sizes": [1], "concurrency": [1, 4, 16]}
        assert model["perf_analyzer_flags"]["input-data"] == "/work/inputs.json"

    def test_nothing_leaves_the_pods_loopback(self) -> None:
        made = analyzer_config.analyzer(request(), VARIANT, Path("/work/i2-b8"), Path("/work/inputs.json"))
        addresses = [value for key, value in made.items() if key.startswith("triton_") and ":" in str(value)]
        assert addresses
        assert all("127.0.0.1:" in address for address in addresses)

    def test_a_point_counts_once_its_p95_is_steady(self) -> None:
        made = analyzer_config.analyzer(request(), VARIANT, Path("/w"), Path("/i"))
        assert made["profile_models"]["i2-b8"]["perf_analyzer_flags"]["percentile"] == 95

    @pytest.mark.parametrize(("budget", "window"), [(60, 1875), (30, 625), (10, 500), (3600, 2000)])
    def test_windows_are_as_long_as_the_budget_allows(self, budget: int, window: int) -> None:
        assert analyzer_config.window_milliseconds(request(budget_seconds=budget)) == window

    def test_the_estimate_grows_with_the_loads(self) -> None:
        few, many = request(concurrency=[1]), request(concurrency=[1, 2, 4, 8, 16])
        assert analyzer_config.expected_seconds(few) < analyzer_config.expected_seconds(many)


class TestTheAnswer:
    def test_points_are_read_and_sorted_by_load(self) -> None:
        found = analyzer_config.measured(REAL, VARIANT)
        assert found is not None
        assert (found.instances, found.max_batch_size, found.max_queue_delay_microseconds) == (2, 8, 1000)
        assert [point.concurrency for point in found.points] == [1, 4, 16]
        assert found.points[1].model_dump() == {
            "concurrency": 4, "throughput": 586.3, "p90": 9.9, "p95": 11.7, "p99": 17.7,
        }  # fmt: skip

    def test_columns_are_found_by_name_in_any_order(self) -> None:
        text = "Throughput (infer/sec),GPU ID,Concurrency,p95 Latency (ms)\n12.5,x,4,80.1\n"
        found = analyzer_config.measured(text, VARIANT)
        assert found is not None
        (point,) = found.points
        assert (point.concurrency, point.throughput, point.p90, point.p95, point.p99) == (4, 12.5, None, 80.1, None)

    @pytest.mark.parametrize("text", ["", "Model,Batch\ni2-b8,1\n", "Concurrency,Throughput (infer/sec)\n,\n4,\n"])
    def test_a_file_without_load_and_throughput_holds_no_point(self, text: str) -> None:
        assert analyzer_config.measured(text, VARIANT) is None

    def test_rows_of_other_models_are_left_out(self) -> None:
        assert analyzer_config.measured(REAL.replace("i2-b8,1,16", "other,1,16"), VARIANT) != analyzer_config.measured(
            REAL, VARIANT
        )
