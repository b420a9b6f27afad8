"""What a source's Secret means for a build's pod: one container sees it, as files, and waits for nothing in silence."""

from typing import Any

import pytest

from support import builders
from support.fake_cluster import FakeCluster

HUB = {"huggingFace": {"repo": "org/bert", "tokenSecretRef": {"name": "hub", "key": "hf"}}}
S3 = {"s3": {"uri": "s3://models/bert", "credentialsSecretRef": {"name": "bucket"}}}


def pod_of(source: dict[str, Any]) -> dict[str, Any]:
    model = builders.model(versions=[{"version": 1, "source": source}])
    world = FakeCluster(
        builders.bert(spec={"models": [model], "storage": {"claimName": "minilm-store"}}), builders.claim()
    )
    (job,) = world.plan(builders.settings()).create
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize(("source", "secret", "first"), [(HUB, "hub", "hf"), (S3, "bucket", "AWS_ACCESS_KEY_ID")])
def test_only_fetch_sees_the_secret(source: dict[str, Any], secret: str, first: str) -> None:
    pod = pod_of(source)
    (volume,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
    assert (volume["secretName"], volume["items"][0]["key"]) == (secret, first)
    # Without it fetch says what is missing; the kubelet would wait, and only an event would tell.
    assert volume["optional"] is True
    seen = [
        (one["name"], mount["readOnly"])
        for one in (*pod["initContainers"], *pod["containers"])
        for mount in one["volumeMounts"]
        if mount["name"] == "credentials"
    ]
    assert seen == [("fetch", True)]
    assert not any("valueFrom" in variable for one in pod["initContainers"] for variable in one["env"])


@pytest.mark.parametrize("source", [{"huggingFace": {"repo": "org/bert"}}, {"s3": {"uri": "s3://models/bert"}}])
def test_a_public_source_mounts_no_secret(source: dict[str, Any]) -> None:
    assert not any("secret" in volume for volume in pod_of(source)["volumes"])
