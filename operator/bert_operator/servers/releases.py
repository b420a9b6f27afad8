"""Releases of servers that an installation may lack, and what is told about a wish for one. Used by server files."""

from collections.abc import Iterator

from bert_operator.api import spec
from bert_operator.settings import Release, Releases, Settings


def chosen(wish: spec.BertDeploymentSpec, known: Releases | None) -> Release:
    """The release that a spec names, or the default one.

    Raises:
        LookupError: there is none; `faults` says so.
    """
    if known is None:
        raise LookupError(f"this installation has no {wish.server.type.value}: `unsupported` says so")
    return known.releases[wish.server.release or known.default_release]


def faults(wish: spec.BertDeploymentSpec, known: Releases | None, missing: str) -> Iterator[str]:
    """What is wrong with the release; `missing` is told where the installation has none at all."""
    if known is None:
        yield missing
    elif wish.server.release is not None and wish.server.release not in known.releases:
        yield (
            f"spec.server.release is {wish.server.release!r}, which the operator's settings don't have: write one of "
            f"{', '.join(sorted(known.releases))}"
        )


def gpu_faults(wish: spec.BertDeploymentSpec, settings: Settings, server: str) -> Iterator[str]:
    """A profile with accelerators, for a server that is run on CPUs."""
    profile = settings.hardware_profiles.get(wish.hardware.profile)  # an unknown one is told elsewhere
    if profile and profile.resource_name:
        others = sorted(name for name, one in settings.hardware_profiles.items() if not one.resource_name)
        yield (
            f"spec.hardware.profile is {wish.hardware.profile!r}, which has {profile.resource_name}, and {server} "
            f"runs on CPUs in this release: write one of {', '.join(others) or 'the profiles without a resourceName'}"
        )
