"""What makes a build a new build. `plan` calls this; it reads nothing and knows no object.

A request key is 32 hex digits: 20 of the wish (what the user asked, on which claim) and 12 of the toolchain that was
asked to do it. The prefix lets an operator upgrade keep what serves: a new default image changes only the suffix,
so an artifact of the same wish is still found and merely reported as made by an older toolchain.
"""

from typing import Any, Final

from bert_operator.api import spec as api
from bert_operator.api.base import Model
from bert_operator.api.digests import digest

WISH_DIGITS: Final = 20
TOOLCHAIN_DIGITS: Final = 12


def request_key(  # noqa: PLR0913 - each of them is part of the key
    spec: api.BertDeploymentSpec,
    build: api.Build,
    version: api.ModelVersion,
    *,
    claim_uid: str,
    refresh: str,
    image: str,
    engine_image: str = "",
    trace_device: str | None = None,
) -> str:
    """Name one build request.

    Args:
        spec: its hardware, and its build resources and deadline: a build that failed for lack of them is asked again
            when they change. Where a Job queues decides nothing of what it makes.
        build: the recipe; its format is never `auto`.
        version: the source as the user wrote it; a branch is resolved by the Job, once.
        claim_uid: UID of the store's claim: the same wish on another claim is another build.
        refresh: value of the annotation bertops.dev/refresh.
        image: references of the build images.
        engine_image: for a TensorRT engine, the image that compiles it: the engine fits no other server, so another
            image is another wish.
        trace_device: where TorchScript is traced, if not on the CPU: what was traced elsewhere fails there, so it is
            no older version of it.

    Returns:
        32 hex digits.
    """
    only_if_any = {"engineImage": engine_image, "traceDevice": trace_device}
    wish = {
        "claim": claim_uid,
        "refresh": refresh,
        "source": _plain(version.source),
        "build": _plain(build),
        "hardware": _plain(spec.hardware),
        "builds": _plain(spec.builds.model_copy(update={"queue_name": None})),
    } | {name: value for name, value in only_if_any.items() if value}
    return digest(wish)[:WISH_DIGITS] + digest(image)[:TOOLCHAIN_DIGITS]


def same_wish(one: str, other: str) -> bool:
    """Whether two request keys ask for the same thing, perhaps of different toolchains."""
    return one[:WISH_DIGITS] == other[:WISH_DIGITS]


def _plain(model: Model) -> dict[str, Any]:
    """Only what was written: a later version's new default field must not change the key of an old wish."""
    plain: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return plain
