"""TF Serving's files and command line, as a person can read them. tests/tfserving gives the same to real parts."""

import json
import os
from pathlib import Path

from bert_operator.api import artifact, spec
from bert_operator.api.spec import ServerType
from bert_operator.servers import SERVERS, tfserving_config
from bert_operator.servers.base import ServedVersion
from support import builders, tfserving

HERE = Path(__file__).parent / "tfserving"
HOSTILE = 'x" } } model_config_list { config { name: "y\n{{ 7 * 7 }} ü \\'


def rendered() -> dict[str, str]:
    versions = [tfserving.version(1, "production"), tfserving.version(2, "canary", "test")]
    models = [tfserving.model("sentiment", 1, 2, versions=versions), tfserving.model("toxic", 7)]
    wish = spec.BertDeploymentSpec.model_validate(
        {"server": {"type": "tfserving"}, "storage": {"size": "1Gi"}, "models": models}
    )
    container = SERVERS[ServerType.TFSERVING].container(list(_served(wish)), wish, tfserving.settings())
    hostile = tfserving_config.ServedModel(name=HOSTILE, base_path="/models/x", versions=[1], labels=[(HOSTILE, 1)])
    files = {file.key: file.text for file in container.files.values()}
    arguments = json.dumps([*container.command, *container.args], indent=1) + "\n"
    return files | {"arguments.json": arguments, "hostile.config": tfserving_config.models([hostile])}


def _served(wish: spec.BertDeploymentSpec) -> list[ServedVersion]:
    known = artifact.BertArtifactSpec(
        claim_name="c", claim_uid="u", path="p", request_keys=["ab"], report=builders.report(**tfserving.LOGITS)
    )
    return [
        ServedVersion(model=model, version=version.version, artifact_name="savedmodel-x", artifact=known)
        for model in wish.models
        for version in model.versions
    ]


def test_it_becomes_what_the_golden_files_say() -> None:
    actual = rendered()
    if os.environ.get("GOLDEN") == "write":
        HERE.mkdir(exist_ok=True)
        for name, text in actual.items():
            (HERE / name).write_text(text, encoding="utf-8")
    assert {path.name: path.read_text(encoding="utf-8") for path in HERE.iterdir()} == actual
