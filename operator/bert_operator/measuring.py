"""What a measurement is of: the artifact, the ways of serving it, the server's image, and the key of all that.

A pure part of `tuning`, which decides what to do about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bert_operator import checks
from bert_operator.api import measurement as api_measurement
from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.digests import digest
from bert_operator.api.measurement import AskedVariant, ProfileRequest
from bert_operator.case import Case, find
from bert_operator.objects import deployment, pod, profile_job
from bert_operator.servers import SERVERS
from bert_operator.servers.base import ServedVersion, ServerContainer

KEY_DIGITS: Final = 32
_STEP: Final = 4
"""Batch sizes and concurrencies are tried in powers of this; instances in powers of two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is measured: the default version of the one model."""

    facts: checks.VersionFacts
    artifact: BertArtifactSpec
    container: ServerContainer
    """Serves the largest variant."""
    image: str
    lengths: list[int]
    key: str
    """What the measurement depends on."""


def target(case: Case, versions: Sequence[checks.VersionFacts]) -> Target | None:
    """What is to be measured, once its artifact is there."""
    model = case.spec.models[0]
    found = next((one for one in versions if one.version == model.default), None)
    if found is None or found.artifact is None:
        return None
    shapes = variants(case.spec, found.artifact)
    largest = max(shapes, key=lambda shape: (shape.instances, shape.max_batch_size))
    container = _container(case, found, found.artifact, largest)
    image, lengths = _image(case, container), _lengths(case.spec, found.artifact)
    return Target(
        facts=found,
        artifact=found.artifact,
        container=container,
        image=image,
        lengths=lengths,
        key=_key(case, found, image, lengths),
    )


def variants(spec: api.BertDeploymentSpec, built: BertArtifactSpec) -> tuple[api_measurement.VariantConfig, ...]:
    """The few ways of serving that are measured, within the limits of the search."""
    serving, search = spec.models[0].serving, spec.tuning.search
    largest = search.max_batch_size or serving.max_batch_size
    largest = min([largest, *(profile.max[0] for profile in built.report.profiles)])
    instances = _spread(search.max_instances, base=2, count=3)
    batches = _spread(largest, base=_STEP, count=min(3, api_measurement.MAX_VARIANTS // len(instances)))
    delay = serving.batching.max_queue_delay_microseconds
    return tuple(
        api_measurement.VariantConfig(
            instances=count,
            max_batch_size=batch,
            max_queue_delay_microseconds=delay if batch > 1 else None,
        )
        for count in instances
        for batch in batches
    )


def _spread(limit: int, *, base: int, count: int) -> list[int]:
    """At most `count` of 1, base, base², ... up to and with `limit`, the ends always among them."""
    steps = [1]
    while steps[-1] * base < limit:
        steps.append(steps[-1] * base)
    steps = [*steps, limit] if limit > 1 else steps
    if len(steps) <= count:
        return steps
    last = len(steps) - 1
    return sorted({steps[round(index * last / (count - 1))] for index in range(count)})


def _container(
    case: Case,
    found: checks.VersionFacts,
    built: BertArtifactSpec,
    shape: api_measurement.VariantConfig,
    name: str = "",
) -> ServerContainer:
    """The serving container of one variant, made by what makes the served one."""
    model = case.spec.models[0]
    batching = model.serving.batching.model_copy(
        update={
            "enabled": shape.max_queue_delay_microseconds is not None,
            "max_queue_delay_microseconds": shape.max_queue_delay_microseconds or 0,
            "preferred_batch_sizes": None,
        }
    )
    serving = model.serving.model_copy(
        update={
            "instances": shape.instances,
            "max_batch_size": shape.max_batch_size,
            "batching": batching,
        }
    )
    varied = model.model_copy(update={"serving": serving, "name": name or model.name})
    one = ServedVersion(model=varied, version=found.version, artifact_name=found.artifact_name, artifact=built)
    wish = case.spec.model_copy(update={"models": [varied]})
    return SERVERS[case.spec.server.type].container([one], wish, case.settings)


def _image(case: Case, container: ServerContainer) -> str:
    """The server's image that is measured: what serves now, as long as new default images don't restart it."""
    live = find(case.observed.deployments, case.identity.child_name)
    if live is None or not deployment.keeps_images(live, case.spec, case.now):
        return container.image
    running = live["spec"]["template"]["spec"]["containers"]
    return next((str(one["image"]) for one in running if one["name"] == "server"), container.image)


def job(case: Case, target: Target, attempt: int) -> dict[str, Any]:
    """The Job that measures it."""
    # Of the environment only a bound on threads depends on the variant; each config.pbtxt says its own number.
    smallest = _container(case, target.facts, target.artifact, variants(case.spec, target.artifact)[0])
    return profile_job.manifest(
        profile_job.ProfileJob(
            identity=case.identity,
            spec=case.spec,
            request=_request(case, target),
            attempt=attempt,
            container=replace(target.container, env=smallest.env),
            image=target.image,
            artifact_path=target.artifact.path,
            claim_name=case.store_claim_name,
            store_read_only=pod.read_only(case.store_claim),
            one_node_claims=case.one_node_claims([case.store_claim_name]),
            settings=case.settings,
        )
    )


def _request(case: Case, target: Target) -> ProfileRequest:
    """What a Job is told. Every variant's configuration is rendered for it, so only who asks for a Job calls this."""
    found, built = target.facts, target.artifact
    asked = [_asked(case, found, built, shape) for shape in variants(case.spec, built)]
    search, model = case.spec.tuning.search, case.spec.models[0]
    concurrency = _spread(search.max_concurrency, base=_STEP, count=api_measurement.MAX_POINTS_OF_VARIANT)
    return ProfileRequest(
        key=target.key,
        kept=[one.key for one in built.measurements],
        model=model.name,
        version=found.version,
        artifact=found.artifact_name,
        artifact_path=built.path,
        manifest_sha256=built.report.manifest_sha256,
        variants=asked,
        concurrency=concurrency,
        lengths=target.lengths,
        budget_seconds=search.budget_minutes * 60,
        model_file=names.TRITON_FILES[built.report.format],
        owner=f"{case.identity.namespace}/{case.identity.name}",
    )


def _asked(
    case: Case, found: checks.VersionFacts, built: BertArtifactSpec, shape: api_measurement.VariantConfig
) -> AskedVariant:
    name = f"i{shape.instances}-b{shape.max_batch_size}"
    files = _container(case, found, built, shape, name).files
    return AskedVariant(**shape.model_dump(), name=name, config=next(iter(files.values())).text)


def _lengths(spec: api.BertDeploymentSpec, built: BertArtifactSpec) -> list[int]:
    longest = built.report.max_sequence_length
    wished = spec.tuning.lengths or spec.models[0].build.sequence_buckets or ()
    return sorted(length for length in wished if length <= longest) or [longest]


def _key(case: Case, found: checks.VersionFacts, image: str, lengths: list[int]) -> str:
    """Everything that a measurement depends on: when any of it differs, another one is asked for."""
    spec, batching = case.spec, case.spec.models[0].serving
    bound = {
        "artifact": found.artifact_name,
        "image": image,
        "hardware": spec.hardware.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "server": spec.server.model_dump(
            mode="json", by_alias=True, exclude_defaults=True, include={"resources", "env", "extra_args", "release"}
        ),
        "search": spec.tuning.search.model_dump(mode="json", by_alias=True),
        "served": [batching.max_batch_size, batching.batching.max_queue_delay_microseconds],
        "lengths": lengths,
    }
    return digest(bound)[:KEY_DIGITS]
