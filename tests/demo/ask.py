"""What three sentences' vectors say: the small table at the end of the demo."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from support.answers import Floats


def sentence_embeddings(hidden: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    """Mean of the real tokens' vectors, normalised: [sentence, hidden]."""
    weights = mask[:, :, None].astype(np.float32)
    means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


def similarity_table(sentences: Sequence[str], embeddings: Floats) -> str:
    """How alike the sentences are, as a small table."""
    similar = embeddings @ embeddings.T
    width = max(map(len, sentences))
    head = " " * (width + 4) + "".join(f"{f'({i + 1})':>8}" for i in range(len(sentences)))
    rows = [
        f"({i + 1}) {sentence:<{width}}" + "".join(f"{similar[i, j]:8.3f}" for j in range(len(sentences)))
        for i, sentence in enumerate(sentences)
    ]
    return "\n".join([head, *rows])
