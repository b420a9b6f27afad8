"""Does a live object still say what we want? Compared in memory, so that a settled world costs no request."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import Any, Final

from bert_operator.api import names, quantities
from bert_operator.api.digests import digest
from bert_operator.api.observed import Manifest

_MERGE_KEYS: Final = ("name", "mountPath", "containerPort", "uid", "key", "type")
_NANO: Final = Decimal("1e-9")
"""The API server keeps nothing finer: it rounds up."""
_EXACT: Final = Context(prec=60)


def stamped(desired: Manifest) -> dict[str, Any]:
    """Copy of a manifest that carries the hash of itself: a field we stop asking for changes it too."""
    meta = desired["metadata"]
    annotations = {**(meta.get("annotations") or {}), names.DESIRED_HASH_ANNOTATION: digest(desired)[:16]}
    return {**desired, "metadata": {**meta, "annotations": annotations}}


def differs(desired: Manifest, live: Manifest) -> bool:
    """Whether `desired` (stamped) must be applied again.

    True if we ask for something else than last time, or if somebody changed a field that we ask for. Fields that
    only others set are theirs. Quantities are compared by value: the API server turns `1000m` into `1`.
    """
    if desired["kind"] == "ConfigMap":  # immutable and named by content; the index keeps its metadata only
        desired = {"metadata": desired["metadata"]}
    return not covers(live, desired)


def covers(live: object, desired: object) -> bool:
    """Whether everything in `desired` is in `live`."""
    if live == desired:  # most parts are, and a comparison as a whole is the cheapest
        return True
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(_covers_field(live, key, value) for key, value in desired.items())
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        return isinstance(live, Sequence) and not isinstance(live, str) and _covers_list(live, desired)
    return _same_quantity(live, desired)


def _covers_field(live: Mapping[str, Any], key: str, value: object) -> bool:
    if key not in live:
        return value in (None, {}, [], "", False, 0)  # the API server drops empty values
    return covers(live[key], value)


def _covers_list(live: Sequence[Any], desired: Sequence[Any]) -> bool:
    """Lists of named things are compared by name, others by position."""
    merge_key = _merge_key(desired)
    if merge_key is None:
        return len(live) == len(desired) and all(map(covers, live, desired))
    by_key = {item[merge_key]: item for item in live if isinstance(item, Mapping) and merge_key in item}
    return all(item[merge_key] in by_key and covers(by_key[item[merge_key]], item) for item in desired)


def _merge_key(items: Sequence[Any]) -> str | None:
    if not items or not all(isinstance(item, Mapping) for item in items):
        return None
    for key in _MERGE_KEYS:
        values = [item.get(key) for item in items]
        if None not in values and len(set(values)) == len(values):
            return key
    return None


def _same_quantity(one: object, other: object) -> bool:
    if not isinstance(one, str | int) or not isinstance(other, str | int) or isinstance(one, bool):
        return False
    left, right = _quantity(str(one)), _quantity(str(other))
    return left is not None and left == right


def _quantity(text: str) -> Decimal | None:
    try:
        return quantities.parse(text).quantize(_NANO, ROUND_CEILING, _EXACT)
    except (ValueError, InvalidOperation):  # no quantity, or more digits than any has
        return None
