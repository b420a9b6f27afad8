"""The extension point: a server's file and its line in the registry are all it takes to be planned."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from bert_operator.api import spec
from bert_operator.api.report import ServedModels
from bert_operator.api.spec import ServerType
from bert_operator.objects import claim, drift, identity
from bert_operator.servers import SERVERS
from bert_operator.servers.base import ConfigFile, Mount, Ports, ServedVersion, ServerContainer, Volume
from bert_operator.settings import HardwareProfile, Settings
from support import builders
from support.fake_cluster import FakeCluster

PROBE = {"httpGet": {"path": "/up", "port": "http"}}


class Parrot:
    """A server that nobody has heard of."""

    ports = Ports(http=1234, grpc=1235, metrics=1234, metrics_path="/figures")

    def formats(self, profile: HardwareProfile) -> Sequence[spec.Format]:
        del profile
        return (spec.Format.ONNX,)

    def unsupported(self, wish: spec.BertDeploymentSpec, settings: Settings) -> list[str]:
        del settings
        return ["spec.replicas is 7: parrots don't flock"] if wish.replicas == 7 else []

    def container(
        self, served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, settings: Settings
    ) -> ServerContainer:
        del wish, settings
        return ServerContainer(
            mounts=[Mount(served=one, name=f"{one.model.name}!", path=f"/cage/{one.version}") for one in served],
            files={"/cage/seeds.conf": ConfigFile(key="seeds.conf", text="seeds = 3\n")},
            image="registry.example/parrot:1",
            command=("/bin/parrot",),
            args=("--talk",),
            env={"COLOUR": "green"},
            startup_probe=PROBE,
            readiness_probe=PROBE,
            liveness_probe=PROBE,
            lifecycle={},
            resources={"limits": {"memory": "1Mi"}},
            termination_grace_seconds=3,
            run_as_user=1000,
            volumes=(Volume(name="perch", mount_path="/perch", source={"emptyDir": {}}),),
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A BertDeployment of such a server. In the API it would be one more word of `server.type`; here it takes one."""
    monkeypatch.setitem(SERVERS, ServerType.TORCHSERVE, Parrot())  # type: ignore[arg-type]  # a Mapping for all others
    bert = builders.bert(spec={"server": {"type": "torchserve"}})
    models = builders.claim("models", uid="c1a1b2c3-0000-4000-8000-000000000002", ours=False)
    found = FakeCluster(bert, models)
    found.put(drift.stamped(claim.manifest(identity.Identity.of(bert), spec.Storage(size="2Gi"))))
    return found


def only(world: FakeCluster, kind: str) -> dict[str, Any]:
    (found,) = world.all(kind)
    return dict(found)


def test_its_file_and_its_line_make_every_object(world: FakeCluster) -> None:
    list(world.settle(builders.settings()))

    config, deployment, service = (only(world, kind) for kind in ("ConfigMap", "Deployment", "Service"))
    pod = deployment["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert config["data"] == {"seeds.conf": "seeds = 3\n"}
    assert (server["command"], server["args"], server["image"]) == (
        ["/bin/parrot"],
        ["--talk"],
        "registry.example/parrot:1",
    )
    assert mounts["/cage/1"]["subPath"] == "artifacts/onnx-" + "5" * 32
    assert mounts["/cage/seeds.conf"]["subPath"] == "seeds.conf"
    assert mounts["/perch"] == {"name": "perch", "mountPath": "/perch"}
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("http", 1234), ("grpc", 1235)]
    assert world.bert()["status"]["endpoint"]["metrics"] == "http://minilm.team.svc:1234/figures"


def test_verify_is_told_its_names(world: FakeCluster) -> None:
    list(world.settle(builders.settings()))

    guards = only(world, "Deployment")["spec"]["template"]["spec"]["initContainers"]

    for guard in guards:
        told = ServedModels.model_validate(json.loads(guard["env"][0]["value"]))
        assert [(model.name, model.path) for model in told.models] == [("minilm!", "/cage/1")]


def test_what_it_cannot_do_is_told_before_anything_is_built(world: FakeCluster) -> None:
    world.bert()["spec"]["replicas"] = 7

    plan = world.plan(builders.settings())

    assert plan.status is not None
    accepted = next(found for found in plan.status["conditions"] if found["type"] == "Accepted")
    assert (accepted["status"], "parrots don't flock" in accepted["message"]) == ("False", True)
    assert plan.create == ()
