"""A model from a bucket, from the hub, and what it became, as the source of another BertDeployment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.provider import address_towards
from e2e import berts, ground
from stages.__main__ import cache
from support import hub_server, s3_server
from support.installation import wait_ready
from support.kube import Kube

SECRET = "bucket"  # noqa: S105 - its name
FIRST, SECOND = "from-a-bucket", "from-the-store"


@pytest.fixture(scope="module")
def bucket(kube: Kube, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A real S3 service that pods reach, with the real model in the bucket `models`."""
    program = s3_server.built(cache()) / s3_server.PROGRAM
    with s3_server.running(program, tmp_path_factory.mktemp("s3"), address_towards(kube)) as found:
        found.make_bucket("models")
        for path in model.rglob("*"):
            if path.is_file():
                found.put("models", f"minilm/{path.relative_to(model)}", path.read_bytes())
        yield found


@pytest.fixture(scope="module")
def refused(kube: Kube, store: str, bucket: s3_server.S3Server) -> dict[str, Any]:
    """What is said while the Secret isn't there yet."""
    source = {
        "uri": "s3://models/minilm",
        "endpoint": bucket.url,
        "region": s3_server.REGION,
        "credentialsSecretRef": {"name": SECRET},
    }
    kube.apply(berts.with_source(FIRST, {"s3": source}, claim=store))
    return berts.verdict(kube, FIRST, "SourceResolved", "False", seconds=120)


@pytest.fixture(scope="module")
def served(kube: Kube, refused: dict[str, Any]) -> dict[str, Any]:
    """The model from the bucket, Ready."""
    assert refused
    keys = {"AWS_ACCESS_KEY_ID": s3_server.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": s3_server.SECRET_KEY}
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys})
    kube.kubectl("annotate", "bertd", FIRST, "bertops.dev/refresh=1")
    return wait_ready(kube, FIRST, seconds=300)


def test_a_missing_secret_is_named_with_the_command_that_makes_it(kube: Kube, refused: dict[str, Any]) -> None:
    assert refused["reason"] == "SecretNotFound"
    assert f"Secret {SECRET!r} of source.s3.credentialsSecretRef doesn't exist" in refused["message"]
    assert f"kubectl create secret generic {SECRET} -n {kube.namespace}" in refused["message"]


def test_the_bucket_is_named_by_what_its_files_hold(kube: Kube, served: dict[str, Any]) -> None:
    (version,) = served["status"]["models"][0]["versions"]
    assert version["revision"].startswith("sha256:")
    (record,) = kube.list("bertartifacts")
    assert version["artifact"] == record["metadata"]["name"]
    assert record["spec"]["report"]["reused"], "the same files make the same artifact, wherever they come from"


def test_the_keys_are_nowhere_but_in_the_secret(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    kinds = "bertdeployments,bertartifacts,jobs,pods,deployments,configmaps,events"
    assert s3_server.SECRET_KEY not in kube.kubectl("get", kinds, "-o", "yaml")


def test_a_branch_of_the_hub_is_resolved_to_its_commit(kube: Kube, store: str, served: dict[str, Any]) -> None:
    assert served
    source = {"huggingFace": {"repo": ground.REPOSITORY, "revision": "main"}}
    kube.apply(berts.with_source("from-the-hub", source, claim=store))
    berts.verdict(kube, "from-the-hub", "Built", "True", seconds=200)
    live = kube.get("bertdeployment", "from-the-hub")
    assert live is not None
    (version,) = live["status"]["models"][0]["versions"]
    assert version["revision"] == hub_server.COMMIT
    assert version["artifact"] == served["status"]["models"][0]["versions"][0]["artifact"]


def test_what_is_published_is_served_without_a_build(kube: Kube, store: str, served: dict[str, Any]) -> None:
    assert served
    (artifact,) = kube.list("bertartifacts")
    source = {"artifact": {"name": artifact["metadata"]["name"]}}
    kube.apply(berts.with_source(SECOND, source, claim=store))
    live = wait_ready(kube, SECOND, seconds=120)
    assert live["status"]["models"][0]["versions"][0]["artifact"] == artifact["metadata"]["name"]
    assert kube.list("jobs") == []


def test_an_artifact_of_another_task_is_refused_by_name(kube: Kube, store: str, served: dict[str, Any]) -> None:
    assert served
    (artifact,) = kube.list("bertartifacts")
    source = {"artifact": {"name": artifact["metadata"]["name"]}}
    kube.apply(berts.with_source("mistaken", source, claim=store, task="sequence-classification"))
    found = berts.verdict(kube, "mistaken", "SourceResolved", "False", seconds=30)
    assert found["reason"] == "SourceMismatch"
    assert "write build.task: feature-extraction" in found["message"]
