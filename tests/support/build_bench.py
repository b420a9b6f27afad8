"""One build in the tests' own process, step by step, with the folders that a pod would mount."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any, Final

from bert_build import job
from bert_build.state import State
from bert_operator.api.report import BuildReport, BuildRequest
from bert_operator.api.steps import EXPORT_STEPS

LENGTH: Final = 24


@dataclasses.dataclass
class Bench:
    """A source claim, a store and a scratch folder."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("work", "source", "store"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def source(self) -> Path:
        """The source claim's root."""
        return self.root / "source"

    @property
    def termination(self) -> Path:
        """Where steps report to the kubelet."""
        return self.root / "termination"

    def job(self, **build: Any) -> job.Job:
        """What a pod would be told."""
        wish = {"task": "sequence-classification", "maxSequenceLength": LENGTH, **build}
        request = {"requestKey": "k1", "model": "m", "version": 1, "build": wish, "pvc": {"claimName": "c"}}
        return job.Job(BuildRequest.model_validate(request), self.root / "work", self.source, self.root / "store")

    def run(self, *, until: str = "publish", **build: Any) -> State:
        """All steps up to one; what goes wrong is raised."""
        state = State(request_key="k1")
        for step in EXPORT_STEPS[: EXPORT_STEPS.index(until) + 1]:
            state = importlib.import_module(job.MODULES[step]).run(self.job(**build), state)
        return state

    def build(self, **build: Any) -> tuple[BuildReport, Path]:
        """All steps; the report and the published artifact's folder."""
        self.run(**build)
        report = BuildReport.model_validate(json.loads(self.termination.read_text()))
        return report, self.root / "store" / "artifacts" / f"{report.format}-{report.artifact_key}"
