"""Builds what tests/torchserve serves: archives, their source models' answers, the operator's container for them.

Runs in the build image: TorchServe's own image has neither the operator's packages nor transformers.

`python -m support.torchserve_artifacts` writes one tar archive to standard output; everything else goes to stderr.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import transformers

from bert_build import source_model
from bert_operator.api import artifact, spec
from bert_operator.api.report import BuildReport, ServedModel, ServedModels
from bert_operator.api.spec import Task
from bert_operator.servers import SERVERS, torchserve_sizing
from bert_operator.servers.base import ServedVersion
from build.test_mar import LABELS, LENGTH, with_tokenizer
from build.test_steps import make_model
from support import builders
from support.build_bench import Bench

CLASSIFIER: Final = "sequence-classification"
MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "first": (CLASSIFIER, {"id2label": LABELS}),
    "second": (CLASSIFIER, {"id2label": LABELS, "hidden_act": "relu"}),
    "tokens": ("feature-extraction", {}),
}
"""Folder -> task and what is special."""
_SOURCE: Final = {"pvc": {"claimName": "models"}}
_BUILD: Final = {"maxSequenceLength": LENGTH, "sequenceBuckets": [8, LENGTH]}
WISH: Final[dict[str, Any]] = {
    "server": {"type": "torchserve"},
    "storage": {"size": "1Gi"},
    "models": [
        {
            "name": "sentiment",
            "build": _BUILD | {"task": CLASSIFIER},
            "serving": {"maxBatchSize": 4, "batching": {"maxQueueDelayMicroseconds": 50_000}},
            "defaultVersion": 1,
            "versions": [{"version": 1, "source": _SOURCE}, {"version": 2, "source": _SOURCE}],
        },
        {
            "name": "embedder",
            "build": _BUILD | {"task": "feature-extraction"},
            "serving": {"maxBatchSize": 4, "instances": 2, "batching": {"enabled": False}},
            "versions": [{"version": 7, "source": _SOURCE}],
        },
    ],
}
CLASSIFIER_WISH: Final = WISH | {"models": WISH["models"][:1]}
"""For a server that is started to fail: no worker more than that takes."""
FOLDERS: Final = {("sentiment", 1): "first", ("sentiment", 2): "second", ("embedder", 7): "tokens"}
"""Model and version -> folder."""
TENSORS: Final[list[dict[str, Any]]] = [
    {"input_ids": [[5, 99, 17]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 1]]},
    {
        "input_ids": [[7, 8, 9, 0], [4, 3, 2, 1]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "token_type_ids": [[0, 0, 0, 0], [0, 1, 1, 1]],
    },
    {name: [[value] * LENGTH] for name, value in (("input_ids", 42), ("attention_mask", 1), ("token_type_ids", 0))},
]
TEXTS: Final = (
    {"text": "The film was good."},
    {"text": "Über Hund und Fox", "text_pair": "bad"},
    {"text": "bad " * 100},
    {"text": ""},
)


def main() -> None:
    """Build everything and write the tar archive."""
    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(fileobj=out, mode="w") as tar:
        folder = Path(scratch)
        # What steps say goes to standard output, which is the archive's here.
        with contextlib.redirect_stdout(sys.stderr):
            for name, (task, change) in MODELS.items():
                _build(Bench(folder / f"bench-{name}"), folder / "out" / name, task, change)
        for name, wish in (("scene", WISH), ("classifier", CLASSIFIER_WISH)):
            (folder / "out" / f"{name}.json").write_text(json.dumps(_scene(folder / "out", wish)))
        tar.add(folder / "out", arcname=".")
    sys.stdout.buffer.write(out.getvalue())


def _build(bench: Bench, target: Path, task: str, change: dict[str, Any]) -> None:
    os.environ["BERTOPS_TERMINATION_LOG"] = str(bench.termination)
    with_tokenizer(make_model(bench.source, head=task == CLASSIFIER, **change))
    report, folder = bench.build(task=task, format="mar", maxSequenceLength=LENGTH)
    shutil.copytree(folder, target / "artifact")
    (target / "report.json").write_text(report.model_dump_json(by_alias=True))
    tokenizer = transformers.AutoTokenizer.from_pretrained(bench.source)
    encoded = [tokenizer(*text.values(), truncation=True, max_length=LENGTH) for text in TEXTS]
    asked = [*TENSORS, *({name: [one[name]] for name in TENSORS[0]} for one in encoded)]
    model = source_model.load(bench.source, Task(task))
    told = []
    for request, tensors in zip([*TENSORS, *TEXTS], asked, strict=True):
        arrays = {name: np.array(values, dtype=np.int64) for name, values in tensors.items()}
        answer = {name: values.tolist() for name, values in model.answer(arrays).items()}
        told.append({"request": request, "answer": answer})
    (target / "references.json").write_text(json.dumps(told))


def _scene(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The container of a deployment, as the operator would make it."""
    wish = spec.BertDeploymentSpec.model_validate(asked)
    wanted = [(model, one.version) for model in wish.models for one in model.versions]
    served = [_served(folder / FOLDERS[model.name, version], model, version) for model, version in wanted]
    release = {"defaultRelease": "0.12.0", "releases": {"0.12.0": {"image": "torchserve"}}}
    made = SERVERS[wish.server.type].container(served, wish, builders.settings(torchserve=release))
    models = [
        ServedModel(
            name=mount.name,
            version=mount.served.version,
            path=mount.path,
            artifact=mount.served.artifact_name,
            manifest_sha256=mount.served.artifact.report.manifest_sha256,
            max_batch_size=mount.served.model.serving.max_batch_size,
        )
        for mount in made.mounts
    ]
    return {
        "command": [*made.command, *made.args],
        "env": dict(made.env),
        "files": {path: file.text for path, file in made.files.items()},
        "folders": {mount.path: FOLDERS[mount.served.model.name, mount.served.version] for mount in made.mounts},
        "probe": list(made.readiness_probe["exec"]["command"]),
        "memory": torchserve_sizing.memory_bytes(served),
        "told": ServedModels(server="torchserve", owner="team/x", models=models).model_dump_json(by_alias=True),
    }


def _served(folder: Path, model: spec.BertModel, version: int) -> ServedVersion:
    report = BuildReport.model_validate_json((folder / "report.json").read_text())
    known = artifact.BertArtifactSpec(
        claim_name="c", claim_uid="u", path=f"artifacts/{folder.name}", request_keys=["ab"], report=report
    )
    return ServedVersion(model=model, version=version, artifact_name=f"mar-{folder.name}-0", artifact=known)


if __name__ == "__main__":
    main()
