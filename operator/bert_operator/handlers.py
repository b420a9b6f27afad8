"""Where kopf ends and we begin: `kopf run -m bert_operator.handlers`. The only file that imports kopf.

kopf lists and watches; every event goes into the world and puts (namespace, name) on the work queue, nothing more. It
is taken right from kopf's streams: handing it to a handler costs kopf several copies of the object and a task for it.
kopf's state-keeping handlers, daemons, timers and finalizers are not used: they lose updates and block deletions.
"""

import inspect
import logging
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, cast

import kopf
import yaml
from kopf._cogs.clients import watching
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bert_operator import logs, observe, plan, settings
from bert_operator.api import names
from bert_operator.cluster.connection import ConfigurationError
from bert_operator.runtime import Runtime

OURS: Final = f"{names.MANAGED_BY}={names.MANAGER}"
CHILDREN: Final = (
    ("apps", "v1", "deployments"),
    ("apps", "v1", "replicasets"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("", "v1", "services"),
    ("", "v1", "configmaps"),
    ("batch", "v1", "jobs"),
    ("", "v1", "pods"),
)
"""Watched with our label only: nothing else of the cluster reaches this process."""
WHOLE: Final = (
    (names.GROUP, names.VERSION, names.PLURAL),
    (names.GROUP, names.VERSION, names.ARTIFACT_PLURAL),
    ("", "v1", "persistentvolumeclaims"),
)
STREAM_ARGUMENTS: Final = {"settings", "resource", "namespace", "operator_pause_waiter"}


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:  # noqa: ANN401 - kopf's own
    """Load the settings, configure kopf, start everything; a mistake of the installer's ends it with one line."""
    logs.configure()
    configure(settings)
    try:
        runtime = Runtime(load_settings(), plan)
        await runtime.start()
    except (ConfigurationError, OSError) as error:
        raise _refusal(error) from None
    tap(runtime)
    memo.runtime = runtime


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:  # noqa: ANN401 - kopf's own
    """Finish what runs, then close all connections."""
    await memo.runtime.stop()


@kopf.on.login()
async def login(memo: kopf.Memo, **_: Any) -> kopf.ConnectionInfo:  # noqa: ANN401 - kopf's own
    """Who we are to the API server: the same as for our own calls, read anew whenever it is refused."""
    access = await memo.runtime.connection.access()
    return kopf.ConnectionInfo(
        server=access.server,
        ca_path=access.ca_path,
        insecure=access.insecure,
        scheme="Bearer" if access.token else None,
        token=access.token,
        certificate_path=access.certificate_path,
        private_key_path=access.key_path,
    )


async def _wanted(**_: Any) -> None:  # noqa: ANN401 - kopf's own
    """Kopf watches what has a handler; what it watches ends in `tap`."""


for _resource in (*WHOLE, *CHILDREN):
    kopf.on.event(*_resource, id="event")(_wanted)


def load_settings() -> settings.Settings:
    """Read the installation's settings.

    Raises:
        ConfigurationError: in one line, the file, the field, what was found and what is wanted.
    """
    file = f"settings file {os.environ.get(settings.SETTINGS_ENV, settings.DEFAULT_PATH)}"
    try:
        return settings.load()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigurationError(f"{file}: {'; '.join(map(_field, error.errors()))}") from error


def _field(item: ErrorDetails) -> str:
    found = "" if item["type"] == "missing" else f", not {item['input']!r}"
    return f"{'.'.join(map(str, item['loc']))}: {item['msg']}{found}"


def _refusal(why: object) -> SystemExit:
    # kopf leaves a task unstarted when it is stopped this early; its warning would hide the message.
    warnings.simplefilter("ignore", RuntimeWarning)
    return SystemExit(f"bert-operator can't start: {why}")


def configure(settings: kopf.OperatorSettings) -> None:
    """Set what kopf leaves open; each line answers a known pitfall."""
    settings.peering.standalone = True  # peering freezes both of two equals, and is no leader election
    settings.posting.enabled = False  # we post our own Events, once per change of a condition
    settings.scanning.disabled = True  # no right to list CRDs: the chart brings them before it starts us
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 60
    settings.queueing.error_delays = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 60)
    settings.process.ultimate_exiting_timeout = 30
    for resource in CHILDREN:
        settings.watching.label_selectors[resource] = OURS
    # Every event would be told; ours say what matters.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


def tap(runtime: Runtime) -> None:
    """Take everything from kopf's watches, and three things that it has no hook for.

    When a listing is complete: nobody may plan before every kind has been listed, or it builds what is there. What
    has vanished: after "410 Gone" kopf lists anew without a word on that, and such objects would haunt us for ever;
    here they are told to be gone. And bookmarks: they tell a quiet watch from a dead one.
    """
    original = watching.continuous_watch
    if set(inspect.signature(original).parameters) != STREAM_ARGUMENTS:
        raise _refusal("this version of kopf isn't supported; install kopf 1.45")

    def tapped(*, resource: Any, namespace: Any, **rest: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - kopf's own
        stream = original(resource=resource, namespace=namespace, **rest)
        ours = resource.kind in observe.KINDS
        return _listen(stream, runtime, resource.kind, namespace) if ours else stream

    watching.continuous_watch = tapped


async def _listen(
    stream: AsyncIterator[Any], runtime: Runtime, kind: str, namespace: str | None
) -> AsyncGenerator[Any, None]:
    """Take what kopf's watch yields; at the end of a listing, the ends of what is missing from it too.

    Only kopf's own marks are passed on.
    """
    listing = runtime.begin_listing(kind, namespace)
    async with aclosing(cast("AsyncGenerator[Any, None]", stream)):
        async for event in stream:
            if isinstance(event, watching.Bookmark):
                if event is watching.Bookmark.LISTED:
                    for stub in runtime.listed(listing):
                        runtime.gone(stub)
                yield event
                continue
            kind_of_event, obj = event["type"], event["object"]
            listing.heard(kind_of_event, obj)
            if kind_of_event == "DELETED":
                runtime.gone(obj)
            elif kind_of_event != "BOOKMARK":
                runtime.seen(obj)
