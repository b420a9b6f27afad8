"""`bertctl validate` says what the API server and the operator would, and how to mend it."""

from pathlib import Path

import pytest
import yaml

from bert_operator.cli import faults
from support import builders, spec_corpus
from support.command_line import bertctl

SAMPLES = sorted((Path(__file__).parents[3] / "crds/samples").glob("*.yaml"))


def written(folder: Path, *resources: object, name: str = "bert.yaml") -> Path:
    file = folder / name
    file.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
    return file


@pytest.mark.parametrize("bad", spec_corpus.BAD, ids=lambda bad: bad.id)
def test_refuses_whatever_the_api_server_refuses(bad: spec_corpus.Bad) -> None:
    assert faults.of_resource(bad.resource())


@pytest.mark.parametrize("name", spec_corpus.GOOD)
def test_takes_whatever_the_api_server_takes(name: str) -> None:
    assert faults.of_resource(spec_corpus.good_resource(name)) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_samples_are_good(sample: Path) -> None:
    ran = bertctl("validate", sample)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("ok\n")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("spec.replica", 2, "spec.replica: unknown field; did you mean 'replicas'?; fields here: replicas, "),
        ("spec.models.0.build.max_sequence_length", 64, "did you mean 'maxSequenceLength'?"),
        ("spec.models.0.build.instances", 2, "unknown field; it belongs at spec.models.serving.instances"),
        ("spec.server.type", "tritn", "spec.server.type: found \"tritn\"; write 'triton', "),
        ("spec.server.type", "tritn", "did you mean 'triton'?"),
        ("spec.replicas", "3", 'spec.replicas: found "3"; write a whole number, without quotes'),
        ("spec.replicas", -1, "spec.replicas: found -1; write 0 or more"),
        ("spec.storage.size", 5, "spec.storage.size: found 5; write text, in quotes if it looks like a number"),
        ("spec.storage", {}, "spec.storage: storage needs exactly one of claimName"),
        ("spec.models", [], "spec.models: found 0 entries; write 1 or more"),
        ("spec.models.0.name", None, "spec.models[0].name: is missing; Name of the model as clients call it"),
        ("spec.server.podTemplate.labels", {"a b": "c"}, 'spec.server.podTemplate.labels.a b: found "a b"'),
        ("metadata.name", "a" * 41, "choose a shorter name"),
        ("metadata.name", "7b", 'metadata.name: found "7b"; metadata.name becomes the name of a Service'),
        ("metadata", None, "metadata.name: is missing; every BertDeployment needs a name"),
        ("specs", {}, "specs: unknown field; did you mean 'spec'?"),
        ("apiVersion", "bertops.dev/v1", 'apiVersion: found "bertops.dev/v1"; write bertops.dev/v1alpha1'),
        ("kind", "bertdeployment", 'kind: found "bertdeployment"; write BertDeployment'),
    ],
)
def test_a_fault_says_where_what_was_found_and_what_to_write(
    tmp_path: Path, field: str, value: object, says: str
) -> None:
    resource = spec_corpus.good()
    spec_corpus.put(field, value)(resource)
    ran = bertctl("validate", written(tmp_path, resource))
    assert ran.code == 1
    assert says in ran.out


def test_every_fault_of_every_file_is_told_with_its_place(tmp_path: Path) -> None:
    typo, bad_size = spec_corpus.good(), spec_corpus.good()
    typo["spec"]["replica"] = 2
    bad_size["spec"]["storage"]["size"] = "5GB"
    bad_size["spec"]["models"][0]["build"]["task"] = "translation"
    first = written(tmp_path, spec_corpus.good(), typo, name="first.yaml")
    second = written(tmp_path, bad_size, name="second.yaml")
    lines = bertctl("validate", first, tmp_path / "missing.yaml", second).out.splitlines()
    assert [line.split(": BertDeployment minilm: ")[0] for line in lines] == [
        f"{first}: document 1",
        f"{first}: document 2",
        f"{tmp_path}/missing.yaml: can't be read: No such file or directory",
        f"{second}: document 1",
        f"{second}: document 1",
    ]
    assert lines[0].endswith("ok")


def test_other_kinds_are_skipped_with_a_note_and_lists_are_taken_apart(tmp_path: Path) -> None:
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    listing = {"apiVersion": "v1", "kind": "List", "items": [spec_corpus.good(), other]}
    ran = bertctl("validate", "-", stdin=yaml.safe_dump(listing))
    assert ran.code == 0
    assert ran.out == "standard input: document 1: BertDeployment minilm: ok\n"
    assert ran.err == "standard input: document 1: ConfigMap x: skipped, only BertDeployments are checked\n"
    assert "holds no BertDeployment" in bertctl("validate", written(tmp_path, other)).err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "isn't YAML: line 1, column 6"),
        ("kind: BertDeployment\nspec:\n  replicas: 1\n  replicas: 2\n", "line 4, column 3: the key 'replicas' is"),
        ("just words", ""),
    ],
)
def test_what_is_no_yaml_of_ours_is_told_by_line(text: str, says: str) -> None:
    ran = bertctl("validate", "-", stdin=text)
    assert "Traceback" not in ran.out + ran.err
    assert says in ran.out


def test_a_date_is_text_as_kubectl_reads_it() -> None:
    resource = spec_corpus.good()
    spec_corpus.put(spec_corpus.SOURCE, {"huggingFace": {"repo": "bert", "revision": "DATE"}})(resource)
    text = yaml.safe_dump(resource).replace("DATE", "2024-01-31")
    assert bertctl("validate", "-", stdin=text).code == 0


def settings_file(folder: Path, *, as_config_map: bool) -> Path:
    plain = builders.settings().model_dump(mode="json", by_alias=True)
    data = {"settings.yaml": yaml.safe_dump(plain)}
    return written(folder, {"kind": "ConfigMap", "data": data} if as_config_map else plain, name="settings.yaml")


@pytest.mark.parametrize("form", ["plain", "ConfigMap"])
def test_settings_tell_what_an_installation_cannot_do(tmp_path: Path, form: str) -> None:
    settings = settings_file(tmp_path, as_config_map=form == "ConfigMap")
    resource = spec_corpus.good()
    assert bertctl("validate", "--settings", settings, written(tmp_path, resource)).code == 0
    spec_corpus.put("spec.hardware", {"profile": "a100"})(resource)
    ran = bertctl("validate", "--settings", settings, written(tmp_path, resource))
    assert ran.code == 1
    assert "'a100' isn't among this installation's profiles; write one of cpu" in ran.out
    assert bertctl("validate", written(tmp_path, resource)).code == 0  # nothing but settings can tell


def test_wrong_settings_are_named_and_nothing_is_checked(tmp_path: Path) -> None:
    ran = bertctl("validate", "--settings", written(tmp_path, {"images": {}}), "-", stdin="")
    assert ran.code == 1
    assert ran.err.startswith("error: --settings ")
    assert "images.operator: Field required" in ran.err


def test_no_file_is_wrong_usage() -> None:
    assert bertctl("validate").code == 2
