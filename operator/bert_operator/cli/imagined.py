"""A cluster in which all goes well: plays Kubernetes and build Jobs for the real `plan`, keeps what it asks for.

Pure. Nothing here knows what the operator makes: it plans until the plan is empty, as the reconcile loop does. Who
calls it shows the objects; what had to be assumed is said by `assumptions`.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.observed import Manifest, Observed
from bert_operator.api.report import BuildReport, BuildRequest, FidelityFigures, TensorSpec
from bert_operator.api.spec import Task
from bert_operator.cli.documents import as_stored
from bert_operator.cli.terminal import FailureError
from bert_operator.objects.identity import artifact_name
from bert_operator.observe import claim_names
from bert_operator.plan import make_plan
from bert_operator.request_key import same_wish
from bert_operator.settings import Settings

PLACEHOLDER: Final = "placeholder"
"""Starts the artifact key of what was not built yet, so that it shows in every name and path."""
_UID: Final = "00000000-0000-4000-8000-{:012d}"
_CREATED: Final = "2000-01-01T00:00:00Z"
_NOW: Final = datetime(2000, 1, 1, tzinfo=UTC)
_ROUNDS: Final = 20
_BERT_BASE: Final = {"size_bytes": 438_000_000, "parameters": 109_482_240, "peak_memory_bytes": 2_000_000_000}
"""What a model is taken for until it is built."""


def live(resource: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """A written BertDeployment as the API server would hand it to the operator.

    Args:
        resource: as in a file; what it already says (a real UID, say) is kept.
        namespace: for one that names none.
    """
    given = {"namespace": namespace, "uid": _UID.format(0), "creationTimestamp": _CREATED, "generation": 1}
    metadata = given | {key: value for key, value in resource["metadata"].items() if value is not None}
    metadata.setdefault("name", str(metadata.get("generateName", "")) + "xxxxx")
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": metadata,
        "spec": as_stored(resource["spec"]),
    }


def refusal(bert: Manifest, settings: Settings) -> str:
    """Why an installation with these settings would not do it; empty if it would."""
    plan = make_plan(Observed(bert=bert), settings, _NOW)
    for condition in (plan.status or {}).get("conditions") or ():
        if condition["type"] == "Accepted" and condition["status"] == "False":
            return str(condition["message"])
    return ""


@dataclass(kw_only=True)
class Imagined:
    """The world of one BertDeployment."""

    bert: dict[str, Any]
    settings: Settings
    known: Sequence[BertArtifactSpec] = ()
    """Real records: what the Jobs of the same wish, else of the same task and format, report."""
    made: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """Every object the operator asked for, in order, by kind and name."""
    placeholders: list[str] = field(default_factory=list)
    """`model/version` of each that no record was given for."""
    _claims: list[dict[str, Any]] = field(default_factory=list)
    _job_pods: list[dict[str, Any]] = field(default_factory=list)

    def play(self) -> None:
        """Plan, do, let Kubernetes follow, until nothing is left to do.

        Raises:
            FailureError: the settings refuse the BertDeployment.
        """
        if why := refusal(self.bert, self.settings):
            raise FailureError(why)
        own = f"{self.bert['metadata']['name']}-store"
        wanted = sorted(claim_names(self.bert) - ({own} if self.bert["spec"]["storage"].get("size") else set()))
        self._claims = [self._claim(number, name) for number, name in enumerate(wanted, 1)]
        for _ in range(_ROUNDS):
            plan = make_plan(self._observed(), self.settings, _NOW)
            news = [manifest for manifest in (*plan.apply, *plan.create) if self._is_news(manifest)]
            if not news:
                return
            for manifest in news:
                self._keep(copy.deepcopy(dict(manifest)))
            self.bert["status"] = plan.status or self.bert.get("status") or {}
        raise FailureError("the plan doesn't come to rest: a defect of bert-operator, please report it with the file")

    @property
    def manifests(self) -> list[dict[str, Any]]:
        """What the operator asked for, as it asked for it."""
        return [_asked(manifest) for manifest in self.made.values()]

    def _observed(self) -> Observed:
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for (kind, _), manifest in self.made.items():
            by_kind.setdefault(kind, []).append(manifest)
        return Observed(
            bert=self.bert,
            deployments=tuple(by_kind.get("Deployment", ())),
            autoscalers=tuple(by_kind.get("HorizontalPodAutoscaler", ())),
            budgets=tuple(by_kind.get("PodDisruptionBudget", ())),
            network_policies=tuple(by_kind.get("NetworkPolicy", ())),
            services=tuple(by_kind.get("Service", ())),
            config_maps=tuple(by_kind.get("ConfigMap", ())),
            claims=(*self._claims, *by_kind.get("PersistentVolumeClaim", ())),
            jobs=tuple(by_kind.get("Job", ())),
            job_pods=tuple(self._job_pods),
            artifacts=(*by_kind.get(names.ARTIFACT_KIND, ()), *self._named()),
        )

    def _named(self) -> list[dict[str, Any]]:
        """Given records that a version names as its source: nothing is built for it."""
        versions = (version for model in self.bert["spec"]["models"] for version in model["versions"])
        wanted = {(version["source"].get("artifact") or {}).get("name") for version in versions}
        found = {
            artifact_name(record.report.format, record.report.artifact_key, record.claim_uid): record
            for record in self.known
        }
        return [
            {"metadata": {"name": name}, "spec": record.model_dump(mode="json", by_alias=True)}
            for name, record in found.items()
            if name in wanted
        ]

    def _is_news(self, manifest: Manifest) -> bool:
        known = self.made.get((manifest["kind"], manifest["metadata"]["name"]))
        return known is None or _asked(known) != _asked(manifest)

    def _keep(self, manifest: dict[str, Any]) -> None:
        """What the API server adds, and what controllers and Jobs then do."""
        kind, meta = manifest["kind"], manifest["metadata"]
        first = (kind, meta["name"]) not in self.made
        meta.setdefault("uid", _UID.format(100 + len(self.made)))
        meta |= {"creationTimestamp": _CREATED, "generation": 1}
        if kind == "PersistentVolumeClaim":
            meta["uid"] = self._claim_uid(meta["name"], meta["uid"])
        if kind == "Deployment":
            wished = manifest["spec"].get("replicas", 1)
            counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            manifest["status"] = {"observedGeneration": 1} | dict.fromkeys(counts, wished)
        if kind == "Job" and first:
            self._finish(manifest)
        self.made[kind, meta["name"]] = manifest

    def _finish(self, job: dict[str, Any]) -> None:
        """A build Job ends well and reports; other Jobs are left running."""
        pod = job["spec"]["template"]["spec"]
        containers = [*pod.get("initContainers", ()), *pod["containers"]]
        env = {entry["name"]: entry.get("value", "") for each in containers for entry in each.get("env", ())}
        if names.BUILD_REQUEST_ENV not in env:
            return
        report = self._report(BuildRequest.model_validate_json(env[names.BUILD_REQUEST_ENV]))
        ended = {"exitCode": 0, "message": report.model_dump_json(by_alias=True)}
        job["status"] = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": _CREATED}]}
        owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
        main = {"name": pod["containers"][0]["name"], "state": {"terminated": ended}}
        metadata = {"name": job["metadata"]["name"], "ownerReferences": [owner]}
        self._job_pods.append({"kind": "Pod", "metadata": metadata, "status": {"containerStatuses": [main]}})

    def _report(self, request: BuildRequest) -> BuildReport:
        """What a build of this request reported, as far as it is known."""
        exact = [r.report for r in self.known if any(same_wish(request.request_key, key) for key in r.request_keys)]
        alike = [
            record.report
            for record in self.known
            if (record.report.task, record.report.format) == (request.build.task.value, request.build.format.value)
        ]
        found = next(iter(exact or alike), None)
        if found is None:
            label = f"{request.model}/{request.version}"
            self.placeholders += [label] if label not in self.placeholders else []
        return found or _placeholder(request)

    def _claim(self, number: int, name: str) -> dict[str, Any]:
        """A claim that the spec names, assumed to be there."""
        uid = self._claim_uid(name, _UID.format(number))
        metadata = {"name": name, "namespace": self.bert["metadata"]["namespace"], "uid": uid}
        spec = {"accessModes": ["ReadWriteOnce"]}
        return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}

    def _claim_uid(self, name: str, otherwise: str) -> str:
        """The real UID where a record tells it: request keys and names are then the real ones too."""
        return next((record.claim_uid for record in self.known if record.claim_name == name), otherwise)


def _asked(manifest: Manifest) -> dict[str, Any]:
    """Without what the imagined API server and controllers added."""
    added = ("uid", "creationTimestamp", "generation")
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in added}
    return {key: value for key, value in manifest.items() if key != "status"} | {"metadata": metadata}


_OUTPUTS: Final = {
    Task.SEQUENCE_CLASSIFICATION: {"logits": [2]},
    Task.TOKEN_CLASSIFICATION: {"logits": [-1, 9]},
    Task.QUESTION_ANSWERING: {"start_logits": [-1], "end_logits": [-1]},
    Task.FILL_MASK: {"mask_logits": [30522]},
    Task.FEATURE_EXTRACTION: {"last_hidden_state": [-1, 768]},
}
"""What BERT base puts out for each task."""


def _placeholder(request: BuildRequest) -> BuildReport:
    """A report nobody gave: BERT base, built without a difference."""
    ids = ("input_ids", "attention_mask", "token_type_ids")
    return BuildReport(
        format=request.build.format.value,
        artifact_key=f"{PLACEHOLDER}-{request.model[:36]}-{request.version}",
        manifest_sha256=PLACEHOLDER,
        weights_digest=PLACEHOLDER,
        revision=PLACEHOLDER,
        task=request.build.task.value,
        precision=request.build.precision.value,
        architecture=PLACEHOLDER,
        inputs=[TensorSpec(name=name, dtype="INT64", dims=[-1]) for name in ids],
        outputs=[TensorSpec(name=name, dtype="FP32", dims=dims) for name, dims in _OUTPUTS[request.build.task].items()],
        max_sequence_length=request.build.max_sequence_length,
        fidelity=FidelityFigures(
            samples=0, max_abs_difference=0, min_cosine=1, limit_max_abs_difference=0, limit_min_cosine=1
        ),
        toolchain={},
        durations_seconds={},
        **_BERT_BASE,
    )


def records(manifests: Iterable[Mapping[str, Any]]) -> list[BertArtifactSpec]:
    """The records in BertArtifacts as `kubectl get -o yaml` prints them.

    Raises:
        pydantic.ValidationError: one isn't a record of this version.
    """
    return [BertArtifactSpec.model_validate(manifest.get("spec") or {}) for manifest in manifests]
