"""The BertArtifact: the lasting record of what a build Job published."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from bert_operator.api import names
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.measurement import MAX_MEASUREMENTS, Measurement
from bert_operator.api.observed import Manifest
from bert_operator.api.report import BuildReport
from bert_operator.objects.identity import artifact_name

MAX_REQUEST_KEYS: Final = 64


def manifest(
    report: BuildReport, claim: Mapping[str, Any], request_key: str, live: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Record of one artifact. No owner: it describes the claim's content, whoever asked for it.

    Args:
        report: what the Job answered.
        claim: the live claim that holds the artifact.
        request_key: the request that was answered; the requests of `live` stay answered too.
        live: the record as it stands, or None.
    """
    meta = claim["metadata"]
    known: Iterable[str] = (live or {}).get("spec", {}).get("requestKeys", ())
    keys = [*(key for key in known if key != request_key), request_key][-MAX_REQUEST_KEYS:]
    spec = BertArtifactSpec(
        claim_name=meta["name"],
        claim_uid=meta["uid"],
        path=f"{names.ARTIFACTS_FOLDER}/{report.format}-{report.artifact_key}",
        request_keys=keys,
        report=report,
        measurements=list((live or {}).get("spec", {}).get("measurements", ())),
    )
    metadata: dict[str, Any] = {
        "name": artifact_name(report.format, report.artifact_key, meta["uid"]),
        "namespace": meta["namespace"],
        "labels": {names.MANAGED_BY: names.MANAGER},
    }
    if live:
        metadata["uid"] = live["metadata"]["uid"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.ARTIFACT_KIND,
        "metadata": metadata,
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def anew(live: Manifest, **annotations: str) -> dict[str, Any]:
    """What to create so that a deleted record is there again, as it was but for these annotations."""
    meta = live["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.ARTIFACT_KIND,
        "metadata": kept | {"annotations": {**(meta.get("annotations") or {}), **annotations}},
        "spec": live["spec"],
    }


def read(live: Manifest) -> BertArtifactSpec | None:
    """A live record, without measurements that this release can't read; None if it can't read the record itself."""
    for spec in (live["spec"], {**live["spec"], "measurements": []}):
        try:
            return BertArtifactSpec.model_validate(spec)
        except ValidationError:
            continue
    return None


def room(live: Manifest, asked: Collection[str]) -> bool:
    """Whether one more measurement finds a place: they are bounded, and one that somebody asks for stays."""
    return len([one for one in live["spec"].get("measurements") or () if one["key"] in asked]) < MAX_MEASUREMENTS


def measured(live: Manifest, measurement: Measurement, asked: Collection[str]) -> dict[str, Any]:
    """A live record that has `room`, with one more measurement, or with this one anew.

    Args:
        live: the record.
        measurement: what is new.
        asked: keys that some BertDeployment asks for. Of the others the oldest goes if there are too many; else those
            who share an artifact would have each other's measured again and again.
    """
    plain = measurement.model_dump(mode="json", by_alias=True, exclude_none=True)
    others = [one for one in live["spec"].get("measurements") or () if one["key"] != measurement.key]
    free = [one["key"] for one in others if one["key"] not in asked]
    going = set(free[: max(0, len(others) + 1 - MAX_MEASUREMENTS)])
    kept = [one for one in others if one["key"] not in going]
    meta = live["metadata"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.ARTIFACT_KIND,
        "metadata": {key: meta[key] for key in ("name", "namespace", "uid")}
        | {"labels": {names.MANAGED_BY: names.MANAGER}},
        "spec": {**live["spec"], "measurements": [*kept, plain]},
    }
