"""The world in memory: what the watches showed, our own writes laid over it. `handlers` feeds it, `reconcile` reads it.

Never asks the API server. Everything here can be thrown away: a restart fills it again from the watches. Objects are
replaced, never edited, so an `Observed` stays what it was.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api.observed import Manifest, Observed
from bert_operator.objects import store_job
from bert_operator.slim import slim

Key = tuple[str, str]
"""(namespace, name) of a BertDeployment."""
Mark = tuple[str, ...]
"""One entry of the index: what an object can be found by."""

KINDS: Final = (
    names.KIND,
    names.ARTIFACT_KIND,
    "Deployment",
    "ReplicaSet",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "Service",
    "ConfigMap",
    "PersistentVolumeClaim",
    "Job",
    "Pod",
)
"""Every kind that is watched; nobody reconciles before each was listed once."""
GRAVES: Final = 10_000
"""How many UIDs of deleted objects are remembered, so that a late reply can't bring one back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """What is known about the artifact store on one claim."""

    claim: Manifest | None
    records: tuple[Manifest, ...]
    berts: tuple[Manifest, ...]
    """BertDeployments that name the claim."""
    deployments: tuple[Manifest, ...]
    jobs: tuple[Manifest, ...]
    """Store Jobs of the operator."""
    job_pods: tuple[Manifest, ...]


class World:
    """All objects that matter, by kind and by what they are looked up by."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Drop everything, as a restart does."""
        self._objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self._index: defaultdict[Mark, dict[str, dict[str, Any]]] = defaultdict(dict)
        self._laid: dict[str, tuple[str, float]] = {}
        self._graves: dict[str, str] = {}

    def count(self, kind: str) -> int:
        """How many objects of a kind are known."""
        return len(self._objects[kind])

    def put(self, obj: Manifest) -> set[Key]:
        """Take in what a watch or a listing shows.

        Args:
            obj: the object with `kind`.

        Returns:
            BertDeployments to look at: none if nothing but bookkeeping changed or if we know something newer.
        """
        kind, uid = _identity(obj)
        version, known = _version(obj), self._objects[kind].get(uid)
        if self._buried(uid, version) or self._outdated(kind, uid, version):
            return set()
        self._laid.pop(uid, None)
        if known is not None and version and version == _version(known):
            return set()  # what we wrote comes back: the same version is the same object
        return self._store(kind, uid, slim(obj))

    def drop(self, obj: Manifest) -> set[Key]:
        """Take in that an object is gone.

        Args:
            obj: its last state, or just kind and metadata.uid.

        Returns:
            BertDeployments to look at.
        """
        kind, uid = _identity(obj)
        self._graves[uid] = _version(obj) or _version(self._objects[kind].get(uid) or obj)
        if len(self._graves) > GRAVES:
            del self._graves[next(iter(self._graves))]
        self._laid.pop(uid, None)
        known = self._objects[kind].pop(uid, None)
        if known is None:
            return set()
        keys = self._keys(kind, known)
        self._unindex(kind, uid, known)
        return keys

    def lay_over(self, reply: Manifest) -> set[Key]:
        """Take in the reply of one of our writes; it stands until the watch shows it or something newer.

        Args:
            reply: the object as the API server returned it.

        Returns:
            BertDeployments to look at; the watch will not name them again for this change.
        """
        kind, uid = _identity(reply)
        if self._buried(uid, _version(reply)) or not self._newer(kind, uid, _version(reply)):
            return set()
        self._laid[uid] = (kind, self._clock())
        return self._store(kind, uid, slim(reply))

    def laid_over_before(self, kind: str, moment: float) -> tuple[dict[str, Any], ...]:
        """Objects that only our own writes have shown, and that before the given moment of the clock."""
        uids = [uid for uid, (laid_kind, laid_at) in self._laid.items() if laid_kind == kind and laid_at < moment]
        return tuple(self._objects[kind][uid] for uid in uids)

    def observe(self, namespace: str, name: str) -> Observed | None:
        """Everything known about one BertDeployment.

        Returns:
            None if it doesn't exist.
        """
        bert = self._one(("name", names.KIND, namespace, name))
        if bert is None:
            return None
        uid = bert["metadata"]["uid"]
        requests = tuple(_requests_of_status(bert))
        claims = tuple(claim_names(bert))
        jobs = self._find([("owner", "Job", uid), *(("request", "Job", namespace, request) for request in requests)])
        deployments = self._find([("owner", "Deployment", uid)])
        artifacts = self._find(self._artifact_marks(namespace, requests, claims, jobs))
        return Observed(
            bert=bert,
            deployments=deployments,
            replica_sets=self._find(("owner", "ReplicaSet", d["metadata"]["uid"]) for d in deployments),
            autoscalers=self._find([("owner", "HorizontalPodAutoscaler", uid)]),
            budgets=self._find([("owner", "PodDisruptionBudget", uid)]),
            network_policies=self._find([("owner", "NetworkPolicy", uid)]),
            services=self._find([("owner", "Service", uid)]),
            config_maps=self._find([("owner", "ConfigMap", uid)]),
            pods=self._find([("server", "Pod", namespace, name, _owner_label(uid))]),
            claims=self._find(("name", "PersistentVolumeClaim", namespace, claim) for claim in claims),
            jobs=jobs,
            job_pods=self._find(("owner", "Pod", job["metadata"]["uid"]) for job in jobs),
            artifacts=artifacts,
            asked=frozenset(self._asked(namespace, artifacts)),
        )

    def _asked(self, namespace: str, artifacts: Iterable[Manifest]) -> Iterator[str]:
        """Measurements that some BertDeployment's status asks for."""
        for artifact in artifacts:
            for measurement in artifact["spec"].get("measurements") or ():
                if self._index.get(("request", names.KIND, namespace, measurement["key"])):
                    yield measurement["key"]

    def keys(self) -> set[Key]:
        """All BertDeployments."""
        return {_key(bert) for bert in self._objects[names.KIND].values()}

    def store(self, namespace: str, claim: str) -> Store:
        """What is known about the artifact store on one claim."""
        jobs = self._find([("store", "Job", namespace, claim)])
        berts = self._find([("claim", names.KIND, namespace, claim)])
        return Store(
            claim=self._one(("name", "PersistentVolumeClaim", namespace, claim)),
            records=self._find([("claim", names.ARTIFACT_KIND, namespace, claim)]),
            berts=berts,
            deployments=self._find(("owner", "Deployment", bert["metadata"]["uid"]) for bert in berts),
            jobs=jobs,
            job_pods=self._find(("owner", "Pod", job["metadata"]["uid"]) for job in jobs),
        )

    def is_store(self, namespace: str, claim: str) -> bool:
        """Whether anything is recorded of a claim."""
        return ("claim", names.ARTIFACT_KIND, namespace, claim) in self._index

    def stores(self) -> set[Key]:
        """(namespace, claim) of every store that something is recorded of."""
        found = self._objects[names.ARTIFACT_KIND].values()
        return {(_namespace(record), (record.get("spec") or {}).get("claimName", "")) for record in found}

    def record(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A BertArtifact by name."""
        return self._one(("name", names.ARTIFACT_KIND, namespace, name))

    def recorded(self, path: str) -> tuple[dict[str, Any], ...]:
        """Records of artifacts in a folder of this name, on any claim."""
        return self._find([("path", names.ARTIFACT_KIND, path)])

    @staticmethod
    def _artifact_marks(
        namespace: str, requests: Iterable[str], claims: Iterable[str], jobs: Iterable[Manifest]
    ) -> Iterator[Mark]:
        wanted = {*requests, *(_labels(job).get(names.REQUEST_LABEL, "") for job in jobs)}
        yield from (("request", names.ARTIFACT_KIND, namespace, request) for request in wanted)
        yield from (("claim", names.ARTIFACT_KIND, namespace, claim) for claim in claims)

    def _store(self, kind: str, uid: str, new: dict[str, Any]) -> set[Key]:
        old = self._objects[kind].get(uid)
        self._objects[kind][uid] = new
        if old is not None and _same(old, new):
            for mark in _marks(kind, new):
                self._index[mark][uid] = new
            return set()
        keys = self._keys(kind, old) if old is not None else set()
        if old is not None:
            self._unindex(kind, uid, old)
        for mark in _marks(kind, new):
            self._index[mark][uid] = new
        return keys | self._keys(kind, new)

    def _unindex(self, kind: str, uid: str, obj: Manifest) -> None:
        for mark in _marks(kind, obj):
            self._index[mark].pop(uid, None)
            if not self._index[mark]:
                del self._index[mark]

    def _buried(self, uid: str, version: str) -> bool:
        """Whether this is a state from before the end we know of.

        Something newer can come: an object that lost the label we watch by ends like a deleted one, and may regain it.
        """
        end = self._graves.get(uid)
        return end is not None and not (version.isdigit() and end.isdigit() and int(version) > int(end))

    def _outdated(self, kind: str, uid: str, version: str) -> bool:
        """Whether a watch event is older than what we know."""
        known = self._objects[kind].get(uid)
        if known is None:
            return False
        mine = _version(known)
        if mine.isdigit() and version.isdigit():
            return int(version) < int(mine)
        # Versions of servers before 1.35 need not be numbers. Our write then stands until exactly it comes back.
        return uid in self._laid and version != mine

    def _newer(self, kind: str, uid: str, version: str) -> bool:
        """Whether a reply is newer than what the watch has shown meanwhile."""
        known = self._objects[kind].get(uid)
        if known is None:
            return True
        mine = _version(known)
        return int(version) > int(mine) if mine.isdigit() and version.isdigit() else version != mine

    def _keys(self, kind: str, obj: Manifest) -> set[Key]:
        namespace = _namespace(obj)
        if kind == names.KIND:
            return {_key(obj)}
        if kind == "PersistentVolumeClaim":
            return self._berts([("claim", names.KIND, namespace, obj["metadata"]["name"])])
        if kind == names.ARTIFACT_KIND:
            return self._berts(_ties(obj, to=names.KIND))
        keys = {(namespace, owner["name"]) for owner in _owners(obj) if owner.get("kind") == names.KIND}
        request = _labels(obj).get(names.REQUEST_LABEL)
        if request is None:
            instance = _labels(obj).get(names.INSTANCE_LABEL)
            return keys | ({(namespace, instance)} if instance else set())
        for job in self._find([("request", "Job", namespace, request)]):
            keys |= {(namespace, owner["name"]) for owner in _owners(job) if owner.get("kind") == names.KIND}
        return keys | self._berts([("request", names.KIND, namespace, request)])

    def _berts(self, marks: Iterable[Mark]) -> set[Key]:
        return {_key(bert) for mark in marks for bert in self._index.get(mark, {}).values()}

    def _one(self, mark: Mark) -> dict[str, Any] | None:
        # Two only while a successor of the same name was shown before its forerunner's end: the younger one counts.
        found = self._index.get(mark, {}).values()
        return max(found, key=lambda obj: _number(_version(obj)), default=None)

    def _find(self, marks: Iterable[Mark]) -> tuple[dict[str, Any], ...]:
        found = {uid: obj for mark in marks for uid, obj in self._index.get(mark, {}).items()}
        return tuple(sorted(found.values(), key=lambda obj: (obj["metadata"]["name"], obj["metadata"]["uid"])))


def _owner_label(uid: str) -> str:
    return uid.replace("-", "")[:6]


def claim_names(bert: Manifest) -> set[str]:
    """Claims that a BertDeployment names, and the one it would make."""
    spec = bert.get("spec") or {}
    found = {f"{bert['metadata']['name']}-store", (spec.get("storage") or {}).get("claimName")}
    for model in spec.get("models") or ():
        build = model.get("build") or {}
        found.add(((build.get("fidelity") or {}).get("samplesFrom") or {}).get("claimName"))
        found.add(((build.get("calibration") or {}).get("texts") or {}).get("claimName"))
        for version in model.get("versions") or ():
            found.add(((version.get("source") or {}).get("pvc") or {}).get("claimName"))
    return {name for name in found if name}


def _marks(kind: str, obj: Manifest) -> Iterator[Mark]:
    namespace, labels = _namespace(obj), _labels(obj)
    yield ("name", kind, namespace, obj["metadata"]["name"])
    for owner in _owners(obj):
        yield ("owner", kind, owner.get("uid", ""))
    if kind == "Pod" and labels.get(names.COMPONENT_LABEL) == "server":
        yield ("server", kind, namespace, labels.get(names.INSTANCE_LABEL, ""), labels.get(names.OWNER_LABEL, ""))
    if kind == "Job" and names.REQUEST_LABEL in labels:
        yield ("request", kind, namespace, labels[names.REQUEST_LABEL])
    if kind == "Job" and (claim := store_job.claim(obj)):
        yield ("store", kind, namespace, claim)
    if kind == names.ARTIFACT_KIND:
        yield from _ties(obj, to=kind)
        yield ("path", kind, str((obj.get("spec") or {}).get("path", "")))
    if kind == names.KIND:
        yield from (("request", kind, namespace, request) for request in _requests_of_status(obj))
        yield from (("claim", kind, namespace, claim) for claim in claim_names(obj))


def _ties(artifact: Manifest, *, to: str) -> Iterator[Mark]:
    """What ties a BertArtifact to BertDeployments: its claim and the requests it answers."""
    spec = artifact.get("spec") or {}
    yield ("claim", to, _namespace(artifact), spec.get("claimName", ""))
    yield from (("request", to, _namespace(artifact), request) for request in spec.get("requestKeys") or ())


def _requests_of_status(bert: Manifest) -> Iterator[str]:
    for model in (bert.get("status") or {}).get("models") or ():
        for version in model.get("versions") or ():
            if version.get("requestKey"):
                yield version["requestKey"]
    if profile := ((bert.get("status") or {}).get("tuning") or {}).get("key"):
        yield profile


def _identity(obj: Manifest) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["uid"]


def _key(obj: Manifest) -> Key:
    return _namespace(obj), obj["metadata"]["name"]


def _namespace(obj: Manifest) -> str:
    return str(obj["metadata"].get("namespace") or "")


def _labels(obj: Manifest) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _owners(obj: Manifest) -> Iterable[Mapping[str, Any]]:
    return obj["metadata"].get("ownerReferences") or ()


def _version(obj: Manifest) -> str:
    return str(obj["metadata"].get("resourceVersion") or "")


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether nothing but the resourceVersion differs."""
    if old["metadata"] | {"resourceVersion": ""} != new["metadata"] | {"resourceVersion": ""}:
        return False
    return {**old, "metadata": None} == {**new, "metadata": None}
