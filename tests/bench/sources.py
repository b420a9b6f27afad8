"""The source models that the samples name, put where the samples look for them: real MiniLM, and what is made from it.

`sentiment` is MiniLM's encoder under a head drawn by chance (no fine-tuned classifier can be had where this runs);
`sentiment-tf2` is a small random BERT saved by TensorFlow; the Hugging Face Hub is a stand-in that serves `sentiment`.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from support import answers, classifier, hub_server
from support.installation import ROOT, Images, put_model
from support.kube import Kube

HUB_REPOSITORY: Final = "textattack/bert-base-uncased-SST-2"


@contextmanager
def hub(model: Path, address: str) -> Iterator[str]:
    """URL of a hub that has the sample's repository."""
    with tempfile.TemporaryDirectory() as scratch, hub_server.running(address) as served:
        folder = classifier.make(model, Path(scratch) / "sentiment")
        served.repo = HUB_REPOSITORY
        served.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        yield served.url


def put(kube: Kube, images: Images, model: Path) -> None:
    """Fill the claim `models`."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        for folder in (model, classifier.make(model, made / "sentiment"), saved_model(made, "sentiment-tf2")):
            put_model(kube, images.operator, folder)


def saved_model(folder: Path, name: str) -> Path:
    """A TF2 SavedModel of a small BERT with real variables, made by TensorFlow in its image."""
    command = [sys.executable, "-m", "images", "run", "tensorflow", "--", "python", "-m", "support.tf2_bert"]
    archive = folder / "model.tar"
    with archive.open("wb") as file:
        subprocess.run([*command, "sequence-classification", name], cwd=ROOT / "tests", stdout=file, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / name


def ids(sample: answers.Sample) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"]:
    """Three padded rows with ids that every source knows, int64 [3, 20]; a second segment where BERT has one."""
    generator = np.random.default_rng(1)
    tokens, mask, types = (np.zeros((3, 20), dtype=np.int64) for _ in range(3))
    for row, length in enumerate((20, 7, 13)):
        tokens[row, :length] = [2, *generator.integers(10, 400, size=length - 2), 3]
        mask[row, :length] = 1
        types[row, length // 2 : length] = sample.task == "sequence-classification"
    return dict(zip(answers.INPUTS, (tokens, mask, types), strict=True))
