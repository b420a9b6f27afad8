"""What the chart renders. `make golden` writes the expected files anew; read the diff before you commit it."""

import functools
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_operator.settings import Settings
from support import helm
from support.operator_process import RULES

FOLDER = Path(__file__).parent / "chart"
CASES = sorted(path.name.removesuffix(".values.yaml") for path in FOLDER.glob("*.values.yaml"))
FORBIDDEN = {"secrets", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "pods/exec", "serviceaccounts"}


@pytest.fixture(scope="module")
def binary() -> str:
    found = helm.find()
    if found is None:
        pytest.skip("helm is neither on PATH nor built: install it, or run `python -m localcluster build-binaries`")
    return found


@functools.cache
def _template(binary: str, case: str, *more: str) -> str:
    values = str(FOLDER / f"{case}.values.yaml")
    arguments = ["template", "bert-operator", str(helm.CHART), "--namespace", "bert-system", "--values", values, *more]
    done = helm.run(binary, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _objects(text: str) -> list[dict[str, Any]]:
    # The loader in C: the CRDs are long, and the one in Python takes seconds.
    return [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found]


def _one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [obj for obj in objects if obj["kind"] == kind]
    return found


@pytest.mark.parametrize("case", CASES)
def test_renders_as_before(binary: str, case: str) -> None:
    rendered = _template(binary, case, "--set", "crds.install=false")
    expected = FOLDER / f"{case}.yaml"
    if os.environ.get("GOLDEN") == "write":
        expected.write_text(rendered, encoding="utf-8")
    assert rendered == expected.read_text(encoding="utf-8"), "if that is meant: `make golden`, and read the diff"


def test_the_operator_has_exactly_the_rights_that_the_tests_of_it_have(binary: str) -> None:
    roles = [obj for obj in _objects(_template(binary, "default")) if obj["kind"] == "ClusterRole"]
    given = [rule for role in roles for rule in role["rules"] if "aggregate" not in str(role["metadata"])]
    assert _rights((rule["apiGroups"], rule["resources"], rule["verbs"]) for rule in given) == _rights(
        ([group], resources, verbs) for group, resources, verbs in RULES if resources != ("leases",)
    )


def _rights(rules: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]]) -> set[tuple[str, str, str]]:
    return {each for rule in rules for each in itertools.product(*rule)}


@pytest.mark.parametrize("case", CASES)
def test_the_operator_can_read_its_settings(binary: str, case: str) -> None:
    text = _one(_objects(_template(binary, case)), "ConfigMap")["data"]["settings.yaml"]
    settings = Settings.model_validate(yaml.safe_load(text))
    assert settings.triton.default_release in settings.triton.releases
    if case == "everything":
        assert (settings.workers, settings.resync_seconds, settings.image_pull_policy) == (2, 60, "Always")
        assert list(settings.triton.releases) == ["26.11"]
        assert list(settings.hardware_profiles) == ["big"]
        assert settings.hardware_profiles["big"].tolerations[0].operator == "Exists"
        assert settings.build.resources.requests.cpu == "2"
        assert settings.build.hub_endpoint == "https://hub.example.com"


def test_a_change_of_settings_restarts_the_operator(binary: str) -> None:
    def pod(*more: str) -> Any:
        return _one(_objects(_template(binary, "default", "--set", "crds.install=false", *more)), "Deployment")["spec"][
            "template"
        ]

    assert pod("--set", "workers=4") != pod("--set", "workers=5")
    assert pod("--set", "podMonitor.enabled=true") == pod()


def test_brings_the_crds_and_keeps_them(binary: str) -> None:
    crds = [obj for obj in _objects(_template(binary, "default")) if obj["kind"] == "CustomResourceDefinition"]
    assert [crd["metadata"]["name"] for crd in crds] == ["bertartifacts.bertops.dev", "bertdeployments.bertops.dev"]
    for crd in crds:
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        committed = helm.CHART.parents[1] / "crds" / f"{crd['spec']['names']['plural']}.yaml"
        assert crd["spec"] == yaml.load(committed.read_text(), Loader=yaml.CSafeLoader)["spec"]


@pytest.mark.parametrize("case", CASES)
def test_grants_no_more_than_it_must(binary: str, case: str) -> None:
    roles = [obj for obj in _objects(_template(binary, case)) if obj["kind"] in ("Role", "ClusterRole")]
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not FORBIDDEN & set(rule["resources"])
    assert len(roles[0]["rules"]) <= 15


def test_namespaced_takes_no_cluster_role(binary: str) -> None:
    objects = _objects(_template(binary, "everything"))
    assert not [obj for obj in objects if obj["kind"].startswith("Cluster")]
    roles = [obj for obj in objects if obj["kind"] == "Role"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b", "bert-system"]
    container = _one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["--namespace=team-a", "--namespace=team-b"]


@pytest.mark.parametrize("case", CASES)
def test_the_lease_of_this_release_is_all_it_may_touch_beside_its_work(binary: str, case: str) -> None:
    objects = _objects(_template(binary, case))
    settings = Settings.model_validate(yaml.safe_load(_one(objects, "ConfigMap")["data"]["settings.yaml"]))
    assert settings.leader_election is not None
    lease = settings.leader_election
    (role,) = [obj for obj in objects if obj["kind"] == "Role" and obj["metadata"]["name"].endswith("-leader")]
    assert role["metadata"]["namespace"] == lease.namespace == "bert-system"
    named, create = role["rules"]
    assert (named["resourceNames"], named["verbs"]) == ([lease.name], ["get", "patch"])
    assert create["verbs"] == ["create"]


def test_standbys_change_how_it_is_rolled_out_spread_and_drained(binary: str) -> None:
    def rendered(*more: str) -> tuple[Any, list[dict[str, Any]]]:
        flags = [part for flag in ("crds.install=false", *more) for part in ("--set", flag)]
        objects = _objects(_template(binary, "default", *flags))
        budgets = [obj for obj in objects if obj["kind"] == "PodDisruptionBudget"]
        return _one(objects, "Deployment")["spec"], budgets

    two, (budget,) = rendered("replicas=2")
    assert (two["replicas"], two["strategy"]["rollingUpdate"]) == (2, {"maxSurge": 1, "maxUnavailable": 0})
    pod = two["template"]["metadata"]["labels"]
    for constraint in two["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= pod.items()
    assert budget["spec"]["selector"]["matchLabels"].items() <= pod.items()
    assert budget["spec"]["maxUnavailable"] == 1

    one, none = rendered()
    assert (one["replicas"], one["strategy"]["type"], none) == (1, "RollingUpdate", [])
    assert "topologySpreadConstraints" not in one["template"]["spec"]

    alone, none = rendered("leaderElection.enabled=false")
    # null: what a live Deployment has of RollingUpdate must go, or the API server refuses Recreate.
    assert (alone["replicas"], alone["strategy"], none) == (1, {"type": "Recreate", "rollingUpdate": None}, [])
    marker = "bertops.dev/election"
    assert [marker in spec["template"]["metadata"]["annotations"] for spec in (one, alone)] == [True, False]
    assert "coordination.k8s.io" not in _template(
        binary, "default", "--set", "crds.install=false", "--set", "leaderElection.enabled=false"
    )


def test_every_verb_has_its_reason(binary: str) -> None:
    """In the rendered role a comment stands above each rule."""
    rules = next(
        part for part in _template(binary, "default").split("rules:\n") if part.startswith("# What users ask for")
    ).split("---")[0]
    lines = [line for line in rules.splitlines() if line and not line.startswith("  ")]
    assert lines[::2] == [line for line in lines if line.startswith("# ")]
    assert len(lines) == 2 * rules.count("apiGroups")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["images.operator="], "images.operator: name the image built from operator/Dockerfile"),
        (["images.build="], "images.build: name the image built from build_jobs/pytorch.Dockerfile"),
        (["triton.defaultRelease=25.01"], 'triton.defaultRelease: "25.01" is none of triton.releases (26.08, 26.11)'),
        (["serviceAccount.create=false"], "serviceAccount.name: with serviceAccount.create false, name the Service"),
        (["image.operator=x"], "additional properties 'image' not allowed"),
        (["replicas=2", "leaderElection.enabled=false"], "replicas: 2 would undo each other's work without leaderEl"),
        (["leaderElection.leaseDuration=20s"], "additional properties 'leaseDuration' not allowed"),
        (["workers=many"], "at '/workers': got string, want integer"),
        (["imagePullPolicy=Sometimes"], "at '/imagePullPolicy': value must be one of"),
        (["hardwareProfiles.gpu.nodeselector.a=b"], "additional properties 'nodeselector' not allowed"),
        (["triton.releases.mine.image=x"], "'mine' does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused_by_name(binary: str, flags: list[str], says: str) -> None:
    values = str(FOLDER / "default.values.yaml")
    sets = [part for flag in flags for part in ("--set", flag)]
    done = helm.run(binary, "template", "bert-operator", str(helm.CHART), "--values", values, *sets)
    assert done.returncode == 1
    assert says in done.stderr


def test_lint_finds_nothing(binary: str) -> None:
    done = helm.run(binary, "lint", str(helm.CHART), "--strict", "--values", str(FOLDER / "default.values.yaml"))
    assert done.returncode == 0, done.stdout
    assert not re.search(r"\[(WARNING|ERROR)\]", done.stdout)


def test_local_values_fit(binary: str) -> None:
    rendered = _template(binary, "default", "--values", str(helm.CHART / "ci" / "values-local.yaml"))
    settings = yaml.safe_load(_one(_objects(rendered), "ConfigMap")["data"]["settings.yaml"])
    assert settings["triton"]["defaultRelease"] == "24.10-cpu"
