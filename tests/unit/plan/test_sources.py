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


MINE = {"fidelity": {"samplesFrom": {"configMapName": "mine"}}}
FROM_CLAIM = {"precision": "int8", "calibration": {"texts": {"claimName": "texts", "path": "a.txt"}}}


def world_of(*claims: dict[str, Any], **build: Any) -> FakeCluster:
    model = builders.model(build={"task": "feature-extraction", **build})
    spec = {"models": [model], "storage": {"claimName": "minilm-store"}}
    models = builders.claim("models", uid="c1a1b2c3-0000-4000-8000-000000000002", ours=False)
    return FakeCluster(builders.bert(spec=spec), builders.claim(), models, *claims)


@pytest.mark.parametrize(
    ("build", "volume"),
    [
        (
            MINE,
            {
                "name": "samples",
                "configMap": {
                    "name": "mine",
                    "items": [{"key": "texts.txt", "path": "texts.txt"}],
                    # As with the source's Secret: without it fetch says what is missing.
                    "optional": True,
                    "defaultMode": 0o440,
                },
            },
        ),
        (FROM_CLAIM, {"name": "calibration", "persistentVolumeClaim": {"claimName": "texts", "readOnly": True}}),
    ],
)
def test_only_fetch_sees_the_users_texts_and_nobody_writes_them(build: dict[str, Any], volume: dict[str, Any]) -> None:
    world = world_of(builders.claim("texts", uid="c1a1b2c3-0000-4000-8000-000000000003", ours=False), **build)
    (job,) = world.plan(builders.settings()).create
    pod = job["spec"]["template"]["spec"]
    assert volume in pod["volumes"]
    seen = [
        (one["name"], mount["mountPath"], mount["readOnly"])
        for one in (*pod["initContainers"], *pod["containers"])
        for mount in one["volumeMounts"]
        if mount["name"] == volume["name"]
    ]
    assert seen == [("fetch", f"/texts/{volume['name']}", True)]


def test_a_claim_of_texts_that_isnt_there_is_named_before_a_pod_waits_for_it() -> None:
    plan = world_of(**FROM_CLAIM).plan(builders.settings())
    assert [one for one in plan.create if one["kind"] == "Job"] == []
    assert plan.status is not None
    said = " ".join(condition["message"] for condition in plan.status["conditions"])
    assert "spec.models[0].build.calibration.texts.claimName: PersistentVolumeClaim 'texts' doesn't exist" in said
