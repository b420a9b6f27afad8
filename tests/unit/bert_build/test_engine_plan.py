"""What is decided about an engine before a GPU sees anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_build import engine_plan
from bert_operator.api.report import EngineProfile, OnnxArtifact
from bert_operator.api.spec import Build, Format, Task

ONNX = OnnxArtifact(artifact_key="5" * 32, manifest_sha256="ab", revision="main", profile="gpu")
TOOLS = {"onnx": "1.23.2"}


def build(**wish: object) -> Build:
    return Build.model_validate({"task": Task.FEATURE_EXTRACTION, "format": Format.TENSORRT, **wish})


def plain(profiles: list[EngineProfile]) -> list[tuple[list[int], list[int], list[int]]]:
    return [(one.min, one.opt, one.max) for one in profiles]


def key(wish: Build, *, onnx: str = "5" * 32, gpu: str = "8.6", version: str = "11.2.1.2") -> str:
    return engine_plan.artifact_key(engine_plan.key_material(wish, onnx, TOOLS), gpu, version)


def test_without_buckets_one_profile_takes_every_length() -> None:
    assert plain(engine_plan.profiles(build(maxSequenceLength=128))) == [([1, 1], [16, 128], [32, 128])]


def test_each_bucket_has_its_profile_and_the_longest_too() -> None:
    found = engine_plan.profiles(build(maxSequenceLength=128, sequenceBuckets=[64, 32], maxBatchSize=1))
    assert plain(found) == [([1, 1], [1, 32], [1, 32]), ([1, 33], [1, 64], [1, 64]), ([1, 65], [1, 128], [1, 128])]


@given(
    longest=st.integers(8, 600),
    buckets=st.none() | st.lists(st.integers(1, 8), min_size=1, max_size=8, unique=True),
    batch=st.integers(1, 64),
    asked=st.data(),
)
def test_every_request_fits_exactly_one_profile(
    longest: int, buckets: list[int] | None, batch: int, asked: st.DataObject
) -> None:
    wish = build(maxSequenceLength=longest, sequenceBuckets=buckets, maxBatchSize=batch)
    found = engine_plan.profiles(wish)
    rows, length = asked.draw(st.integers(1, batch)), asked.draw(st.integers(1, longest))
    number = engine_plan.profile_for(found, rows, length)
    fits = [n for n, one in enumerate(found) if one.min[1] <= length <= one.max[1]]
    assert fits == [number]
    assert all(low <= opt <= high for one in found for low, opt, high in zip(one.min, one.opt, one.max, strict=True))
    assert len(found) <= 9


def test_a_request_beyond_the_profiles_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 33 with 8 tokens"):
        engine_plan.profile_for(engine_plan.profiles(build()), 33, 8)


def test_fp32_is_no_tf32() -> None:
    assert engine_plan.wish(build(), ONNX, [], TOOLS)["tf32"] is False
    assert engine_plan.wish(build(precision="fp16"), ONNX, [], TOOLS)["tf32"] is True


def test_the_script_is_told_what_the_settings_expect() -> None:
    asked = ONNX.model_copy(update={"compute_capability": "8.6", "tensorrt_version": "11.2.1.2"})
    assert engine_plan.wish(build(), asked, ["input_ids"], TOOLS)["expected"] == {
        "profile": "gpu",
        "compute_capability": "8.6",
        "tensorrt_version": "11.2.1.2",
    }


def test_whatever_changes_the_engine_changes_its_key() -> None:
    keys = {
        key(build()),
        key(build(precision="fp16")),
        key(build(maxBatchSize=8)),
        key(build(sequenceBuckets=[32])),
        key(build(), onnx="6" * 32),
        key(build(), gpu="8.9"),
        key(build(), version="11.3.0.99"),
    }
    assert len(keys) == 7


def test_the_same_engine_has_the_same_key_whatever_else_was_said() -> None:
    assert key(build(maxBatchSize=32)) == key(build())
    assert key(build(allowPickle=True)) == key(build())
