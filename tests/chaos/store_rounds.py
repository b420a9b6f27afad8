"""`python3 -m chaos.store_rounds`: builders, collectors and readers on one real file system, killed and lied to.

Each round makes a store, lets several processes of the real code work on it at once, spoils some of them at a chosen
step (a step is a call that touches the disk), and then looks: was anything half-written ever served, is anything that
was finished lost. What a round does follows from its seed alone; who of several processes comes first does not.
`make data-safety` runs it, and before that a sweep: one process alone, killed at its first step, at its second, and so
on to its last.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from bert_build.store import Store
from chaos import store_actors as actors
from chaos.store_actors import Actor, Fault

KILLS: Final = ("kill", "torn")
FAULTS: Final = (*KILLS, *KILLS, "full", "read-only", "vanish", "slow", "freeze", "skew", "touch")
"""Kills are drawn twice as often as each of the others."""
CALLS: Final = ("os.rename", "os.fsync", "os.mkdir", "os.link", "os.remove", "os.rmdir", "os.utime", "write")
"""Half of the faults come at the first calls of one of these, the others anywhere."""
STEPS: Final = {"build": 90, "find": 40, "collect": 60, "reuse": 10}
"""About how many steps each takes when nothing goes wrong; a fault beyond the last never comes."""
FIRST_SWEEP: Final = 1_000_000
SWEEPS: Final = {1 * FIRST_SWEEP: "build", 2 * FIRST_SWEEP: "collect", 3 * FIRST_SWEEP: "find"}
"""Seeds from which on a round is one of the sweep: that many steps further, this kind of process is killed."""
AT_ONCE: Final = 4
SMALL: Final = "size=1m"
"""Of the claim in rounds with a disk that is really full."""
DAY: Final = 86400.0
PATIENCE: Final = 120.0
"""Seconds after which whoever still works hangs."""


@dataclass
class Round:
    """What one round was and came to."""

    seed: int
    faults: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    """Faults that came, each with the call that they came at."""
    violations: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Exit status: 1 if a round broke a promise."""
    parser = argparse.ArgumentParser(prog="python3 -m chaos.store_rounds", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the others count up")
    parser.add_argument("--sweep", action="store_true", help="first kill each kind of process at each of its steps")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="rounds that run at once (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="file that gets the figures as JSON")
    chosen = parser.parse_args()
    began, done = time.monotonic(), list[Round]()
    mounts = can_mount()
    seeds = [*range(chosen.seed, chosen.seed + chosen.rounds)]
    if chosen.sweep:
        seeds = [first + at for first, kind in SWEEPS.items() for at in range(1, STEPS[kind] + 1)] + seeds
    # Forked from a process without threads: actors are forked from the workers.
    with ProcessPoolExecutor(chosen.at_once, mp_context=get_context("fork")) as pool:
        for one in pool.map(partial(run, mounts=mounts), seeds):
            done.append(one)
            _tell(one, done, len(seeds))
    figures = summed(done, seconds=time.monotonic() - began, mounts=mounts)
    if chosen.write:
        chosen.write.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))
    return 1 if figures["violations"] else 0


def _tell(one: Round, done: Sequence[Round], rounds: int) -> None:
    for violation in one.violations:
        print(f"seed {one.seed} ({', '.join(one.faults) or 'no fault'}): {violation}", file=sys.stderr)
        print(f"    again: make data-safety SEED={one.seed} ROUNDS=1", file=sys.stderr, flush=True)
    if len(done) % 100 == 0:
        found = sum(len(each.violations) for each in done)
        print(f"[{len(done)}/{rounds}] {found} violations", file=sys.stderr, flush=True)


def summed(done: Sequence[Round], *, seconds: float, mounts: bool) -> dict[str, Any]:
    """The figures of a run."""
    reached = [one for each in done for one in each.reached]
    swept = [each for each in done if each.seed >= FIRST_SWEEP]
    return {
        "plans": len(done),
        "failed": sum(bool(each.violations) for each in done),
        "first_seed": min((each.seed for each in done), default=0),
        "swept_steps": {
            kind: sum(bool(each.reached) for each in swept if each.seed // FIRST_SWEEP * FIRST_SWEEP == first)
            for first, kind in SWEEPS.items()
        },
        "violations": sum(len(each.violations) for each in done),
        "failed_seeds": [each.seed for each in done if each.violations],
        "rounds_with_a_fault": sum(bool(each.reached) for each in done),
        "faults": dict(sorted(Counter(one.split(" at ")[0] for one in reached).items())),
        "kill_points": dict(sorted(Counter(one.split(" at ")[1] for one in reached if one.startswith(KILLS)).items())),
        "outcomes": dict(sorted(sum((each.outcomes for each in done), Counter[str]()).items())),
        "full_disk": "tmpfs" if mounts else "injected",
        "seconds": round(seconds, 1),
    }


def can_mount() -> bool:
    """Whether this process may mount a tmpfs: then a disk is really full."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return mounted.returncode == 0


def run(seed: int, *, mounts: bool = False) -> Round:
    """Play one round."""
    chance = random.Random(seed)  # noqa: S311 - what to spoil is no secret
    done = Round(seed)
    small = mounts and seed < FIRST_SWEEP and chance.random() < 0.1
    with (
        actors.hushed(),
        tempfile.TemporaryDirectory(prefix="store-rounds-") as folder,
        claim(Path(folder), small=small) as mount,
    ):
        play = Play(Path(folder), mount, chance, done)
        if small:
            done.faults.append("a small disk")
            play.fill(chance)
        if seed >= FIRST_SWEEP:
            first = seed // FIRST_SWEEP * FIRST_SWEEP
            play.sweep(SWEEPS[first], seed - first)
        else:
            play.prepare()
            play.act()
        play.judge()
    return done


@contextmanager
def claim(folder: Path, *, small: bool) -> Iterator[Path]:
    """The folder that stands for the claim."""
    mount = folder / "claim"
    mount.mkdir()
    if not small:
        yield mount
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


class Play:
    """One round under way."""

    def __init__(self, folder: Path, mount: Path, chance: random.Random, done: Round) -> None:
        self.folder, self.mount, self.chance, self.done = folder, mount, chance, done
        self.store = Store(mount)
        self.keys = [f"{chance.getrandbits(128):032x}" for _ in range(chance.randint(1, 2))]
        self.old: dict[str, str] = {}
        """Published long before the round -> digest of its manifest."""
        self.known: dict[str, set[str]] = {}
        """Key -> digests of all manifests that any builder may publish."""
        self.actors: list[Actor] = []

    def fill(self, chance: random.Random) -> None:
        """Leave room for a part of an artifact only, or for none or some."""
        (self.mount / "others").write_bytes(bytes(chance.randrange(600, 1000) << 10))

    def prepare(self) -> None:
        """What was there before: artifacts, a folder of the kubelet's, what is no artifact, a lock of the dead."""
        self.store.folder.mkdir()
        for key in [*self.keys, f"{self.chance.getrandbits(128):032x}"]:
            before = self.chance.choice(("nothing", "artifact", "artifact", "empty folder", "half"))
            target = self.store.path("onnx", key)
            if before == "artifact":
                self._published(key, aside=self.chance.random() < 0.3)
            elif before == "empty folder":
                target.mkdir()
            elif before == "half":
                target.mkdir()
                (target / "model.onnx").write_bytes(b"half")
            if self.chance.random() < 0.1:
                lock = self.store.folder / f".lock-onnx-{key}"
                lock.write_text('{"holder": "dead", "id": "1"}')
                os.utime(lock, (time.time() - 300,) * 2)

    def _published(self, key: str, *, aside: bool) -> None:
        """An artifact of long ago, in place or put aside because nothing used it."""
        scratch = self.folder / f"old-{key}"
        made = actors.staged(scratch, key, "old")
        try:
            self.store.publish(scratch, made, "long ago")
        except Exception:  # noqa: BLE001 - the disk may be full already
            return
        target = self.store.path("onnx", key)
        self.old[key] = self.store.manifest_sha256("onnx", key)
        self.known.setdefault(key, set()).add(self.old[key])
        os.utime(target, (time.time() - 2 * DAY,) * 2)
        if aside:
            trash = self.store.folder / f".trash-{target.name}.{self.chance.getrandbits(64):x}"
            target.rename(trash)
            os.utime(trash)

    def act(self) -> None:
        """Let everybody work at once, and wait until all have ended."""
        kinds = [self.chance.choice(("build", "build", "find", "collect", "collect", "reuse")) for _ in range(4)]
        kinds = kinds[: self.chance.randint(2, 4)]
        for number, kind in enumerate(kinds):
            key = self.chance.choice(self.keys)
            actor = Actor(kind=kind, key=key, name=f"{kind}{number}", fault=self._fault(kind), mount=self.mount)
            if kind == "build":
                actor.scratch = self.folder / actor.name
                actor.manifest = actors.staged(actor.scratch, key, actor.name)
                self.known.setdefault(key, set()).add(actors.digest(actor.manifest))
            if actor.fault:
                self.done.faults.append(
                    f"{actor.name}: {actor.fault.kind} at {actor.fault.on or 'step'} {actor.fault.at}"
                )
            self.actors.append(actor)
        self._work()

    def sweep(self, kind: str, at: int) -> None:
        """One process alone, killed at its step `at`."""
        self.store.folder.mkdir()
        (key, *_) = self.keys
        actor = Actor(kind=kind, key=key, name=kind, fault=Fault("kill", at=at), mount=self.mount)
        if kind == "build":
            actor.scratch = self.folder / kind
            actor.manifest = actors.staged(actor.scratch, key, kind)
            self.known[key] = {actors.digest(actor.manifest)}
        else:
            self._published(key, aside=kind == "find")
        self.done.faults.append(f"{kind}: kill at step {at}")
        self.actors.append(actor)
        self._work()

    def _work(self) -> None:
        """Let them all go, and look on."""
        with actors.running(self.actors):
            deadline = time.monotonic() + PATIENCE
            while not all(actor.ended() for actor in self.actors):
                self._serve()
                if time.monotonic() > deadline:
                    hung = [actor.name for actor in self.actors if not actor.ended()]
                    self.done.violations.append(f"hung: {', '.join(hung)} after {PATIENCE:.0f} s")
                    break
                time.sleep(0.002)  # how often pods start isn't the point; those who work need the CPU
        for actor in self.actors:
            said = actor.result()
            self.done.outcomes[f"{actor.kind}: {said['outcome']}"] += 1
            if said.get("fault"):
                self.done.reached.append(str(said["fault"]))
            if said["outcome"] == "unexpected":
                self.done.violations.append(f"{actor.name} ended with {said['error']}")

    def _fault(self, kind: str) -> Fault | None:
        if self.chance.random() < 0.25:
            return None
        what, on = self.chance.choice(FAULTS), self.chance.choice(CALLS)
        if what == "torn" or self.chance.random() < 0.5:
            on = ""
        return Fault(what, at=self.chance.randint(1, 3 if on else STEPS[kind]), on=on, seed=self.chance.random())

    def _serve(self) -> None:
        """Be a pod that starts this very moment: whatever is in place with a manifest must be whole."""
        for key in [*self.keys, *self.old]:
            torn = actors.torn(self.store.path("onnx", key), self.known.get(key, set()))
            if torn:
                self.done.violations.append(f"served half: {torn}")

    def judge(self) -> None:
        """Everybody has ended, well or not: is all kept that was promised, and can the next one work?"""
        self._serve()
        self._recorded_again()
        (self.mount / "others").unlink(missing_ok=True)
        promised = dict(self.old)
        collected = {actor.key for actor in self.actors if actor.kind == "collect"}
        for actor in self.actors:
            if told := actor.result().get("manifest"):
                promised[actor.key] = str(told)
        reported = {actor.key for actor in self.actors if actor.result().get("manifest")}
        for entry in self.store.folder.glob(".*"):
            # Two days later: whoever died is dead by any clock.
            if not entry.name.startswith(".trash-onnx-"):
                with suppress(FileNotFoundError):
                    os.utime(entry, (time.time() - 2 * DAY,) * 2, follow_symlinks=False)
        for key, digest in promised.items():
            if key in reported or key not in collected:
                self._kept(key, digest, collected=key in collected)
        self._works_on()

    def _recorded_again(self) -> None:
        """What the only collector of an artifact calls kept gets its record back: it must be there."""
        collectors = [actor for actor in self.actors if actor.kind == "collect"]
        keys = Counter(actor.key for actor in collectors)
        for actor in collectors:
            target = self.store.path("onnx", actor.key)
            if keys[actor.key] == 1 and actor.result()["outcome"] == "kept" and not (target / "manifest.json").exists():
                self.done.violations.append(f"served from nothing: {target.name[:13]} is called kept and isn't there")

    def _kept(self, key: str, digest: str, *, collected: bool) -> None:
        """A finished artifact is in its place, or is brought back whole by the build that next wants it."""
        in_place = actors.accepted(self.store.path("onnx", key), digest)
        found = self.store.found("onnx", key)
        if found is None:
            self.done.violations.append(f"lost: onnx-{key[:8]} was finished and isn't there")
        elif self.store.manifest_sha256("onnx", key) != digest:
            self.done.violations.append(f"replaced: onnx-{key[:8]} isn't the one that was reported")
        elif not in_place:
            self.done.outcomes["kept: brought back by the next build"] += 1
            killed = any(actor.result()["outcome"] == "died" for actor in self.actors if actor.kind == "collect")
            put_aside_before = key in self.old
            if collected and not killed and not put_aside_before:
                self.done.violations.append(f"gone: onnx-{key[:8]} was put aside although it was wanted just now")
        else:
            self.done.outcomes["kept: in place"] += 1

    def _works_on(self) -> None:
        """A later build gets through, and nothing of the dead is left."""
        for key in self.keys:
            scratch = self.folder / f"last-{key}"
            made = actors.staged(scratch, key, "last")
            self.store.publish(scratch, made, "the last")
            if self.store.sound("onnx", key) is None:
                self.done.violations.append(f"stuck: onnx-{key[:8]} can't be published any more")
        left = [
            entry.name for entry in self.store.folder.glob(".*") if not entry.name.startswith((".trash-", ".lock-"))
        ]
        locks = [f".lock-onnx-{key}" for key in self.keys if (self.store.folder / f".lock-onnx-{key}").exists()]
        if left or locks:
            self.done.violations.append(f"left behind: {', '.join([*left, *locks])}")


if __name__ == "__main__":
    sys.exit(main())
