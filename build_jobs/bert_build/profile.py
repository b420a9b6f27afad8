"""`python -m bert_build profile [--prepare]`: measures one artifact in each of a few ways of serving it.

`--prepare` lays out the repository before the server beside us starts. Then, for each variant: load it, let Model
Analyzer and perf_analyzer measure it, unload it. When the budget is spent, what was measured counts; SIGTERM stops at
once. Everything that the analyzer wrote is kept on the claim.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import yaml

from bert_build import analyzer_config, environment, failures, files, golden_answers, job, progress, report_io
from bert_build.failures import BuildError
from bert_build.triton_admin import Admin, ServerError
from bert_operator.api import names
from bert_operator.api.measurement import AskedVariant, MeasuredVariant, ProfileReport, ProfileRequest

STEP: Final = "profile"
_CSV: Final = "results/metrics-model-inference.csv"
_REPORT_IT: Final = "This is a defect of bert-operator: please report it with the pod's log."
_GRACE_SECONDS: Final = 20
"""For the analyzer to end by itself once it was told to."""
_DRAFT: Final = ".tmp-"
_REQUEST: Final = "request.json"
"""In the folder of a run: what was asked."""
_OLD_SECONDS: Final = 24 * 3600
"""No run takes so long: a draft of this age is nobody's, and what a run of this age measured is recorded or lost."""


@dataclass(frozen=True)
class Folders:
    """Where a run finds and leaves things."""

    artifact: Path = Path(names.ARTIFACT_MOUNT)
    repository: Path = Path(names.PROFILE_MOUNT)
    work: Path = Path(names.WORK_MOUNT)
    store: Path = Path(names.STORE_MOUNT)
    program: Path = field(default_factory=lambda: Path(sys.executable).with_name("model-analyzer"))

    @property
    def inputs(self) -> Path:
        """perf_analyzer's input file."""
        return self.work / "inputs.json"


@dataclass
class Clock:
    """How much of the budget is left."""

    budget: float
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.budget - self.elapsed


def main(arguments: list[str]) -> int:
    """Prepare or measure; returns the exit code."""
    parser = argparse.ArgumentParser("bert_build profile", description="Measure an artifact on the server beside us.")
    parser.add_argument("--prepare", action="store_true", help="only lay out the server's repository")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, job.stop)
    folders = Folders()
    action = prepare if options.prepare else measure
    return job.guarded(STEP, lambda: action(environment.read(ProfileRequest, names.PROFILE_REQUEST_ENV), folders))


def prepare(request: ProfileRequest, folders: Folders) -> None:
    """Check the artifact and make one model of it for each variant: a config.pbtxt and a link, no copy.

    Raises:
        BuildError: the artifact isn't the built one.
    """
    manifest = folders.artifact / names.MANIFEST_FILE
    for file in (manifest, folders.artifact / request.model_file, folders.artifact / names.GOLDEN_FILE):
        if not file.is_file():
            raise _not_built(request, f"{file.name} is missing")
    if files.sha256_of(manifest) != request.manifest_sha256:
        raise _not_built(request, f"{manifest.name} was changed")
    for variant in request.variants:
        folder = folders.repository / variant.name
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(variant.config, encoding="utf-8")
        (folder / str(request.version)).symlink_to(folders.artifact)
    progress.say(STEP, f"{len(request.variants)} variants of {request.artifact} are laid out")


def measure(request: ProfileRequest, folders: Folders) -> None:
    """Measure every variant that the budget allows, keep the files, report.

    Raises:
        BuildError: nothing could be measured, or the server died for good.
    """
    _remove_drafts(folders.store / names.TUNING_FOLDER)
    _remove_outdated(request, folders.store)
    clock = Clock(request.budget_seconds)
    golden = [one.inputs for one in golden_answers.read(folders.artifact / names.GOLDEN_FILE)]
    inputs = analyzer_config.inputs(golden, request.lengths)
    folders.inputs.write_text(json.dumps(inputs), encoding="utf-8")
    sweep = Sweep(request, folders, Admin(analyzer_config.HTTP), clock)
    sweep.admin.wait_until_live(clock)
    sweep.run()
    _keep(request, folders)
    if not sweep.results:
        raise _nothing(request, sweep.faults)
    report = ProfileReport(
        key=request.key,
        variants=sweep.results,
        skipped=len(request.variants) - len(sweep.results),
        seconds=round(clock.elapsed),
        analyzer=_version(),
    )
    report_io.write_profile(report)
    progress.say(STEP, f"measured {len(sweep.results)} of {len(request.variants)} variants in {clock.elapsed:.0f} s")


@dataclass
class Sweep:
    """One run: every variant, one after the other, as long as the budget lasts."""

    request: ProfileRequest
    folders: Folders
    admin: Admin
    clock: Clock
    results: list[MeasuredVariant] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Why variants were not measured."""

    def run(self) -> None:
        """Measure what the budget allows; what can't be measured is told and left out."""
        variants = self.request.variants
        for done, variant in enumerate(variants):
            mean = self.clock.elapsed / done if done else analyzer_config.expected_seconds(self.request)
            if self.clock.left <= 0 or (self.results and mean > self.clock.left):
                self._leave_out(variant, f"the budget of {self.request.budget_seconds} s is spent")
                return
            to_go = min(mean * (len(variants) - done), self.clock.left)
            spent = f"{self.clock.elapsed:.0f} s spent, about {to_go:.0f} s to go"
            progress.say(STEP, f"{done + 1}/{len(variants)} {variant.name}: {spent}")
            self._measure(variant)

    def _measure(self, variant: AskedVariant) -> None:
        self.admin.wait_until_back()
        try:
            with self.admin.loaded(variant.name):
                fault = self._analyze(variant)
        except ServerError as error:
            fault = f"it can't be served: {error}"
        if fault:
            # A fault is the variant's only if there is a server that could have served it.
            self.admin.wait_until_back()
            self._leave_out(variant, fault)

    def _analyze(self, variant: AskedVariant) -> str:
        """Measure one loaded variant; returns why that didn't work, or nothing."""
        work = self.folders.work / variant.name
        work.mkdir()
        config, log = work / "analyzer.yaml", work / "analyzer.log"
        settings = analyzer_config.analyzer(self.request, variant, work, self.folders.inputs)
        config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        with (
            log.open("wb") as output,
            _running([str(self.folders.program), "profile", "-f", str(config)], output) as one,
        ):
            try:
                one.wait(max(1.0, self.clock.left + _GRACE_SECONDS))
            except subprocess.TimeoutExpired:
                return f"not finished when the budget of {self.request.budget_seconds} s was spent"
        found = work / _CSV
        text = found.read_text(encoding="utf-8") if one.returncode == 0 and found.is_file() else ""
        measured = analyzer_config.measured(text, variant)
        if measured is None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f"Model Analyzer ended with {one.returncode}: {' | '.join(lines[-3:])[-400:]}"
        self.results.append(measured)
        for point in measured.points:
            progress.say(STEP, f"  {point.concurrency} at once: {point.throughput} requests/s, p95 {point.p95} ms")
        return ""

    def _leave_out(self, variant: AskedVariant, why: str) -> None:
        self.faults.append(f"{variant.name}: {why}")
        progress.say(STEP, f"{variant.name} is left out: {why}")


@contextmanager
def _running(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program; however we leave, nothing of it goes on: perf_analyzer below it is in a session of its own."""
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=Path(output.name).parent)  # noqa: S603
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in _descendants(process.pid):
                _kill(child)
            process.kill()
            process.wait()


def _descendants(pid: int) -> list[int]:
    """Every process below one, the deepest first."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [one for child in map(int, found) for one in (*_descendants(child), child)]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _version() -> str:
    try:
        return importlib.metadata.version("triton-model-analyzer")
    except importlib.metadata.PackageNotFoundError:  # a program that somebody else put there
        return ""


def _keep(request: ProfileRequest, folders: Folders) -> None:
    """Put what the analyzer wrote on the claim; a full claim doesn't lose the measurement."""
    target = folders.store / names.TUNING_FOLDER / request.key
    draft = target.with_name(f"{_DRAFT}{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        for variant in request.variants:
            found = folders.work / variant.name
            if found.is_dir():
                shutil.copytree(found, draft / variant.name, ignore=shutil.ignore_patterns("checkpoints", "configs"))
                shutil.copy(folders.repository / variant.name / "config.pbtxt", draft / variant.name)
        shutil.copy(folders.inputs, draft)
        (draft / _REQUEST).write_text(request.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except OSError as error:
        progress.say(STEP, f"the files can't be kept on the claim: {failures.from_os_error(error, STEP).message}")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_drafts(folder: Path) -> None:
    """Drafts of runs that were killed while they wrote; a young one may be another run's."""
    for draft in folder.glob(f"{_DRAFT}*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)


def _remove_outdated(request: ProfileRequest, store: Path) -> None:
    """Folders of earlier runs whose measurement isn't kept any more, or whose artifact is gone."""
    for file in (store / names.TUNING_FOLDER).glob(f"[!.]*/{_REQUEST}"):
        try:
            earlier = ProfileRequest.model_validate_json(file.read_text(encoding="utf-8"))
            old = time.time() - file.stat().st_mtime > _OLD_SECONDS
        except (OSError, ValueError):  # of another release: nothing of ours to judge
            continue
        dropped = earlier.artifact == request.artifact and earlier.key not in (request.key, *request.kept)
        gone = bool(earlier.artifact_path) and not (store / earlier.artifact_path / names.MANIFEST_FILE).is_file()
        if old and (dropped or gone):
            progress.say(STEP, f"{file.parent.name} isn't kept any more: its files are removed")
            shutil.rmtree(file.parent, ignore_errors=True)


def _not_built(request: ProfileRequest, found: str) -> BuildError:
    return BuildError(
        "ArtifactCorrupt",
        f"artifact {request.artifact} is not what was built: {found}.",
        f"Build it again: set the annotation {names.REFRESH_ANNOTATION} on the BertDeployment.",
    )


def _nothing(request: ProfileRequest, faults: list[str]) -> BuildError:
    spent = all("budget" in fault for fault in faults)
    return BuildError(
        "BudgetTooSmall" if spent else "NothingMeasured",
        f"No variant of {request.artifact} could be measured: {'; '.join(faults)}",
        "Raise tuning.search.budgetMinutes, or lower maxConcurrency."
        if spent
        else "See the Job's log; lower tuning.search.maxInstances or maxBatchSize, or raise server.resources.",
    )
