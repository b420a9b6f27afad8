"""kubectl and helm, as a user types them. For the demo and the end-to-end tests."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

T = TypeVar("T")
POLL_SECONDS: Final = 0.8
"""A look is a kubectl, which costs a tenth of a second of a processor."""
LOADED: Final = 3
"""Times as long as on a machine at rest is waited before something counts as never coming: other tiers run, too."""


class CommandError(Exception):
    """A command of the user's tools failed; the text is what it printed."""


class TooLate(Exception):  # noqa: N818 - reads as a sentence where it is raised
    """A condition didn't come true in time; the text says what was last seen."""


@dataclass(frozen=True, kw_only=True)
class Kube:
    """One cluster and one namespace."""

    kubeconfig: Path
    namespace: str = "default"
    tools: Path | None = None
    """Folder with kubectl and helm; unset: PATH."""

    def environment(self) -> dict[str, str]:
        """Environment in which the tools find the cluster."""
        path = os.pathsep.join([*([str(self.tools)] if self.tools else []), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a command and return what it prints.

        Raises:
            CommandError: it failed, or there is no such program.
        """
        try:
            done = subprocess.run(
                command, env=self.environment(), input=stdin, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise CommandError(f"{command[0]} isn't on PATH: install it") from error
        if check and done.returncode:
            raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in the namespace."""
        return self.run("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin, check=check)

    def helm(self, *arguments: str) -> str:
        """Run helm."""
        return self.run("helm", *arguments)

    def apply(self, manifest: dict[str, Any] | Path) -> None:
        """`kubectl apply` of a file or of one object."""
        if isinstance(manifest, Path):
            self.kubectl("apply", "-f", str(manifest))
        else:
            self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None."""
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> Sequence[dict[str, Any]]:
        """Objects of a kind."""
        found = self.kubectl("get", kind, "-o", "json", *(["-l", selector] if selector else []))
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def wait_condition(self, kind: str, name: str, condition: str, status: str, *, seconds: float) -> None:
        """`kubectl wait` for a condition of the present generation: one watch instead of a process for each look.

        Raises:
            TooLate: it didn't come; the text holds the object's status.
        """
        wanted = f"--for=condition={condition}={status}"
        try:
            self.kubectl("wait", kind, name, wanted, f"--timeout={seconds * LOADED:.0f}s")
        except CommandError as error:
            seen = (self.get(kind, name) or {}).get("status")
            raise TooLate(f"{kind}/{name} {condition}={status}: {error}; last seen: {seen}") from error

    @contextlib.contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[str]:
        """host:port on this machine that reaches a port of a Service or pod."""
        command = ["kubectl", "--namespace", self.namespace, "port-forward", target, f":{port}"]
        with subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                line = process.stdout.readline() if process.stdout else ""
                if "Forwarding from" not in line:
                    raise CommandError(f"{' '.join(command)}: {line.strip()}")
                yield line.split("Forwarding from ")[1].split(" ->")[0]
            finally:
                process.terminate()


def wait_for(
    what: str,
    look: Callable[[], T | None],
    *,
    seconds: float,
    seen: Callable[[], object] = str,
    patience: float = LOADED,
) -> T:
    """Look until something is there.

    Args:
        what: is looked for, in words.
        look: gives it once it is there.
        seconds: that it may take on a machine at rest.
        seen: what to tell if it never is.
        patience: times as long is waited.

    Raises:
        TooLate: it isn't; the text says what was seen last.
    """
    seconds *= patience
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TooLate(f"{what}: not within {seconds:.0f} s; last seen: {seen()}")
        time.sleep(POLL_SECONDS)


def condition(live: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """One condition of a BertDeployment, for its present generation; empty while there is none."""
    if live is None:
        return {}
    for found in (live.get("status") or {}).get("conditions") or ():
        if found["type"] == kind and found["observedGeneration"] == live["metadata"]["generation"]:
            return dict(found)
    return {}
