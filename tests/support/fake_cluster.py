"""A world in memory that keeps what plans ask for, and plays the parts of Kubernetes that the tests need.

Not a mock of the API: it stores objects, gives them UIDs and generations, follows owner references and refuses what
the API server would refuse (a UID that isn't the live one). `settle` plays the controllers and the kubelet.
"""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from bert_operator.api import names
from bert_operator.api.actions import Hold, Plan, Ref
from bert_operator.api.observed import Observed
from bert_operator.api.report import BuildReport
from bert_operator.api.steps import EXPORT_STEPS
from bert_operator.plan import make_plan
from bert_operator.settings import Settings
from support import builders

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def copied(value: Any) -> Any:
    """A copy of an object of JSON, several times as fast as `copy.deepcopy`: properties make thousands."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [copied(one) for one in value]
    return value


class FakeCluster:
    """Objects by (kind, name) in one namespace."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self._uids = itertools.count(1)
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes = 0
        self.counts: list[tuple[str, int, int]] = []
        """(who, before, after) of every change of a Deployment's replica count after its creation."""
        for item in objects:
            self.put(item)

    def put(self, item: dict[str, Any]) -> None:
        """Place an object as it is."""
        item = copied(item)
        meta = item["metadata"]
        meta.setdefault("uid", f"00000000-0000-4000-8000-{next(self._uids):012d}")
        meta.setdefault("namespace", builders.NAMESPACE)
        meta.setdefault("generation", 1)
        meta.setdefault("creationTimestamp", "2026-11-22T11:00:00Z")
        self.objects[item["kind"], meta["name"]] = item

    def all(self, kind: str) -> tuple[dict[str, Any], ...]:
        """Every object of a kind."""
        return tuple(item for (k, _), item in sorted(self.objects.items()) if k == kind)

    def bert(self, name: str = "minilm") -> dict[str, Any]:
        """The live BertDeployment."""
        return self.objects[names.KIND, name]

    def observe(self, name: str = "minilm", *, foreign: frozenset[tuple[str, str]] = frozenset()) -> Observed:
        """What the operator would see."""
        uid = self.bert(name)["metadata"]["uid"]

        def owned(kind: str) -> tuple[dict[str, Any], ...]:
            return tuple(item for item in self.all(kind) if uid in _owners(item))

        pods = self.all("Pod")
        return Observed(
            bert=copied(self.bert(name)),
            deployments=owned("Deployment"),
            replica_sets=self.all("ReplicaSet"),
            autoscalers=owned("HorizontalPodAutoscaler"),
            budgets=owned("PodDisruptionBudget"),
            network_policies=owned("NetworkPolicy"),
            services=owned("Service"),
            config_maps=owned("ConfigMap"),
            pods=tuple(p for p in pods if p["metadata"]["labels"].get(names.COMPONENT_LABEL) == "server"),
            claims=self.all("PersistentVolumeClaim"),
            jobs=self.all("Job"),
            job_pods=tuple(
                p for p in pods if p["metadata"]["labels"].get(names.COMPONENT_LABEL) in ("build", "profile")
            ),
            artifacts=self.all(names.ARTIFACT_KIND),
            asked=frozenset(
                (bert.get("status", {}).get("tuning") or {}).get("key", "") for bert in self.all(names.KIND)
            ),
            foreign=foreign,
        )

    def plan(self, settings: Settings, name: str = "minilm", now: datetime = NOW) -> Plan:
        """Ask the planner."""
        return make_plan(self.observe(name), settings, now)

    def carry_out(self, plan: Plan, name: str = "minilm") -> None:
        """Do what a plan asks, as `cluster` would."""
        for hold in plan.hold:
            self._hold(hold)
        for manifest in plan.apply:
            self._apply(copied(dict(manifest)))
        for manifest in plan.create:
            self._create(dict(manifest))
        self._share(plan)
        for hold in plan.release:
            self._hold(hold)
        for ref in plan.delete:
            self._delete(ref)
        if plan.status is not None:
            self.writes += 1
            self.bert(name)["status"] = copied(dict(plan.status))

    def _share(self, plan: Plan) -> None:
        for adoption in plan.adopt:
            self.writes += 1
            owners = self.objects["Job", adoption.name]["metadata"].setdefault("ownerReferences", [])
            owners.append(dict(adoption.owner_reference))
        for departure in plan.leave:
            self.writes += 1
            metadata = self.objects["Job", departure.name]["metadata"]
            metadata["ownerReferences"] = [r for r in metadata["ownerReferences"] if r["uid"] != departure.owner_uid]

    def _create(self, manifest: dict[str, Any]) -> None:
        if (manifest["kind"], manifest["metadata"]["name"]) not in self.objects:
            self.writes += 1
            self.put(manifest)

    def _delete(self, ref: Ref) -> None:
        if self.objects.get((ref.kind, ref.name), {}).get("metadata", {}).get("uid") == ref.uid:
            self.writes += 1
            self.remove(ref.kind, ref.name)

    def _apply(self, manifest: dict[str, Any]) -> None:
        self.writes += 1
        key = manifest["kind"], manifest["metadata"]["name"]
        live = self.objects.get(key)
        wished_uid = manifest["metadata"].get("uid")
        replicas = manifest["spec"].pop("replicas", None) if key[0] == "Deployment" else None
        if live is None:
            assert wished_uid is None, f"Conflict: {key} is gone, uid {wished_uid} was wished"
            start = {"replicas": 1 if replicas is None else replicas} if key[0] == "Deployment" else {}
            self.put(manifest | ({"spec": start | manifest["spec"]} if start else {}))
        else:
            assert wished_uid == live["metadata"]["uid"], f"{key} exists; an update must name its uid"
            kept = {"replicas": live["spec"]["replicas"]} if key[0] == "Deployment" else {}
            manifest = manifest | ({"spec": kept | manifest["spec"]} if kept else {})
            changed = live.get("spec") != manifest.get("spec")
            meta = live["metadata"] | manifest["metadata"]
            meta["generation"] = live["metadata"]["generation"] + int(changed)
            self.objects[key] = live | manifest | {"metadata": meta}
        if key[0] == "Deployment":
            self._say_count(key[1], names.MANAGER, replicas, force=True)

    def _hold(self, hold: Hold) -> None:
        self.writes += 1
        live = self.objects.get(("Deployment", hold.name))
        assert live is not None, f"Conflict: Deployment {hold.name} is gone"
        assert live["metadata"]["uid"] == hold.uid, f"Conflict: Deployment {hold.name} is another one"
        self._say_count(hold.name, names.REPLICAS_MANAGER, hold.count, force=hold.force)

    def _say_count(self, name: str, manager: str, count: int | None, *, force: bool) -> None:
        """Server-side apply of a replica count: who says it owns it, and what nobody owns any more falls to 1."""
        live = self.objects["Deployment", name]
        before = live["spec"].setdefault("replicas", 1)
        said = live["metadata"].get("managedFields", [])
        others = [entry for entry in said if entry["manager"] != manager]
        if count is None:
            live["metadata"]["managedFields"] = others
            self._set_count(live, before if others or said == others else 1, manager)
            return
        assert force or count == before or not others, f"Conflict: {others} own the count"
        mine = {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        live["metadata"]["managedFields"] = [*(others if count == before else ()), mine]
        self._set_count(live, count, manager)

    def scale(self, count: int, manager: str = "kube-controller-manager") -> None:
        """Play an autoscaler, or `kubectl scale`, on the child Deployment."""
        (live,) = self.all("Deployment")
        if live["spec"]["replicas"] != count:
            entry = {"manager": manager, "operation": "Update", "subresource": "scale"}
            live["metadata"]["managedFields"] = [entry | {"fieldsV1": {"f:spec": {"f:replicas": {}}}}]
            self._set_count(live, count, manager)

    def _set_count(self, live: dict[str, Any], count: int, manager: str) -> None:
        before, live["spec"]["replicas"] = live["spec"]["replicas"], count
        live["metadata"]["generation"] += int(before != count)
        if before != count:
            self.counts.append((manager, before, count))

    def remove(self, kind: str, name: str) -> None:
        """Delete an object and, like the garbage collector, what nobody else owns."""
        gone = self.objects.pop((kind, name))["metadata"]["uid"]
        for (k, n), item in list(self.objects.items()):
            owners = _owners(item)
            if gone in owners:
                item["metadata"]["ownerReferences"] = [
                    ref for ref in item["metadata"]["ownerReferences"] if ref["uid"] != gone
                ]
                if owners == {gone}:
                    self.remove(k, n)

    def finish_job(self, job: dict[str, Any], report: BuildReport | None = None) -> None:
        """Play a build that goes well."""
        names_of_steps = [one["name"] for one in job["spec"]["template"]["spec"]["initContainers"]]
        good = builders.engine_report() if "compile" in names_of_steps else builders.report()
        text = (report or good).model_dump_json(by_alias=True)
        steps = [builders.terminated(step) for step in names_of_steps]
        self._build_pod(job, steps, [builders.terminated("publish", message=text)], "Succeeded")
        self._job_condition(job, "Complete", "")

    def fail_job(self, job: dict[str, Any], step: str, code: int, message: str, *, reason: str = "") -> None:
        """Play a build whose `step` fails."""
        done = [builders.terminated(s) for s in EXPORT_STEPS[: EXPORT_STEPS.index(step)]]
        failed = builders.terminated(step, code, message, reason)
        self._build_pod(job, [*done, failed], [builders.waiting("publish")], "Failed")
        self._job_condition(job, "Failed", "PodFailurePolicy")

    def finish_profile(self, job: dict[str, Any], text: str, *, code: int = 0) -> None:
        """Play a profile run that ends with a termination message."""
        ended = [builders.terminated("profile", code, text)]
        self._build_pod(job, [builders.terminated("prepare")], ended, "Failed" if code else "Succeeded")
        self._job_condition(job, "Failed" if code else "Complete", "PodFailurePolicy" if code else "")

    def hold_up(self, job: dict[str, Any], why: str) -> None:
        """Play a Job whose pod no node takes."""
        self._build_pod(job, [], [], "Pending")
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        self.objects["Pod", f"{job['metadata']['name']}-x"]["status"]["conditions"] = [condition]

    def _build_pod(self, job: dict[str, Any], init: list[Any], main: list[Any], phase: str) -> None:
        meta = job["metadata"]
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{meta['name']}-x", "labels": meta["labels"], "ownerReferences": [reference]},
            "status": {"phase": phase, "initContainerStatuses": init, "containerStatuses": main},
        }
        self.put(pod)

    def _job_condition(self, job: dict[str, Any], kind: str, reason: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": "2026-11-22T12:00:00Z"}
        self.objects["Job", job["metadata"]["name"]]["status"] = {"conditions": [condition]}

    def settle_deployments(self) -> None:
        """Play the Deployment controller and a kubelet on which every pod becomes ready."""
        for live in self.all("Deployment"):
            wished = live["spec"]["replicas"]
            status = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wished)
            live["status"] = status | {"observedGeneration": live["metadata"]["generation"]}

    def settle(self, settings: Settings, name: str = "minilm", *, rounds: int = 20) -> Iterator[Plan]:
        """Plan, do, and let Kubernetes follow, until nothing is left to do; yields each plan."""
        for _ in range(rounds):
            plan = self.plan(settings, name)
            yield plan
            before = copied(self.objects)
            self.carry_out(plan, name)
            for job in self.all("Job"):
                if "status" not in job and job["metadata"]["labels"].get(names.COMPONENT_LABEL) != "profile":
                    self.finish_job(job)
            self.settle_deployments()
            if self.objects == before:
                return
        raise AssertionError(f"not settled after {rounds} rounds")


def _owners(item: dict[str, Any]) -> set[str]:
    return {ref["uid"] for ref in item["metadata"].get("ownerReferences", ())}
