"""How a sentence-transformers source makes one vector of a sentence: what modules.json and its folders say. Pure.

Its artifact has the second output `sentence_embedding`, ready to be compared by cosine or dot product as the model's
authors meant it. A source without modules.json has none: nothing says how its tokens become one vector.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

from bert_build.failures import BuildError

MODULES: Final = "modules.json"
POOLING: Final = "config.json"
"""In the folder that modules.json names for it."""
MODES: Final = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
"""Ways to pool that are built, in the order in which sentence-transformers joins several."""
_SHORT: Final = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
}
"""The same in newer files, which name one by `pooling_mode`."""


@dataclasses.dataclass(frozen=True)
class Pooling:
    """What becomes of the vectors of a sentence's tokens."""

    modes: tuple[str, ...]
    """Of MODES; several are joined to one longer vector."""
    normalize: bool
    """Whether the vector gets length 1."""


def pooling(folder: Path) -> tuple[Pooling | None, str]:
    """What the files of a source say.

    Args:
        folder: of the source model.

    Returns:
        The pooling, None if there is none that is built; then also why, or nothing if the source says nothing of it.

    Raises:
        BuildError: a file is damaged.
    """
    if not (folder / MODULES).is_file():
        return None, ""
    modules = _parsed(folder, MODULES)
    if not isinstance(modules, list) or not all(isinstance(entry, dict) for entry in modules):
        raise _damaged(MODULES, "it is no list of objects")
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        return (
            None,
            f"{MODULES} names {', '.join(kinds)[:200]}; built are Transformer, Pooling and Normalize, in this order",
        )
    name = f"{str(modules[1].get('path', '')).strip('/')}/{POOLING}"
    if name != f"1_Pooling/{POOLING}":
        return None, f"{MODULES} names the folder {str(modules[1].get('path'))[:60]!r} for Pooling; read is 1_Pooling"
    found = _parsed(folder, name)
    modes, unknown = _modes(found if isinstance(found, dict) else {})
    if unknown or not modes:
        return None, f"{name} asks for {', '.join(unknown)[:200] or 'no pooling'}; built are {', '.join(MODES)}"
    return Pooling(modes, "Normalize" in kinds), ""


def _modes(found: dict[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """What is asked for, and what of it isn't built."""
    asked = {
        key.removeprefix("pooling_mode_") for key, value in found.items() if key.startswith("pooling_mode_") and value
    }
    told = found.get("pooling_mode")
    for one in told if isinstance(told, list) else [told] if told else []:
        asked.add(_SHORT.get(str(one), str(one)))
    return tuple(mode for mode in MODES if mode in asked), sorted(asked - set(MODES))


def _parsed(folder: Path, name: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise _damaged(name, f"{MODULES} names it, and it isn't there") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"it is no JSON: {error}") from error


def _damaged(name: str, why: str) -> BuildError:
    return BuildError(
        "SourceCorrupt",
        f"{name} can't be used: {why}.",
        f"Copy it again; or remove {MODULES} to serve last_hidden_state alone.",
    )
