"""A folder of an S3 bucket, at Amazon or anywhere else. Called by fetch.

Nothing but the request and its Secret decides who we are: neither the node's role nor a file of the image is asked for
credentials. S3 has no revisions, and an ETag is no content hash (of an upload in parts it is a hash of hashes): what
names the source is the sha256 of its files. Each file is read at the ETag that was listed, so a change in between is
noticed.
"""

import base64
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import botocore
import botocore.config
import botocore.session
from botocore import exceptions, parsers

from bert_build import credentials, destination, download, progress, selection
from bert_build.failures import BuildError, line
from bert_build.job import Job
from bert_build.state import SourceFile
from bert_operator.api import names
from bert_operator.api.report import ExitCode

_BLOCK: Final = 1 << 20
_PAGE: Final = 1000
"""Names in one answer; the most that S3 gives."""
_MOST_NAMES: Final = 10_000
"""Right below the folder: a model has a dozen, a bucket may have billions."""
_DEFAULT_REGION: Final = "us-east-1"
_FOLDERS: Final = (
    *selection.SAVED_MODEL_FOLDERS,
    *sorted({n.partition("/")[0] for n in selection.POOLING if "/" in n}),
)
_FORBIDDEN: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})


class S3Shelf:
    """The folder that the request names."""

    field = "source.s3.uri"
    faults: tuple[type[Exception], ...] = (
        exceptions.BotoCoreError,
        exceptions.ClientError,
        parsers.ResponseParserError,
        OSError,
    )

    def __init__(self, job: Job) -> None:
        if job.request.s3 is None:
            raise TypeError("the request has no s3 source")
        self._source = job.request.s3
        bucket, _, prefix = self._source.uri.removeprefix("s3://").strip("/").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._etags: dict[str, str] = {}
        self._client = _client(job)

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self._source.uri.rstrip('/')} on {self._service}"

    @property
    def _service(self) -> str:
        return self._source.endpoint or "Amazon S3"

    def listed(self) -> tuple[str, dict[str, SourceFile]]:
        """No revision; the files of the folder, and of those folders below it that a model may have, page by page."""
        progress.say("fetch", f"listing {self.title}")
        found, folders = self._page_through("")
        for folder in folders & {f"{name}/" for name in _FOLDERS}:
            found |= self._page_through(folder)[0]
        self._etags = {name: entry["ETag"] for name, entry in found.items()}
        if not found and not folders:
            raise self._empty()
        return "", {name: SourceFile(kind="weights", size=entry["Size"]) for name, entry in found.items()}

    def published(self, name: str, file: SourceFile) -> SourceFile:
        """The file with the sha256 that its uploader had S3 keep; of an upload in parts it is none of the content."""
        head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name, ChecksumMode="ENABLED")
        found = head.get("ChecksumSHA256", "")
        if not found or "-" in found or head.get("ChecksumType") == "COMPOSITE":
            return file
        return file.model_copy(update={"sha256": base64.b64decode(found).hex()})

    @contextmanager
    def open(self, name: str, start: int) -> Iterator[Iterator[bytes]]:
        """The bytes of the listed object from `start` on.

        Raises:
            BuildError: somebody has replaced it.
        """
        wish = {"Bucket": self._bucket, "Key": self._prefix + name, "IfMatch": self._etags[name]}
        try:
            answer = self._client.get_object(**wish, **({"Range": f"bytes={start}-"} if start else {}))
        except exceptions.ClientError as error:
            if _status(error) == 412:  # noqa: PLR2004 - Precondition Failed
                raise self._changed(name) from error
            raise
        body = answer["Body"]
        try:
            blocks = body.iter_chunks(_BLOCK)
            yield blocks if not start or answer.get("ContentRange") else download.skipped(blocks, start)
        finally:
            body.close()

    def named(self, error: Exception) -> BuildError:
        """What a failed call means to the user."""
        if isinstance(error, exceptions.ClientError):
            return self._answered(error)
        if isinstance(error, exceptions.SSLError) and _UNTRUSTED in str(error).lower().replace("_", " "):
            return BuildError(
                "SourceUnreachable",
                f"{self._service} has a certificate that isn't trusted: {line(error)}",
                "Put the certificate of its authority (PEM) under the key ca.crt into the Secret of "
                "source.s3.credentialsSecretRef.",
            )
        if isinstance(error, parsers.ResponseParserError):
            return BuildError(
                "SourceUnreachable", f"{self._service} doesn't speak S3: {line(error)}", _ENDPOINT, ExitCode.PASSING
            )
        return BuildError(
            "SourceUnreachable", f"{self._service} can't be reached ({line(error)}).", _ENDPOINT, ExitCode.PASSING
        )

    def _page_through(self, folder: str) -> tuple[dict[str, Any], set[str]]:
        """Files right below a folder, and its folders, all named from the top."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + folder, Delimiter="/", PaginationConfig={"PageSize": _PAGE}
        )
        found: dict[str, Any] = {}
        folders: set[str] = set()
        for page in pages:
            folders |= {entry["Prefix"][len(self._prefix) :] for entry in page.get("CommonPrefixes", ())}
            found |= {entry["Key"][len(self._prefix) :]: entry for entry in page.get("Contents", ())}
            if len(found) + len(folders) > _MOST_NAMES:
                raise BuildError(
                    "SourceNotFound",
                    f"{self.title} holds more than {_MOST_NAMES} files and folders; a model has a dozen.",
                    "Set source.s3.uri to the model's own folder.",
                )
        # Some tools make an object for the folder itself.
        return {name: entry for name, entry in found.items() if name and not name.endswith("/")}, folders

    def _empty(self) -> BuildError:
        beside = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix.rstrip("/"), MaxKeys=5)
        keys = [entry["Key"] for entry in beside.get("Contents", ())]
        held = f"; there is {', '.join(keys)}" if keys else ""
        return BuildError(
            "SourceNotFound",
            f"{self.title} is empty{held}.",
            "Set source.s3.uri to the folder with config.json, the weights and the tokenizer's files. Archives are not "
            "unpacked: upload their content.",
        )

    def _changed(self, name: str) -> BuildError:
        return BuildError(
            "SourceChanged",
            f"{self.title}: {name} was replaced while it was read.",
            "It is tried again; finish uploading before you apply the BertDeployment.",
            ExitCode.PASSING,
        )

    def _answered(self, error: exceptions.ClientError) -> BuildError:
        """What an answer of the service means."""
        code, status = str(error.response.get("Error", {}).get("Code", "")), _status(error)
        if code == "NoSuchBucket":
            message = f"{self._service} has no bucket {self._bucket!r}."
            return BuildError("SourceNotFound", message, "Check source.s3.uri, endpoint and region.")
        if code in ("NoSuchKey", "404"):
            return BuildError(
                "SourceChanged", f"{self.title}: a file went away.", "It is tried again.", ExitCode.PASSING
            )
        if status in (401, 403) or code in _FORBIDDEN:
            return self._forbidden(code)
        if not download.passes(status):
            return BuildError(
                "SourceRefused", f"{self._service} answered {status} {code} for {self._bucket}.", _ENDPOINT
            )
        message = f"{self._service} answered {status} {code}."
        return BuildError("SourceUnreachable", message, _ENDPOINT, ExitCode.PASSING)

    def _forbidden(self, code: str) -> BuildError:
        reference = self._source.credentials_secret_ref
        if reference is None:
            return BuildError(
                "SourceForbidden",
                f"{self._service} lets nobody without credentials read {self._source.uri} ({code}).",
                "`kubectl create secret generic s3 --from-literal=AWS_ACCESS_KEY_ID=… "
                "--from-literal=AWS_SECRET_ACCESS_KEY=…`, and set source.s3.credentialsSecretRef: {name: s3}.",
            )
        found = "refuses the credentials" if code in _FORBIDDEN else f"forbids access to {self._source.uri}"
        return BuildError(
            "SourceForbidden",
            f"{self._service} {found} ({code}).",
            f"Put valid keys into Secret {reference.name!r}; they need s3:ListBucket on the bucket and s3:GetObject "
            "on the folder.",
        )


_UNTRUSTED: Final = "certificate verify failed"
"""OpenSSL's words, or in capitals its code; its other faults (a handshake cut short) pass."""
_ENDPOINT: Final = "Check source.s3.endpoint and region, and that the cluster may reach it."


def _client(job: Job) -> Any:  # noqa: ANN401 - botocore makes its clients at run time and has no stubs
    source = job.request.s3
    if source is None:
        raise TypeError("the request has no s3 source")
    keys = _keys(job)
    config = botocore.config.Config(
        signature_version="s3v4" if keys else botocore.UNSIGNED,
        connect_timeout=10,
        read_timeout=30,
        retries={"total_max_attempts": 1},  # download.tried does that, and says so
        s3={"addressing_style": "path" if source.endpoint else "virtual"},
        # Not every service knows the newer checksums; ours are taken anyway.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    authority = job.credentials / "ca.crt"
    client = _session().create_client(
        "s3",
        region_name=source.region or _DEFAULT_REGION,
        endpoint_url=source.endpoint,
        verify=str(authority) if authority.is_file() else None,
        config=config,
        **keys,
    )
    client.meta.events.register("before-send.s3", _refuse_metadata)
    return client


def _refuse_metadata(request: Any, **_: object) -> None:  # noqa: ANN401 - botocore has no stubs
    """Before each request, also one that a service has sent elsewhere: names may lead to another address by then.

    Raises:
        BuildError: it would go to where clouds hand out their nodes' credentials.
    """
    host = urlsplit(request.url).hostname or ""
    if found := destination.metadata_address(host):
        raise BuildError(
            "SourceUnsafe",
            f"source.s3.endpoint: {host} leads to {found}, where clouds hand out their nodes' credentials.",
            "Write the address of an S3 service into source.s3.endpoint, or correct its entry in the DNS.",
        )


@functools.cache
def _session() -> Any:  # noqa: ANN401 - see _client
    return botocore.session.Session()


def _keys(job: Job) -> dict[str, str]:
    """The credentials of the Secret that the request names; nothing if it names none.

    Raises:
        BuildError: the Secret isn't there, or lacks a key.
    """
    reference = job.request.s3.credentials_secret_ref if job.request.s3 else None
    if reference is None:
        return {}
    identity, secret, session, _ = names.S3_CREDENTIAL_KEYS
    found = {
        "aws_access_key_id": credentials.read(job, identity),
        "aws_secret_access_key": credentials.read(job, secret),
        "aws_session_token": credentials.read(job, session),
    }
    if not found["aws_access_key_id"] or not found["aws_secret_access_key"]:
        raise credentials.missing(job, "source.s3.credentialsSecretRef", reference.name, [identity, secret])
    return {name: value for name, value in found.items() if value}


def _status(error: exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
