"""Real servers that fail on a real node (R15): the BertDeployment names the fault within 10 s, what served goes on.

The clock starts when Kubernetes shows the fault in the state of a pod or of the Deployment: a container that ended, an
image that can't be pulled, a pod that no node takes. Before that nobody can know it. TF Serving is the stand-in of
tests/support/tfserving_standin unless TFSERVING_IMAGE names the real image.

By default a few faults of Triton run, whose model is built for others anyhow, beside other tests that need the
processors, too; BERTOPS_ALL_FAULTS=1 runs the table with nothing beside it, and holds the operator to its seconds.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from e2e import berts, load
from e2e.server_faults import ALONE, LOAD, ROLLOUTS, Fault, Served
from support import classifier
from support.installation import Images, wait_ready
from support.kube import LOADED, Kube, condition, wait_for

ALL = bool(os.environ.get("BERTOPS_ALL_FAULTS"))
SECONDS = 10 if ALL else 10 * LOADED
"""From when the cluster shows a fault to when the BertDeployment names it."""


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model, and a classifier over it for the servers that take one."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(model, folder / model.name)
    classifier.make(model, folder / "sentiment")
    return folder


@pytest.fixture(scope="module")
def served(kube: Kube, store: str, images: Images, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A model, Ready, in the server that the test names."""
    server = request.param
    bert = berts.minilm(storage={"claimName": store}) if server == "triton" else berts.sample(f"sentiment-{server}")
    found = Served(kube=kube, images=images, bert=bert)
    found.apply()
    wait_ready(kube, found.name, seconds=400)
    yield found
    kube.kubectl("delete", "bertd", found.name, "--wait=false")


def _table(faults: Sequence[Fault]) -> pytest.MarkDecorator:
    """One server after the other, each served once."""
    rows = [pytest.param(one.server, one, id=f"{one.server}-{one.what}") for one in faults if one.usual or ALL]
    return pytest.mark.parametrize(("served", "fault"), rows, indirect=["served"], scope="module")


def _named(served: Served, fault: Fault) -> dict[str, Any]:
    """The BertDeployment that names the fault, in time."""
    seen: dict[str, float] = {}
    live: list[Any] = []

    def look() -> bool:
        if fault.sign in served.shown():
            seen.setdefault("shown", time.monotonic())
        live[:] = [served.live()]
        if fault.told(live[0]):
            seen.setdefault("named", time.monotonic())
        return len(seen) == 2

    wait_for(
        f"{fault.what} to be named", look, seconds=fault.patience, seen=lambda: (seen, (live[0] or {}).get("status"))
    )
    took = max(0.0, seen["named"] - seen["shown"])  # what is looked at second may be the newer
    print(f"FAULT {fault.server} {fault.what}: {fault.reason} after {took:.1f} s")
    assert took <= SECONDS
    return dict(live[0])


def _mended(served: Served) -> None:
    """Wait until it is Ready with one pod."""
    wait_ready(served.kube, served.name, seconds=300)
    wait_for("one pod left", lambda: len(berts.serving_pods(served.kube, served.name)) == 1, seconds=90)


def _restarted(pod: dict[str, Any]) -> bool:
    return any(status["restartCount"] for status in pod["status"]["containerStatuses"])


@_table(ROLLOUTS)
def test_a_rollout_that_fails_is_named_and_the_previous_version_serves_on(served: Served, fault: Fault) -> None:
    with load.steady_load(
        served.kube, served.images.operator, served.name, LOAD[served.server], server=served.server
    ) as sent:
        with fault.bring(served):
            live = _named(served, fault)
        _mended(served)
    assert condition(live, "Available")["status"] == "True"
    assert sent.sent > 10
    assert sent.failed == []


@_table(ALONE)
def test_a_fault_of_the_only_pod_is_named_until_it_is_back(served: Served, fault: Fault) -> None:
    if _restarted(served.pod()):
        served.renew()
        _mended(served)
    with fault.bring(served):
        live = _named(served, fault)
        assert condition(live, "Available")["status"] == "False"
    _mended(served)
    assert load.ask(served.kube, served.name, LOAD[served.server], server=served.server)
