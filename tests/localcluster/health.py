"""Whether a running component says that it is well. Asked from the machine, over the cluster's own link."""

import http.client
import ssl
from urllib.parse import urlsplit

from localcluster.api import Api
from localcluster.certificates import AUTHORITY, certificate_file
from localcluster.config import Cluster
from localcluster.processes import Process

_SECONDS = 3.0


def is_healthy(cluster: Cluster, process: Process) -> bool:
    """Ask the component's health endpoint; one without is healthy as long as it runs."""
    if process.name == "kube-apiserver":
        return Api(cluster).answers_ok("/readyz")
    return not process.health or _answers_ok(cluster, process.health)


def _answers_ok(cluster: Cluster, url: str) -> bool:
    parts = urlsplit(url)
    connection = _connection(cluster, parts.scheme, parts.netloc)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connection(cluster: Cluster, scheme: str, host: str) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, timeout=_SECONDS)
    authority = certificate_file(cluster.folders.certificates, AUTHORITY)
    context = ssl.create_default_context(cafile=str(authority))
    return http.client.HTTPSConnection(host, timeout=_SECONDS, context=context)
