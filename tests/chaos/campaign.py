"""Runs plans, several at once, keeps a record of each, and says how it goes. `__main__` is its command line."""

import asyncio
import json
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO
from uuid import uuid4

import aiohttp

from chaos import families
from chaos.api import RefusedError
from chaos.lab import code_hash
from chaos.place import Lab, NeverError
from chaos.stories import Reference, Result, compared, reference_run
from stages.__main__ import cache

RECORDS: Final = "campaign.jsonl"


@dataclass(kw_only=True)
class Campaign:
    """One run over many plans."""

    lab: Lab
    at_once: int
    out: TextIO = sys.stderr
    records: Path = field(default_factory=lambda: cache() / "chaos" / RECORDS)
    code: str = field(default_factory=code_hash)
    results: list[Result] = field(default_factory=list)
    _references: dict[str, asyncio.Task[Reference]] = field(default_factory=dict)
    _room: asyncio.Semaphore = field(init=False)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(self.at_once)

    async def reference(self, name: str) -> Reference:
        """What a workload comes to without faults; run twice, once per campaign."""
        if name not in self._references:
            self._references[name] = asyncio.create_task(self._reference(name))
        return await asyncio.shield(self._references[name])

    async def _reference(self, name: str) -> Reference:
        async def once() -> Any:
            async with self._room:
                return await reference_run(self.lab, families.by_name(name), _namespace(f"ref-{name}"))

        return compared(await asyncio.gather(once(), once()))

    async def run(self, plans: Sequence[str], *, resume: bool = False) -> list[Result]:
        """Run all plans, and say of each how it ended."""
        done = {one.plan: one for one in known(self.records, self.code)} if resume else {}
        waiting = [plan for plan in plans if plan not in done]
        self.results = [done[plan] for plan in plans if plan in done]
        if self.results:
            self._say(f"{len(self.results)} plans are done already for this code")
        self._began = time.monotonic()
        # What stands alone on the machine comes last, one by one.
        crowd = [plan for plan in waiting if not families.alone(plan)]
        await asyncio.gather(*(self._one(plan, len(plans)) for plan in crowd))
        for plan in waiting:
            if families.alone(plan):
                await self._one(plan, len(plans))
        return self.results

    async def _one(self, plan: str, total: int) -> None:
        name = families.workload(plan)
        try:
            reference = None if name is None else await self.reference(name)
        except (NeverError, RefusedError) as error:
            result = Result(plan=plan, problems=[f"the reference run: {error}"])
        else:
            async with self._room:
                began, namespace = time.monotonic(), _namespace(plan)
                result = await self._safely(plan, namespace, reference)
                result.seconds = round(time.monotonic() - began, 1)
            self._tidy(result, namespace)
        self.results.append(result)
        self._keep(result)
        self._tell(result, total)

    def _tidy(self, result: Result, namespace: str) -> None:
        """Keep the log and the trace of what failed."""
        folder, kept = self.lab.folder / namespace, self.evidence(result.plan)
        shutil.rmtree(kept, ignore_errors=True)
        if result.problems and folder.exists():
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("kubeconfig"))
        shutil.rmtree(folder, ignore_errors=True)

    def evidence(self, plan: str) -> Path:
        """Where a failed plan leaves its operator's log and the trace of its requests."""
        return self.records.parent / "failed" / plan.replace("/", "_")

    async def _safely(self, plan: str, namespace: str, reference: Reference | None) -> Result:
        try:
            return await families.run(self.lab, plan, namespace, reference)
        except (NeverError, RefusedError) as error:
            return Result(plan=plan, problems=[str(error)])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return Result(plan=plan, problems=[f"the campaign itself: {error!r} at {where.name}:{where.lineno}"])

    def _keep(self, result: Result) -> None:
        self.records.parent.mkdir(parents=True, exist_ok=True)
        with self.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"code": self.code, "at": int(time.time())} | asdict(result)) + "\n")

    def _tell(self, result: Result, total: int) -> None:
        done, spent = len(self.results), time.monotonic() - self._began
        left = spent / done * (total - done)
        word = "FAILED" if result.problems else "not reached" if result.unreached else "ok"
        self._say(f"[{done}/{total}, about {left / 60:.0f} min left] {result.plan}: {word}, {result.seconds:.0f} s")
        for problem in result.problems:
            self._say(f"    {problem}")
        if result.problems:
            self._say(f"    log and trace: {self.evidence(result.plan)}")
            self._say(f"    again: make campaign ONLY={result.plan}")

    def _say(self, text: str) -> None:
        print(text, file=self.out, flush=True)


def known(records: Path, code: str) -> list[Result]:
    """The last result of each plan for this code that did not fail."""
    if not records.exists():
        return []
    found = {}
    for line in records.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one.pop("code") == code:
            one.pop("at")
            found[one["plan"]] = Result(**one)
    return [one for one in found.values() if not one.problems]


def _namespace(plan: str) -> str:
    words = "".join(letter if letter.isalnum() else "-" for letter in plan.lower())
    return f"{words[:40].strip('-')}-{uuid4().hex[:5]}"


def failed(results: Iterable[Result]) -> list[Result]:
    """Those with problems."""
    return [one for one in results if one.problems]
