"""R4's consistency oracle: a property that may be changed has to matter to something that the operator makes. Pure.

To come to what a fresh creation comes to proves nothing of a property that is ignored both ways.
"""

from collections.abc import Mapping
from typing import Final

_MEASURED: Final = "it sizes by what a profile has measured, and no profile ends here"
NONE: Final[Mapping[str, str]] = {
    "pods/podDisruptionBudget": "the seed writes out what the whole is without it; each of its properties shows",
    "store/storage.accessModes": "a claim's modes can't change, only their order can, and that means nothing",
    "tuned/models[].objective.targetRequestsPerSecond": _MEASURED,
    "tuned/tuning.headroomPercent": _MEASURED,
    "tuned/tuning.maxReplicas": _MEASURED,
}
"""`seed/property` whose changes show in nothing that is made here -> why that is right."""


def faults(walk: str, effects: Mapping[str, bool]) -> list[str]:
    """What is wrong with one property: no operation on it shows, or one does where `NONE` says that none can.

    Not every operation has to show: to write a default out, or to remove it, changes nothing.

    Args:
        walk: `seed/property`.
        effects: operation -> whether a fresh creation of the changed spec differs from the unchanged resource.
    """
    seen = [kind for kind, shows in effects.items() if shows]
    if walk in NONE and seen:
        return [f"{walk}: {', '.join(seen)}: shows, but effects.NONE says: {NONE[walk]}"]
    if walk not in NONE and effects and not seen:
        return [f"{walk}: {', '.join(effects)}: nothing that the operator makes shows it"]
    return []
