"""A classifier made from a real encoder: its weights under a head drawn by chance. To test serving, not quality."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import numpy as tensors

LABELS: Final = ("negative", "positive")
_TOKENIZER: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def make(encoder: Path, folder: Path, *, seed: int = 0, labels: Sequence[str] = LABELS) -> Path:
    """Write a BertForSequenceClassification checkpoint into `folder`.

    Args:
        encoder: folder of a BertModel checkpoint with pooler, e.g. all-MiniLM-L6-v2.
        folder: where the checkpoint goes.
        seed: decides the head; other seeds make other classifiers.
        labels: names of the classes.
    """
    folder.mkdir(parents=True)
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": dict(enumerate(labels))}
    config |= {"label2id": {name: index for index, name in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    random = np.random.default_rng(seed)
    shape = (len(labels), int(config["hidden_size"]))
    known = tensors.load_file(encoder / "model.safetensors")
    weights = {f"bert.{name}": values for name, values in known.items() if not name.endswith("position_ids")}
    weights["classifier.weight"] = random.normal(0, 0.3, shape).astype(np.float32)
    weights["classifier.bias"] = random.normal(0, 0.3, shape[:1]).astype(np.float32)
    tensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in _TOKENIZER:
        if (encoder / name).is_file():
            shutil.copyfile(encoder / name, folder / name)
    return folder
