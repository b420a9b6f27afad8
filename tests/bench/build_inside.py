"""What `bench.build` runs inside the build image: our build and the usual tool's, in turns, each process measured.

Prints progress on stderr and, last, one JSON line on stdout.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bert_operator.api.steps import EXPORT_STEPS

_EVERY_SECONDS: Final = 0.02
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LENGTH: Final = 512


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    cpu_seconds: float
    rss_bytes: int
    """The most that the command and its children had in memory at once."""


class _Watch(threading.Thread):
    """Adds up the resident memory of a process and its children, again and again."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._process = process
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            self.most = max(self.most, sum(map(_resident, _tree(self._process))))

    def end(self) -> int:
        """The most that was seen."""
        self._ended.set()
        self.join()
        return self.most


def _tree(process: int) -> Iterator[int]:
    yield process
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield from _tree(child)


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def measured(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; what it said goes to stderr.
    """
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(command, env=dict(environment), stdout=said, stderr=subprocess.STDOUT)
        watch = _Watch(process.pid)
        watch.start()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        most = watch.end()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace")[-4000:])
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    # A short peak may fall between two looks; the kernel's own figure knows it, of one process alone.
    return Cost(seconds, used.ru_utime + used.ru_stime, max(most, used.ru_maxrss * 1024))


def ours(source: Path, root: Path, task: str) -> dict[str, Cost]:
    """The steps of a build Job, each a process of its own as in the pod; `root` holds the store that they share."""
    wish = {"task": task, "format": "onnx", "maxSequenceLength": _LENGTH}
    request = {"requestKey": "k1", "model": "m", "version": 1, "build": wish, "pvc": {"claimName": "models"}}
    environment = {
        **os.environ,
        "BERTOPS_BUILD_REQUEST": json.dumps(request),
        "BERTOPS_TERMINATION_LOG": str(root / "termination"),
    }
    (root / "store").mkdir(exist_ok=True)
    with _folders(root, "work", "sealed") as (work, sealed):
        places = (f"--work={work}", f"--source={source}", f"--store={root / 'store'}", f"--sealed={sealed}")
        command = [sys.executable, "-m", "bert_build"]
        return {step: measured([*command, step, *places], environment) for step in EXPORT_STEPS}


def theirs(source: Path, root: Path, task: str, tool: Path) -> Cost:
    """`optimum-cli export onnx`, its own check included, with the same torch."""
    with _folders(root, "out") as [out]:
        # The system's Python sees torch, but not the packages of our own environment.
        command = ["/usr/bin/python3", "-m", "optimum.commands.optimum_cli", "export", "onnx"]
        kind = {"sequence-classification": "text-classification"}.get(task, task)
        environment = {**os.environ, "PYTHONPATH": str(tool), "HF_HUB_OFFLINE": "1"}
        return measured([*command, f"--model={source}", f"--task={kind}", str(out)], environment)


@contextmanager
def _folders(root: Path, *names: str) -> Iterator[list[Path]]:
    """Fresh folders, gone afterwards."""
    made = [root / name for name in names]
    for folder in made:
        folder.mkdir()
    try:
        yield made
    finally:
        for folder in made:
            shutil.rmtree(folder)


def _random_bert(folder: Path) -> None:
    """Write bert-base with weights drawn by chance: 440 MB, two labels."""
    program = (
        "import sys, torch, transformers; torch.manual_seed(1); "
        "transformers.BertForSequenceClassification(transformers.BertConfig()).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, stdout=sys.stderr)
    # Texts are split into letters: any words do.
    letters = [chr(number) for number in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}', encoding="utf-8")


def _emptied(store: Path) -> None:
    shutil.rmtree(store / "artifacts", ignore_errors=True)


def compared(source: Path, root: Path, task: str, tool: Path, runs: int) -> dict[str, Any]:
    """Both in turns, after one run of each that isn't counted: it writes byte code and fills the page cache."""
    found_ours: list[dict[str, Cost]] = []
    found_theirs: list[Cost] = []
    for number in range(runs + 1):
        _emptied(root / "store")
        if number == 1:
            _let_it_age(source)
        found_ours.append(ours(source, root, task))
        found_theirs.append(theirs(source, root, task, tool))
        seconds = sum(cost.seconds for cost in found_ours[-1].values())
        _say(f"run {number or '(warm-up)'}: ours {seconds:.1f} s, the usual tool {found_theirs[-1].seconds:.1f} s")
    cached = [ours(source, root, task) for _ in range(runs)]
    return figures(found_ours[1:], found_theirs[1:], cached)


def _let_it_age(source: Path) -> None:
    """Wait until the model is a minute old, as a user's is: files that were just written are hashed twice."""
    newest = max(path.stat().st_ctime for path in source.iterdir())
    time.sleep(max(0.0, newest + 61 - time.time()))


def figures(
    mine: Sequence[dict[str, Cost]], other: Sequence[Cost], cached: Sequence[dict[str, Cost]]
) -> dict[str, Any]:
    """Medians over the runs; `time_ratio` and `rss_ratio` are ours to the usual tool's."""
    seconds = statistics.median(sum(cost.seconds for cost in run.values()) for run in mine)
    # Steps are containers of their own: the largest counts.
    rss = statistics.median(max(cost.rss_bytes for cost in run.values()) for run in mine)
    their_seconds = statistics.median(cost.seconds for cost in other)
    their_rss = statistics.median(cost.rss_bytes for cost in other)
    return {
        "time_ratio": round(seconds / their_seconds, 3),
        "rss_ratio": round(rss / their_rss, 3),
        "cached_seconds": round(statistics.median(sum(cost.seconds for cost in run.values()) for run in cached), 2),
        "ours": {"seconds": round(seconds, 2), "rss_mib": round(rss / 2**20)},
        "usual_tool": {
            "seconds": round(their_seconds, 2),
            "cpu_seconds": round(statistics.median(cost.cpu_seconds for cost in other), 2),
            "rss_mib": round(their_rss / 2**20),
        },
        "steps": steps(mine),
        "runs": len(mine),
    }


def steps(runs: Sequence[dict[str, Cost]]) -> dict[str, dict[str, float]]:
    """Of each step the medians over the runs."""
    return {
        step: {
            "seconds": round(statistics.median(run[step].seconds for run in runs), 2),
            "cpu_seconds": round(statistics.median(run[step].cpu_seconds for run in runs), 2),
            "rss_mib": round(statistics.median(run[step].rss_bytes for run in runs) / 2**20),
        }
        for step in EXPORT_STEPS
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.build_inside", description=__doc__)
    parser.add_argument("--tool", type=Path, help="folder of the usual tool's packages; without it ours runs alone")
    parser.add_argument("--model", type=Path, help="folder of another model than bert-base with random weights")
    parser.add_argument("--task", default="sequence-classification")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-build-") as scratch:
        root = Path(scratch)
        source = chosen.model or root / "model"
        if not chosen.model:
            _random_bert(source)
        if chosen.tool:
            found = compared(source, root, chosen.task, chosen.tool, chosen.runs)
        else:
            runs = []
            for _ in range(chosen.runs + 1):
                _emptied(root / "store")
                runs.append(ours(source, root, chosen.task))
            found = {"steps": steps(runs[1:])}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
