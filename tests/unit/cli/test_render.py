"""`bertctl render` shows what the operator would really ask for, before anything is installed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_operator.api import names
from bert_operator.api.actions import Plan
from bert_operator.cli import assumed, imagined
from bert_operator.servers import SERVERS
from bert_operator.settings import Settings
from support import builders, spec_corpus
from support.command_line import bertctl
from support.fake_cluster import FakeCluster

ROOT = Path(__file__).parents[3]
MINILM = ROOT / "crds/samples/minilm-triton.yaml"


def rendered(*arguments: str | Path) -> dict[str, dict[str, Any]]:
    """Manifests by kind; one of each."""
    ran = bertctl("render", *arguments)
    assert ran.code == 0, ran.err
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(ran.out) if manifest}


def settings_file(folder: Path) -> Path:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(builders.settings().model_dump(mode="json", by_alias=True)))
    return file


def test_it_prints_what_the_reconcile_loop_would_ask_for(tmp_path: Path) -> None:
    """The same plan on a world in which everything really happens, one object after the other."""
    world = FakeCluster(builders.bert(), builders.claim("models", uid="models", ours=False))
    asked: dict[str, Any] = {}
    for plan in world.settle(builders.settings()):
        for manifest in (*plan.apply, *plan.create):
            asked[manifest["kind"]] = manifest
    store = world.objects["PersistentVolumeClaim", "minilm-store"]["metadata"]["uid"]
    record = asked[names.ARTIFACT_KIND]
    assert record["spec"]["claimUid"] == store
    # The sources' claims are known by name only, which no manifest shows.
    bert, known = tmp_path / "bert.yaml", tmp_path / "known.yaml"
    bert.write_text(yaml.safe_dump(builders.bert()))
    known.write_text(yaml.safe_dump({"kind": "List", "items": [record]}))
    made = rendered(bert, "--settings", settings_file(tmp_path), "--artifact", known)
    for kind, manifest in asked.items():
        manifest["metadata"].pop("uid", None)
        assert made[kind] == manifest, kind
    assert made.keys() == asked.keys()


def test_a_sample_needs_nothing_but_its_file() -> None:
    made = rendered(MINILM)
    assert list(made) == [
        *("PersistentVolumeClaim", "Job", names.ARTIFACT_KIND, "ConfigMap", "Deployment", "Service"),
        "PodDisruptionBudget",
    ]
    assert {manifest["metadata"]["namespace"] for manifest in made.values()} == {"default"}
    mounts = made["Deployment"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert any(mount.get("subPath") == "artifacts/onnx-placeholder-minilm-1" for mount in mounts)
    steps = made["Job"]["spec"]["template"]["spec"]["initContainers"]
    assert {step["image"] for step in steps} == {"registry.invalid/build:from-settings"}


def test_what_is_assumed_is_said() -> None:
    ran = bertctl("render", MINILM, "-n", "team")
    assert "namespace team: what the operator would make. No cluster was asked." in ran.out
    assert "# PLACEHOLDER: minilm/1 has not been built" in ran.out
    assert "no --settings: image references registry.invalid/" in ran.err


def test_a_real_record_replaces_the_placeholder_even_from_another_cluster(tmp_path: Path) -> None:
    report = builders.report(size_bytes=123_456_789)
    spec = {
        "claimName": "elsewhere",
        "claimUid": "other",
        "path": "artifacts/onnx-5",
        "requestKeys": ["ab"],
        "report": report.model_dump(mode="json", by_alias=True),
    }
    known = tmp_path / "known.yaml"
    known.write_text(yaml.safe_dump({"kind": names.ARTIFACT_KIND, "metadata": {"name": "x"}, "spec": spec}))
    ran = bertctl("render", MINILM, "--artifact", known)
    assert "PLACEHOLDER" not in ran.out
    assert "sizeBytes: 123456789" in ran.out
    assert f"subPath: artifacts/onnx-{report.artifact_key}" in ran.out


def test_two_models_get_a_job_and_a_record_each(tmp_path: Path) -> None:
    resource = spec_corpus.good()
    resource["spec"]["models"] = [
        spec_corpus.model("one"),
        spec_corpus.model("two") | {"build": {"task": "sequence-classification"}},
    ]
    file = tmp_path / "bert.yaml"
    file.write_text(yaml.safe_dump(resource))
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(bertctl("render", file).out) if manifest]
    assert (kinds.count("Job"), kinds.count(names.ARTIFACT_KIND), kinds.count("Deployment")) == (2, 2, 1)


@pytest.mark.parametrize("server", sorted(kind.value for kind in SERVERS))
def test_every_server_can_be_reviewed(tmp_path: Path, server: str) -> None:
    resource = spec_corpus.good()
    resource["spec"]["server"]["type"] = server
    resource["spec"]["models"][0]["build"]["task"] = "sequence-classification"
    file = tmp_path / "bert.yaml"
    file.write_text(yaml.safe_dump(resource))
    made = rendered(file)
    assert {"Job", "ConfigMap", "Deployment", "Service"} <= made.keys()


@pytest.mark.parametrize("name", spec_corpus.GOOD)
def test_whatever_the_api_server_takes_can_be_reviewed(name: str) -> None:
    resource = spec_corpus.good_resource(name)
    world = imagined.Imagined(bert=imagined.live(resource, "team"), settings=assumed.settings(None))
    world.play()
    # A published artifact is known by its record, which isn't given here.
    expected = {"Service"} if name == "published-artifact" else {"Job", "Deployment", "Service"}
    assert expected <= {kind for kind, _ in world.made}


def test_a_faulty_file_and_a_refused_one_render_nothing(tmp_path: Path) -> None:
    resource = spec_corpus.good()
    spec_corpus.put("spec.replica", 1)(resource)
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(resource))
    ran = bertctl("render", tmp_path / "typo.yaml")
    assert (ran.code, ran.out) == (1, "")
    assert "did you mean 'replicas'?" in ran.err
    resource = spec_corpus.good()
    spec_corpus.put("spec.hardware", {"profile": "a100"})(resource)
    (tmp_path / "gpu.yaml").write_text(yaml.safe_dump(resource))
    ran = bertctl("render", tmp_path / "gpu.yaml")
    assert (ran.code, ran.out) == (1, "")
    assert "isn't among this installation's profiles" in ran.err


def test_something_else_than_a_record_is_refused_by_name(tmp_path: Path) -> None:
    ran = bertctl("render", MINILM, "--artifact", MINILM)
    assert ran.code == 1
    assert "holds no BertArtifact: give the output of `kubectl get bertartifact -o yaml`" in ran.err
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"kind": names.ARTIFACT_KIND, "spec": {"claimName": "x"}}))
    assert "spec.claimUid: Field required" in bertctl("render", MINILM, "--artifact", tmp_path / "a.yaml").err


def test_what_is_assumed_without_settings_is_what_the_chart_has() -> None:
    values = yaml.safe_load((ROOT / "charts/bert-operator/values.yaml").read_text())
    ours = assumed.settings(None)
    release = ours.triton.releases[ours.triton.default_release]
    assert values["triton"]["defaultRelease"] == ours.triton.default_release
    assert values["triton"]["releases"][ours.triton.default_release]["image"] == release.image
    assert ours.tfserving is not None
    assert values["tfserving"]["releases"] == {
        name: each.model_dump(exclude_unset=True) for name, each in ours.tfserving.releases.items()
    }
    assert values["build"]["resources"] == ours.build.resources.model_dump(exclude_none=True)
    assert isinstance(ours, Settings)


def test_a_world_that_never_rests_is_a_defect_and_no_endless_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(1000))
    flapping = lambda *_: Plan(  # noqa: E731
        apply=({"kind": "Service", "metadata": {"name": "a"}, "spec": next(count)},), status={"conditions": []}
    )
    monkeypatch.setattr(imagined, "make_plan", flapping)
    world = imagined.Imagined(bert=imagined.live(spec_corpus.good(), "team"), settings=builders.settings())
    with pytest.raises(imagined.FailureError, match="doesn't come to rest"):
        world.play()


def test_a_published_artifact_as_the_source_is_taken_from_its_record(tmp_path: Path) -> None:
    world = FakeCluster(builders.bert(), builders.claim("models", uid="models", ours=False))
    list(world.settle(builders.settings()))
    (record,) = world.all(names.ARTIFACT_KIND)
    source = {"artifact": {"name": record["metadata"]["name"]}}
    model = builders.model(versions=[{"version": 1, "source": source}])
    bert, known = tmp_path / "bert.yaml", tmp_path / "known.yaml"
    bert.write_text(yaml.safe_dump(builders.bert(spec={"models": [model], "storage": {"claimName": "minilm-store"}})))
    known.write_text(yaml.safe_dump(record))
    made = rendered(bert, "--settings", settings_file(tmp_path), "--artifact", known)
    assert list(made) == ["ConfigMap", "Deployment", "Service", "PodDisruptionBudget"]
    ran = bertctl("render", bert, "--settings", settings_file(tmp_path))
    assert "# INCOMPLETE: minilm/1: source.artifact names" in ran.out
    assert "--artifact FILE takes a record" in ran.out
