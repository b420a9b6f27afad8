"""R10: two whole operators and one Lease. Leaders are killed, told to end, and stopped as a frozen machine stops them.

`python3 -m chaos.leader --rounds 20 --pauses 4` prints one JSON line; exit status 1 if anything was late, or written by
one who doesn't lead. What counts is the API server's audit log: who wrote what, when. Each operator has a token of its
own, and the log names tokens. All times are of one machine.
"""

import argparse
import base64
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import yaml

from chaos.lab import control_plane
from stages.__main__ import cache
from support.kube_api import KubeApi
from support.operator_process import OperatorProcess, eventually, install_crds, operator

SMALL: Final = "support.small_operator"
MERGE: Final = "application/merge-patch+json"
LEASE: Final = "bert-operator"
KILLED_SECONDS: Final = 20.0
TOLD_SECONDS: Final = 3.0
STOPPED_SECONDS: Final = 30.0
DEADLINE_SECONDS: Final = 10.0
"""The leader's renew deadline: no write may come later than this after its last renewal."""
TICK_SECONDS: Final = 0.5
"""Between two changes of the BertDeployment: there is always something to write."""
CREDENTIAL: Final = "authentication.kubernetes.io/credential-id"
WRITES: Final = frozenset({"create", "update", "patch", "delete"})


@dataclass(frozen=True, kw_only=True)
class Write:
    """One write of an operator, as the API server saw it."""

    at: float
    token: str
    lease: bool
    what: str
    code: int


@dataclass(kw_only=True)
class Audit:
    """What the operators of one namespace wrote; reads on where it stopped."""

    file: Path
    namespace: str
    _offset: int = 0
    _writes: list[Write] = field(default_factory=list)

    def since(self, moment: float) -> list[Write]:
        """In the order in which they arrived."""
        mark = f'"system:serviceaccount:{self.namespace}:'.encode()
        with self.file.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._offset += len(line)
                if mark in line and (event := json.loads(line))["verb"] in WRITES:
                    self._writes.append(_write(event))
        return sorted((write for write in self._writes if write.at >= moment), key=lambda write: write.at)


@dataclass(kw_only=True)
class One:
    """An operator process and the token it writes with."""

    process: OperatorProcess
    token: str
    stack: ExitStack

    def send(self, number: signal.Signals) -> float:
        """Send a signal; says when."""
        now = time.time()
        self.process.process.send_signal(number)
        return now

    def gone(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.process.wait(60)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.process.poll() is None:
            self.process.process.send_signal(signal.SIGCONT)
        self.stack.close()


@dataclass(kw_only=True)
class Round:
    """How one fault ended."""

    fault: str
    seconds: float
    """From the fault to the first write of the next leader."""
    problems: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Shard:
    """One namespace with its Lease, its two operators and something that always changes."""

    kubeconfig: Path
    audit: Audit
    folder: Path
    random: random.Random
    started: int = 0

    @property
    def namespace(self) -> str:
        """Where it all is."""
        return self.audit.namespace

    def run(self, faults: Iterable[str]) -> list[Round]:
        """Let each fault meet the leader; whoever it ends comes back as the standby."""
        with KubeApi(self.kubeconfig) as api:
            api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
            rounds = []
            leader, standby = self._start(api), self._start(api)
            try:
                eventually("one leads", lambda: self.audit.since(0))
                with self._changes():
                    for fault in faults:
                        rounds.append(self._round(fault, leader, standby))
                        print(f"{self.namespace} {rounds[-1]}", file=sys.stderr, flush=True)
                        leader.close()
                        leader, standby = standby, self._start(api)
            finally:
                leader.close()
                standby.close()
                api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
            return rounds

    def _round(self, fault: str, leader: One, standby: One) -> Round:
        eventually("the leader writes", lambda: self._first(leader, time.time() - 2))
        time.sleep(self.random.uniform(0, 2))  # anywhere between two renewals
        number = {"killed": signal.SIGKILL, "told": signal.SIGTERM, "stopped": signal.SIGSTOP}[fault]
        began = leader.send(number)
        write = eventually("the next leader writes", lambda: self._first(standby, began))
        limit = TOLD_SECONDS if fault == "told" else KILLED_SECONDS
        done = Round(fault=fault, seconds=round(write.at - began, 2))
        if done.seconds > limit:
            done.problems.append(f"the next write came after {done.seconds} s, not {limit} s")
        if fault == "stopped":
            done.problems += self._woken(leader, began)
        status = leader.gone()
        if (status == 0) != (fault == "told"):
            done.problems.append(f"exit status {status}")
        found = self.audit.since(began - 5)
        done.problems += unlawful(found)
        if fault == "told":
            done.problems += after_giving_back(found, leader.token)
        return done

    def _woken(self, leader: One, stopped: float) -> Iterator[str]:
        """A leader that slept for long: it says one word, and touches nothing."""
        time.sleep(max(0.0, stopped + STOPPED_SECONDS - time.time()))
        woken = leader.send(signal.SIGCONT)
        leader.gone()
        # What was on its way when it was stopped had left it before.
        late = [write for write in self.audit.since(woken) if write.token == leader.token]
        yield from (f"wrote after it woke: {write.what}" for write in late)
        told = [line["message"] for line in leader.process.lines() if line["level"] == "error"]
        if len(told) != 1 or "Lease" not in told[0]:
            yield f"said {told!r}"

    def _start(self, api: KubeApi) -> One:
        self.started += 1
        folder = self.folder / f"{self.namespace}-{self.started}"
        folder.mkdir()
        election = {"leaderElection": {"namespace": self.namespace, "name": LEASE}}
        stack = ExitStack()
        process = stack.enter_context(
            operator(api, folder, "-n", self.namespace, module=SMALL, settings=election, kill=True)
        )
        return One(process=process, token=_token_id(folder / "kubeconfig"), stack=stack)

    @contextmanager
    def _changes(self) -> Iterator[None]:
        """Change the BertDeployment all the time."""
        over = threading.Event()
        changer = threading.Thread(target=self._change, args=(over,), daemon=True)
        changer.start()
        try:
            yield
        finally:
            over.set()
            changer.join()

    def _change(self, over: threading.Event) -> None:
        path = f"/apis/bertops.dev/v1alpha1/namespaces/{self.namespace}/bertdeployments"
        with KubeApi(self.kubeconfig) as api:
            made = api.request("POST", path, _bert())
            assert made.code == 201, made.message
            replicas = 1
            while not over.wait(TICK_SECONDS):
                replicas = replicas % 9 + 1
                api.request("PATCH", f"{path}/demo", {"spec": {"replicas": replicas}}, content_type=MERGE)

    def _first(self, one: One, since: float) -> Write | None:
        """The first piece of work that an operator wrote after a moment."""
        mine = (write for write in self.audit.since(since) if write.token == one.token and not write.lease)
        return next(mine, None)


def _write(event: dict[str, Any]) -> Write:
    target = event.get("objectRef") or {}
    return Write(
        at=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
        token=event["user"]["extra"][CREDENTIAL][0],
        lease=target.get("resource") == "leases",
        what=f"{event['verb']} {target.get('resource')}/{target.get('name')}",
        code=(event.get("responseStatus") or {}).get("code", 0),
    )


def unlawful(found: Iterable[Write]) -> list[str]:
    """Writes by one who didn't hold the Lease: another wrote the Lease last, or the renewal was too long ago.

    A Lease that is given back is written by its holder too, so what that one writes then looks lawful here until the
    next holder's first word: `after_giving_back` sees it.
    """
    holder, renewed, wrong = "", float("-inf"), []
    for write in found:
        if write.lease:
            if write.code < 400:
                holder, renewed = write.token, write.at
        elif holder and (write.token != holder or write.at > renewed + DEADLINE_SECONDS):
            wrong.append(f"{write.token} wrote {write.what} {write.at - renewed:.2f} s after {holder} wrote the Lease")
    return wrong


def after_giving_back(found: Iterable[Write], token: str) -> list[str]:
    """Writes of one who was told to end, after its last word about the Lease: giving that back is the last of all."""
    mine = [write for write in found if write.token == token]
    last = max((write.at for write in mine if write.lease), default=float("-inf"))
    late = (write for write in mine if not write.lease and write.at > last)
    return [f"{token} wrote {write.what} {write.at - last:.2f} s after its last word about the Lease" for write in late]


def _bert() -> dict[str, Any]:
    source = {"pvc": {"claimName": "weights"}}
    model = {"name": "m", "build": {"task": "feature-extraction"}, "versions": [{"version": 1, "source": source}]}
    spec = {"replicas": 1, "server": {"type": "triton"}, "storage": {"size": "1Gi"}, "models": [model]}
    head = {"apiVersion": "bertops.dev/v1alpha1", "kind": "BertDeployment", "metadata": {"name": "demo"}}
    return head | {"spec": spec}


def _token_id(kubeconfig: Path) -> str:
    """How the audit log names the token of a kubeconfig."""
    token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    body = token.split(".")[1]
    return f"JTI={json.loads(base64.urlsafe_b64decode(body + '=' * (-len(body) % 4)))['jti']}"


def summary(rounds: list[Round]) -> dict[str, Any]:
    """R10's figures; seconds are from the fault to the next leader's first write."""
    said: dict[str, Any] = {"rounds": len(rounds), "failed": sum(bool(one.problems) for one in rounds)}
    said["problems"] = [f"{one.fault}: {problem}" for one in rounds for problem in one.problems]
    said["writes_by_non_holder"] = sum("wrote" in problem for one in rounds for problem in one.problems)
    for fault in ("killed", "told", "stopped"):
        seconds = [one.seconds for one in rounds if one.fault == fault]
        if seconds:
            figures = {"median": round(statistics.median(seconds), 2), "max": max(seconds)}
            said[f"{fault}_seconds"] = {"rounds": len(seconds), **figures}
    return said


def faults(rounds: int, pauses: int, seed: int) -> list[str]:
    """Which faults, well mixed."""
    wanted = ["killed", "told"] * rounds + ["stopped"] * pauses
    random.Random(seed).shuffle(wanted)  # noqa: S311 - no secret
    return wanted


def main() -> int:
    """Exit status: 1 if a round failed."""
    parser = argparse.ArgumentParser(prog="python3 -m chaos.leader", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="kills, and as many SIGTERMs (default: %(default)s)")
    parser.add_argument(
        "--pauses", type=int, default=4, help="leaders that are stopped for 30 s (default: %(default)s)"
    )
    parser.add_argument("--at-once", type=int, default=4, help="pairs of operators (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the faults")
    parser.add_argument("--cluster", default="leader", help="localcluster's name (default: %(default)s)")
    chosen = parser.parse_args()
    began, wanted = time.monotonic(), faults(chosen.rounds, chosen.pauses, chosen.seed)
    audit = cache() / "clusters" / chosen.cluster / "logs" / "audit.log"
    with control_plane(chosen.cluster, "--audit") as kubeconfig, tempfile.TemporaryDirectory() as scratch:
        with KubeApi(kubeconfig) as api:
            install_crds(api)
        shards = [
            Shard(
                kubeconfig=kubeconfig,
                audit=Audit(file=audit, namespace=f"leader-{uuid4().hex[:8]}"),
                folder=Path(scratch),
                random=random.Random(f"{chosen.seed}/{at}"),  # noqa: S311 - no secret
            )
            for at in range(min(chosen.at_once, len(wanted)))
        ]
        with ThreadPoolExecutor(len(shards)) as pool:
            parts = pool.map(lambda at: shards[at].run(wanted[at :: len(shards)]), range(len(shards)))
            rounds = [one for part in parts for one in part]
    print(json.dumps({"R10": summary(rounds) | {"seconds": round(time.monotonic() - began)}}))
    return 1 if any(one.problems for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
