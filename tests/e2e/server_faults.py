"""What users and the world do to real servers: a table of faults, how each comes and goes, and how it must be named."""

import contextlib
import copy
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e import berts, processes, volumes
from support.installation import Images
from support.kube import Kube, condition, wait_for

LOAD = {"triton": "minilm", "torchserve": "sentiment/1", "tfserving": "sentiment/versions/1"}
"""What a client asks each server for, as `e2e.load` wants it."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A BertDeployment that was Ready."""

    kube: Kube
    images: Images
    bert: dict[str, Any]
    """As it was applied."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.bert["metadata"]["name"])

    @property
    def server(self) -> str:
        """What serves it."""
        return str(self.bert["spec"]["server"]["type"])

    def apply(self, **server: Any) -> None:
        """Apply it with other fields of `spec.server`; with none, as it was."""
        wanted = copy.deepcopy(self.bert)
        wanted["spec"]["server"] |= server
        self.kube.apply(wanted)

    def live(self) -> dict[str, Any] | None:
        """As the cluster has it."""
        return self.kube.get("bertdeployment", self.name)

    def pod(self) -> dict[str, Any]:
        """The only serving pod."""
        (found,) = berts.serving_pods(self.kube, self.name)
        return found

    def renew(self) -> None:
        """Another pod: what happened to this one is over, and so is the kubelet's back-off."""
        old = self.pod()["metadata"]
        self.kube.kubectl("delete", "pod", old["name"], "--wait=true")
        wait_for("a new pod", lambda: self._uids() and old["uid"] not in self._uids(), seconds=90)

    def _uids(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in berts.serving_pods(self.kube, self.name)}

    def artifact(self) -> Path:
        """Folder of what it serves, on this machine."""
        live = self.live()
        assert live is not None
        record = self.kube.get("bertartifact", live["status"]["models"][0]["versions"][0]["artifact"])
        assert record is not None
        return volumes.folder_of(self.kube, record["spec"]["claimName"]) / str(record["spec"]["path"])

    def shown(self) -> str:
        """All that Kubernetes says of its pods: the operator can know nothing else."""
        told = [*berts.serving_pods(self.kube, self.name), *self.kube.list("deployments")]
        return json.dumps([one["status"] for one in told if self.name in one["metadata"]["name"]])


Bring = Callable[[Served], AbstractContextManager[None]]
"""Brings a fault in and, leaving, takes it away."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to go wrong, and the words that it must be told in."""

    what: str
    server: str
    bring: Bring
    sign: str
    """What Kubernetes says of the pods once the fault can be known: the clock starts when it is seen."""
    reason: str
    words: tuple[str, ...]
    patience: float = 60
    """Seconds until it is shown and named, at most."""
    usual: bool = False
    """Part of every `make test`; the others only of the whole table."""

    def told(self, live: dict[str, Any] | None) -> bool:
        """Whether Ready and Degraded name it."""
        ready, degraded = condition(live, "Ready"), condition(live, "Degraded")
        return (
            (ready.get("status"), degraded.get("status")) == ("False", "True")
            and ready["reason"] == degraded["reason"] == self.reason
            and all(word in ready["message"] for word in self.words)
        )


def wish(**server: Any) -> Bring:
    """A change of `spec.server` that can't work."""

    @contextlib.contextmanager
    def bring(served: Served) -> Iterator[None]:
        served.apply(**server)
        try:
            yield
        finally:
            served.apply()

    return bring


@contextlib.contextmanager
def foreign_image(served: Served) -> Iterator[None]:
    """An image without the server in it."""
    with wish(image=served.images.operator)(served):
        yield


@contextlib.contextmanager
def killed(served: Served) -> Iterator[None]:
    """The server is killed, as by a node without memory; it is started again by itself."""
    os.kill(processes.first(served.pod()), signal.SIGKILL)
    yield


@contextlib.contextmanager
def _replaced(served: Served) -> Iterator[None]:
    with wish(env=[{"name": "ANOTHER_POD", "value": "please"}])(served):
        yield


def lost(file: str = "", then: Bring = _replaced) -> Bring:
    """The artifact, or one file of it, is taken from the claim behind the operator's back; then it is read anew."""

    @contextlib.contextmanager
    def bring(served: Served) -> Iterator[None]:
        with _away(served.artifact() / file), then(served):
            yield

    return bring


def torn(file: str, then: Bring = _replaced) -> Bring:
    """A file of the artifact is cut short; then it is read anew."""

    @contextlib.contextmanager
    def bring(served: Served) -> Iterator[None]:
        path = served.artifact() / file
        with _away(path) as whole:
            # Another file under the name: the old server may have mapped the whole one.
            path.write_bytes(whole.read_bytes()[:100_000])
            with then(served):
                yield

    return bring


@contextlib.contextmanager
def hung(served: Served) -> Iterator[None]:
    """The server stops working without ending: all its processes are frozen."""
    pod = served.pod()
    frozen = processes.named(pod, "")
    try:
        for number in frozen:
            os.kill(number, signal.SIGSTOP)
        yield
    finally:
        for number in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGCONT)


@contextlib.contextmanager
def hung_until_restarted(served: Served) -> Iterator[None]:
    """The server is frozen for as long as it takes the kubelet to start it again."""
    before = _restarts(served)
    with hung(served):
        yield
        wait_for("the kubelet to start it again", lambda: _restarts(served) > before, seconds=200)


def _restarts(served: Served) -> int:
    (found,) = (one for one in served.pod()["status"]["containerStatuses"] if one["name"] == "server")
    return int(found["restartCount"])


@contextlib.contextmanager
def stub_killed(served: Served) -> Iterator[None]:
    """The process that serves the model for Triton is killed; Triton itself lives on."""
    for number in processes.named(served.pod(), "triton_python_backend_stub"):
        os.kill(number, signal.SIGKILL)
    yield


@contextlib.contextmanager
def shared_memory_full(served: Served) -> Iterator[None]:
    """Something fills /dev/shm, and the server is started again."""
    folder = processes.root(processes.first(served.pod())) / "dev/shm"
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass
    # Through our own descriptor: the process by which the folder was found is about to die.
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with killed(served):
            yield
    finally:
        os.unlink("filler", dir_fd=held)
        os.close(held)


@contextlib.contextmanager
def frozen_start(served: Served) -> Iterator[None]:
    """A new pod's server is frozen before it is up."""
    old = {pod["metadata"]["uid"] for pod in berts.serving_pods(served.kube, served.name)}
    with _replaced(served):
        wait_for("the new server to begin", lambda: _freeze(served, old), seconds=60)
        yield


def _freeze(served: Served, old: set[str]) -> bool:
    pods = [pod for pod in berts.serving_pods(served.kube, served.name) if pod["metadata"]["uid"] not in old]
    found = [number for pod in pods if processes.begun(pod) for number in processes.named(pod, "tritonserver")]
    for number in found:
        os.kill(number, signal.SIGSTOP)
    return bool(found)


@contextlib.contextmanager
def _away(path: Path) -> Iterator[Path]:
    hidden = path.parent / f".{path.name}.away"
    path.rename(hidden)
    try:
        yield hidden
    finally:
        if path.is_dir():
            path.rmdir()  # the kubelet makes a folder that a pod wants to mount
        hidden.rename(path)


def _memory(limit: str) -> Bring:
    # The request, which stays, may not be more than the limit.
    return wish(resources={"requests": berts.LITTLE, "limits": {"cpu": "1", "memory": limit}})


_NO_IMAGE = "localhost/team/no-such-server:1"


def _no_image(server: str, *, usual: bool = False) -> Fault:
    return Fault(
        what="no-such-image",
        server=server,
        bring=wish(image=_NO_IMAGE),
        sign="ErrImagePull",
        reason="ImagePullFailed",
        words=("container server", _NO_IMAGE),
        usual=usual,
    )


def _killed(server: str, *, usual: bool = False) -> Fault:
    return Fault(
        what="server-killed",
        server=server,
        bring=killed,
        sign='"exitCode": 137',
        reason="ContainerKilled",
        words=("container server", "SIGKILL"),
        usual=usual,
    )


def _hung(server: str, bring: Bring = hung) -> Fault:
    return Fault(
        what="server-hangs",
        server=server,
        bring=bring,
        sign=_UNREADY,
        reason="ContainerNotReady",
        words=("container server runs, but no longer answers", "kubectl logs"),
    )


_UNREADY = "containers with unready status: [server]"

ROLLOUTS = (
    Fault(
        what="bad-argument",
        server="triton",
        bring=wish(extraArgs=["--cache-config=nosuch,size=1048576"]),
        sign="libtritoncache_nosuch.so",
        reason="ContainerFailed",
        words=("container server", "unable to find 'libtritoncache_nosuch.so'"),
        usual=True,
    ),
    Fault(
        what="out-of-memory",
        server="triton",
        bring=_memory("64Mi"),
        sign="OOMKilled",
        reason="OutOfMemory",
        words=("limit of 64Mi", "next: write server.resources.limits.memory: 128Mi"),
        usual=True,
    ),
    Fault(
        what="missing-weights",
        server="triton",
        bring=lost(),
        sign="ArtifactMissing",
        reason="ArtifactMissing",
        words=("minilm", "is not on the claim", "bertops.dev/refresh"),
        usual=True,
    ),
    Fault(
        what="torn-weights",
        server="triton",
        bring=torn("model.onnx"),
        sign="ArtifactCorrupt",
        reason="ArtifactCorrupt",
        words=("model.onnx", "found 100000 bytes", "bertops.dev/refresh"),
    ),
    Fault(
        what="no-room",
        server="triton",
        bring=wish(resources={"requests": {"cpu": "100m", "memory": "900Gi"}}),
        sign="Insufficient memory",
        reason="Unschedulable",
        words=("Insufficient memory", "lower server.resources.requests"),
    ),
    Fault(
        what="no-priority-class",
        server="triton",
        bring=wish(podTemplate={"priorityClassName": "no-such-class"}),
        sign="no-such-class",
        reason="DeploymentStuck",
        words=("no PriorityClass with name no-such-class",),
    ),
    Fault(
        what="start-hangs",
        server="triton",
        bring=frozen_start,
        sign='"exitCode": 137',
        reason="StartupTimedOut",
        words=("container server wasn't ready", "kubectl logs"),
        patience=400,
    ),
    _no_image("triton", usual=True),
    _no_image("torchserve"),
    Fault(
        what="foreign-image",
        server="torchserve",
        bring=foreign_image,
        sign="launch.py",
        reason="ContainerFailed",
        words=("container server", "launch.py", "No such file"),
    ),
    Fault(
        what="out-of-memory",
        server="torchserve",
        bring=_memory("64Mi"),
        sign="OOMKilled",
        reason="OutOfMemory",
        words=("limit of 64Mi", "next: write server.resources.limits.memory: 128Mi"),
    ),
    Fault(
        what="missing-weights",
        server="torchserve",
        bring=lost("model.mar"),
        sign="ArtifactCorrupt",
        reason="ArtifactCorrupt",
        words=("model.mar", "No such file", "bertops.dev/refresh"),
    ),
    Fault(
        what="torn-weights",
        server="torchserve",
        bring=torn("model.mar"),
        sign="ArtifactCorrupt",
        reason="ArtifactCorrupt",
        words=("model.mar", "found 100000 bytes", "bertops.dev/refresh"),
    ),
    Fault(
        what="bad-argument",
        server="tfserving",
        bring=wish(extraArgs=["--rest_api_num_threads=many"]),
        sign="rest_api_num_threads",
        reason="ContainerFailed",
        words=("container server", "many", "rest_api_num_threads"),
    ),
    Fault(
        what="foreign-image",
        server="tfserving",
        bring=foreign_image,
        sign="tensorflow_model_server",
        reason="ContainerStartFailed",
        words=("container server", "tensorflow_model_server"),
    ),
    Fault(
        what="out-of-memory",
        server="tfserving",
        bring=_memory("128Mi"),
        sign="OOMKilled",
        reason="OutOfMemory",
        words=("limit of 128Mi", "next: write server.resources.limits.memory: 256Mi"),
    ),
    Fault(
        what="missing-weights",
        server="tfserving",
        bring=lost("saved_model.pb"),
        sign="ArtifactCorrupt",
        reason="ArtifactCorrupt",
        words=("saved_model.pb", "No such file", "bertops.dev/refresh"),
    ),
)
"""A new pod can't serve: the previous one goes on."""

ALONE = (
    _killed("triton", usual=True),
    Fault(
        what="shared-memory-full",
        server="triton",
        bring=shared_memory_full,
        sign='"exitCode": 1,',
        reason="ContainerFailed",
        words=("container server", "failed to load 'minilm' version 1", "No space left on device"),
    ),
    Fault(
        what="weights-lost-under-it",
        server="triton",
        bring=lost("model.onnx", killed),
        sign='"exitCode": 1,',
        reason="ContainerFailed",
        words=("container server", "failed to load 'minilm' version 1", "model.onnx"),
    ),
    Fault(
        what="backend-killed",
        server="triton",
        bring=stub_killed,
        sign=_UNREADY,
        reason="ContainerNotReady",
        words=("container server runs, but no longer answers",),
    ),
    _hung("triton"),
    _killed("torchserve"),
    _hung("torchserve"),
    Fault(
        what="weights-torn-under-it",
        server="torchserve",
        bring=torn("model.mar", killed),
        sign='"exitCode": 1,',
        reason="ContainerFailed",
        words=(
            "TorchServe can't start",
            "/models/sentiment/1/model.mar of model sentiment/1 is no whole model archive",
        ),
    ),
    Fault(
        what="weights-lost-under-it",
        server="torchserve",
        bring=lost("model.mar", killed),
        sign="model.mar",
        reason="ContainerFailed",
        words=("TorchServe can't start", "No such file", "/models/sentiment/1/model.mar"),
    ),
    _killed("tfserving"),
    _hung("tfserving", hung_until_restarted),
    Fault(
        what="weights-lost-under-it",
        server="tfserving",
        bring=lost("saved_model.pb", killed),
        sign="saved_model.pb",
        reason="ContainerFailed",
        words=("sentiment version: 1", "does not exist at: /models/sentiment/1"),
    ),
)
"""The only pod fails: nothing answers until it is back."""
