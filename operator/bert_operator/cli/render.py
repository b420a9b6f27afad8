"""`bertctl render`: every manifest the operator would make of a file, for review, without a cluster."""

import argparse
from collections.abc import Iterator
from typing import Any, Final

import yaml
from pydantic import ValidationError

from bert_operator.api import names
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.cli import assumed, documents, faults, imagined
from bert_operator.cli.documents import Document
from bert_operator.cli.terminal import Exit, FailureError, note, out
from bert_operator.settings import Settings

_ORDER: Final = ("PersistentVolumeClaim", "Job", names.ARTIFACT_KIND, "ConfigMap", "Deployment", "Service")
_WHAT: Final = {
    "PersistentVolumeClaim": "holds the artifacts",
    "Job": "builds or measures an artifact",
    names.ARTIFACT_KIND: "what the Job reports, as the operator records it",
    "ConfigMap": "the server's generated configuration",
    "Deployment": "the serving pods",
    "Service": "where clients send requests",
    "HorizontalPodAutoscaler": "scales the serving pods",
    "PodDisruptionBudget": "keeps drains from taking all serving pods at once",
    "NetworkPolicy": "says who may reach the serving pods",
}


def run(options: argparse.Namespace) -> Exit:
    """Print the manifests; faults go to standard error."""
    settings = assumed.settings(options.settings)
    known = _known(options.artifact)
    ours = [document for document in documents.read(options.file) if documents.is_bert(document)]
    if not ours:
        raise FailureError(f"{options.file}: holds no BertDeployment")
    if not options.settings:
        note(f"note: {assumed.NOTE}")
    parts = [_document(document, settings, known, options.namespace) for document in ours]
    out("".join(parts))
    return Exit.OK


def _known(file: str | None) -> list[BertArtifactSpec]:
    if file is None:
        return []
    try:
        return imagined.records(documents.one_kind(file, names.ARTIFACT_KIND))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        raise FailureError(
            f"--artifact {file}: spec.{'.'.join(map(str, found['loc']))}: {found['msg']}; give a record that this "
            f"version of the operator wrote: kubectl get bertartifact NAME -o yaml"
        ) from error


def _document(document: Document, settings: Settings, known: list[BertArtifactSpec], namespace: str) -> str:
    found = faults.of_resource(document.content)
    if found:
        raise FailureError("\n".join(f"{document.title}: {fault}" for fault in found))
    world = imagined.Imagined(
        bert=imagined.live(document.content, namespace or "default"), settings=settings, known=known
    )
    try:
        world.play()
    except FailureError as error:
        raise FailureError(f"{document.title}: {error}") from error
    return "".join(_lines(document, world))


def _lines(document: Document, world: imagined.Imagined) -> Iterator[str]:
    meta = world.bert["metadata"]
    yield f"# {document.title} in namespace {meta['namespace']}: what the operator would make. No cluster was asked.\n"
    if "uid" not in document.content["metadata"]:
        yield "# UIDs, and the name parts made from them (000000), are placeholders.\n"
    for label in world.placeholders:
        yield f"# PLACEHOLDER: {label} has not been built; BERT base is assumed. --artifact FILE takes a real record.\n"
    for condition in world.bert.get("status", {}).get("conditions") or ():
        if condition["type"] == "SourceResolved" and condition["status"] == "False":
            yield f"# INCOMPLETE: {condition['message']}; --artifact FILE takes a record\n"
    for manifest in sorted(world.manifests, key=_rank):
        kind = manifest["kind"]
        yield f"---\n# {kind}{': ' + _WHAT[kind] if kind in _WHAT else ''}\n"
        yield yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110)


def _rank(manifest: dict[str, Any]) -> int:
    """In the order in which they come to matter; kinds without a rank come last."""
    kind = manifest["kind"]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


class _Dumper(yaml.SafeDumper):
    """YAML as a person writes it: no aliases, generated files as blocks."""

    def ignore_aliases(self, _data: object) -> bool:
        """Write everything out."""
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
