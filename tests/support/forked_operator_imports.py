"""What every operator imports but its handlers, which register themselves in the process that they are imported in."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "operator"))
for name in ("kopf.cli", "bert_operator.runtime"):
    importlib.import_module(name)
