"""What the models refuse and fill in: the same good and bad specs as a real API server gets in tests/cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from bert_operator.api.spec import BertDeploymentSpec
from support import spec_corpus

SAMPLES = sorted((Path(__file__).parents[3] / "crds/samples").glob("*.yaml"))
NULLS_ARE_DROPPED_BY_THE_API_SERVER = "nulls-mean-unset"


@pytest.mark.parametrize("bad", [bad for bad in spec_corpus.BAD if bad.parsed], ids=lambda bad: bad.id)
def test_refuses(bad: spec_corpus.Bad) -> None:
    with pytest.raises(ValidationError):
        BertDeploymentSpec.model_validate(bad.resource()["spec"])


@pytest.mark.parametrize("name", [name for name in spec_corpus.GOOD if name != NULLS_ARE_DROPPED_BY_THE_API_SERVER])
def test_accepts(name: str) -> None:
    spec = BertDeploymentSpec.model_validate(spec_corpus.good_resource(name)["spec"])
    written = spec.model_dump(mode="json", by_alias=True)
    assert BertDeploymentSpec.model_validate(written) == spec


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_accepts_each_sample(sample: Path) -> None:
    for resource in yaml.safe_load_all(sample.read_text(encoding="utf-8")):
        assert (resource["apiVersion"], resource["kind"]) == ("bertops.dev/v1alpha1", "BertDeployment")
        assert BertDeploymentSpec.model_validate(resource["spec"]).models


def test_there_is_a_sample_for_each_task() -> None:
    specs = [yaml.safe_load(sample.read_text(encoding="utf-8"))["spec"] for sample in SAMPLES]
    tasks = {model["build"]["task"] for spec in specs for model in spec["models"]}
    assert tasks == {"feature-extraction", "sequence-classification"}


def test_a_rule_tells_in_python_what_it_tells_in_the_cluster() -> None:
    resource = spec_corpus.good()
    resource["spec"]["storage"] = {}
    with pytest.raises(ValidationError, match=r"storage needs exactly one of claimName .* e.g. `storage: {size: 5Gi}`"):
        BertDeploymentSpec.model_validate(resource["spec"])


@pytest.mark.parametrize(("written", "read"), [(2, "2"), ("500m", "500m")])
def test_a_cpu_number_is_read_as_its_text(written: Any, read: str) -> None:
    resource = spec_corpus.good()
    resource["spec"]["server"]["resources"] = {"limits": {"cpu": written}}
    assert BertDeploymentSpec.model_validate(resource["spec"]).server.resources.limits.cpu == read


def test_a_size_below_the_unit_of_a_disk_is_refused_whatever_its_unit() -> None:
    resource = spec_corpus.good()
    for size in ("1", "1048575", "1023Ki", "1000k", "500m"):
        resource["spec"]["storage"] = {"size": size}
        with pytest.raises(ValidationError, match="write a number with a unit"):
            BertDeploymentSpec.model_validate(resource["spec"])
    for size in ("1Mi", "1048576", "1024Ki", "1.5M", "0.5Gi", "1Ti"):
        resource["spec"]["storage"] = {"size": size}
        assert BertDeploymentSpec.model_validate(resource["spec"]).storage.size == size
