"""A model folder in a bucket, by the image's own client, against a real S3 service and connections that break.

The service is `tests/s3server`; its program is mounted at /s3 (`python3 -m support.s3_server` builds it).
"""

import base64
import hashlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("botocore")

from botocore import exceptions

from bert_build import download, fetch, files, formats, s3
from bert_build.failures import BuildError
from bert_build.state import State
from bert_build.store import Store
from bert_operator.api.report import BuildRequest, ExitCode
from support import ports, s3_server
from unit.bert_build import building

PROGRAM = Path("/s3") / s3_server.PROGRAM
pytestmark = [
    pytest.mark.build,
    pytest.mark.skipif(not PROGRAM.exists(), reason="run with --mount $(python3 -m support.s3_server):/s3"),
]
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    with s3_server.running(PROGRAM, tmp_path_factory.mktemp("s3")) as found:
        found.make_bucket("models")
        found.make_bucket("public", public=True)
        yield found


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(formats, "toolchain", lambda _: {"torch": "2.6.0", "exporter": "onnx-1"})
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    # What a node or a user might have lying about must decide nothing.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-node")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    secret(tmp_path)


def secret(tmp_path: Path, access: str = s3_server.ACCESS_KEY, key: str = s3_server.SECRET_KEY) -> None:
    """What the kubelet makes of the Secret."""
    (tmp_path / "credentials").mkdir(exist_ok=True)
    (tmp_path / "credentials" / "AWS_ACCESS_KEY_ID").write_text(f"{access}\n")
    (tmp_path / "credentials" / "AWS_SECRET_ACCESS_KEY").write_text(key)


def model(service: s3_server.S3Server, uri: str, **headers: str) -> dict[str, bytes]:
    """A small model in the bucket, its weights a megabyte or two."""
    content = {
        "config.json": building.CONFIG_TEXT,
        "vocab.txt": b"[PAD]\n",
        MODEL: building.safetensors(building.shapes() | {"cls.big": (1000, 512)}),
    }
    for name, text in content.items():
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        service.put(bucket, f"{prefix}/{name}", text, headers)
    return content


def wish(url: str, uri: str, *, anonymous: bool = False, region: str = s3_server.REGION, **build: Any) -> BuildRequest:
    source = {"uri": uri, "endpoint": url, "region": region}
    if not anonymous:
        source |= {"credentialsSecretRef": {"name": "bucket"}}
    return building.request(source={"s3": source}, **build)


def run(tmp_path: Path, request: BuildRequest) -> State:
    return fetch.run(building.job(tmp_path, request), State(request_key="k1"))


def refused(tmp_path: Path, request: BuildRequest) -> BuildError:
    with pytest.raises(BuildError) as caught:
        run(tmp_path, request)
    assert caught.value.next_step
    return caught.value


def got(tmp_path: Path, name: str = MODEL) -> bytes:
    return (tmp_path / "work" / "source" / name).read_bytes()


def test_a_model_is_named_by_what_its_files_hold(service: s3_server.S3Server, tmp_path: Path) -> None:
    content = model(service, "s3://models/a/bert")
    state = run(tmp_path, wish(service.url, "s3://models/a/bert/"))
    assert {name: file.sha256 for name, file in state.files.items()} == {
        name: hashlib.sha256(text).hexdigest() for name, text in content.items()
    }
    assert state.revision == f"sha256:{state.weights_digest}"
    assert got(tmp_path) == content[MODEL]
    model(service, "s3://models/a/copy")
    assert run(tmp_path, wish(service.url, "s3://models/a/copy")).artifact_key == state.artifact_key
    for name, text in content.items():
        (tmp_path / "source" / name).write_bytes(text)
    assert run(tmp_path, building.request()).artifact_key == state.artifact_key


def test_a_public_bucket_needs_no_secret_and_a_private_one_says_so(service: s3_server.S3Server, tmp_path: Path) -> None:
    model(service, "s3://public/bert")
    assert run(tmp_path, wish(service.url, "s3://public/bert", anonymous=True)).artifact_key
    model(service, "s3://models/private")
    error = refused(tmp_path, wish(service.url, "s3://models/private", anonymous=True))
    assert (error.reason, error.code) == ("SourceForbidden", ExitCode.USER_ERROR)
    assert "credentialsSecretRef: {name: s3}" in error.next_step


@pytest.mark.parametrize(("access", "key"), [("nobody", s3_server.SECRET_KEY), (s3_server.ACCESS_KEY, "wrong")])
def test_wrong_keys_are_named_and_never_shown(
    service: s3_server.S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], access: str, key: str
) -> None:
    secret(tmp_path, access, key)
    error = refused(tmp_path, wish(service.url, "s3://models/a"))
    assert (error.reason, error.code) == ("SourceForbidden", ExitCode.USER_ERROR)
    assert "refuses the credentials" in error.message
    assert "Secret 'bucket'" in error.next_step
    assert s3_server.SECRET_KEY not in error.message + error.next_step + "".join(capfd.readouterr())


def test_a_missing_secret_is_named_with_the_command_that_makes_it(service: s3_server.S3Server, tmp_path: Path) -> None:
    (tmp_path / "credentials" / "AWS_SECRET_ACCESS_KEY").unlink()
    error = refused(tmp_path, wish(service.url, "s3://models/a"))
    assert (error.reason, error.code) == ("SecretNotFound", ExitCode.PASSING)
    assert "--from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…" in error.next_step


def test_a_published_sha256_finds_the_artifact_before_weights_are_downloaded(
    service: s3_server.S3Server, tmp_path: Path
) -> None:
    content = model(service, "s3://models/summed")
    for name, text in content.items():
        sum_ = base64.b64encode(hashlib.sha256(text).digest()).decode()
        service.put("models", f"summed/{name}", text, {"x-amz-checksum-sha256": sum_})
    request = wish(service.url, "s3://models/summed")
    key = run(tmp_path, request).artifact_key
    Store(tmp_path / "store").publish(tmp_path / "s", building.staged(tmp_path / "s", key=key), "me")
    assert run(tmp_path, request).reused
    assert not (tmp_path / "work" / "source" / MODEL).exists()


def test_a_broken_download_goes_on_where_it_broke_off(service: s3_server.S3Server, tmp_path: Path) -> None:
    content = model(service, "s3://models/broken")
    with s3_server.breaking(service.address, break_after=1_500_000) as proxy:
        assert run(tmp_path, wish(f"http://{proxy.address}", "s3://models/broken")).artifact_key
    spans = [text for text in proxy.requests if "ange: bytes=" in text and MODEL in text]
    assert len(spans) == 1
    assert "If-Match: " in spans[0]
    assert got(tmp_path) == content[MODEL]


def test_a_file_replaced_between_two_parts_is_noticed(service: s3_server.S3Server, tmp_path: Path) -> None:
    content = model(service, "s3://models/swapped")
    other = content[MODEL][:-1] + b"\1"
    with s3_server.breaking(service.address, break_after=1_500_000) as proxy:
        proxy.on_break = lambda: service.put("models", f"swapped/{MODEL}", other)
        error = refused(tmp_path, wish(f"http://{proxy.address}", "s3://models/swapped"))
    assert (error.reason, error.code) == ("SourceChanged", ExitCode.PASSING)
    assert f"{MODEL} was replaced" in error.message
    assert (
        run(tmp_path, wish(service.url, "s3://models/swapped")).files[MODEL].sha256 == hashlib.sha256(other).hexdigest()
    )


def test_a_listing_has_more_than_one_page(
    service: s3_server.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = model(service, "s3://models/paged")
    monkeypatch.setattr(s3, "_PAGE", 1)
    assert sorted(run(tmp_path, wish(service.url, "s3://models/paged")).files) == sorted(content)


def test_a_bucket_full_of_other_things_is_refused_at_its_top(
    service: s3_server.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(service, "s3://models/top/bert")
    monkeypatch.setattr(s3, "_MOST_NAMES", 2)
    error = refused(tmp_path, wish(service.url, "s3://models/top/bert"))
    assert error.reason == "SourceNotFound"
    assert error.next_step == "Set source.s3.uri to the model's own folder."


def test_what_isnt_there_is_named_with_what_is(service: s3_server.S3Server, tmp_path: Path) -> None:
    assert "has no bucket 'nowhere'" in refused(tmp_path, wish(service.url, "s3://nowhere/bert")).message
    service.put("models", "packed/bert.tar.gz", b"x")
    error = refused(tmp_path, wish(service.url, "s3://models/packed/bert"))
    assert "s3://models/packed/bert on http://127.0.0.1" in error.message
    assert "is empty; there is packed/bert.tar.gz" in error.message
    assert "Archives are not unpacked" in error.next_step
    assert "it holds bert.tar.gz" in refused(tmp_path, wish(service.url, "s3://models/packed")).message


def test_a_savedmodel_comes_with_its_folders_and_nothing_leaves_the_models_folder(
    service: s3_server.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001", "assets/v.txt")
    for name in inside:
        service.put("models", f"tf/{name}", name.encode())
    service.put("models", "tf/config.json", building.CONFIG_TEXT)
    request = wish(service.url, "s3://models/tf", framework="tensorflow")
    assert {name for name, file in run(tmp_path, request).files.items() if file.kind == "weights"} == set(inside)
    assert got(tmp_path, "variables/variables.index") == b"variables/variables.index"
    # The gateway's folder can't hold such a key; other services can.
    listed = s3.S3Shelf.listed
    evil = "variables/../../../store/x"
    monkeypatch.setattr(s3.S3Shelf, "listed", lambda self: ("", {**(a := listed(self)[1]), evil: a["saved_model.pb"]}))
    assert refused(tmp_path, request).reason == "SourceUnsafe"


def test_a_bucket_of_another_region_is_found_there(service: s3_server.S3Server, tmp_path: Path) -> None:
    content = model(service, "s3://models/abroad")
    assert sorted(run(tmp_path, wish(service.url, "s3://models/abroad", region="us-west-9")).files) == sorted(content)


def test_lack_of_space_is_noticed_before_the_download(
    service: s3_server.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(service, "s3://models/large")
    monkeypatch.setattr(files, "free", lambda _: 1_000_000)
    error = refused(tmp_path, wish(service.url, "s3://models/large"))
    assert (error.reason, error.code) == ("ScratchFull", ExitCode.NO_SPACE)
    assert not (tmp_path / "work" / "source" / MODEL).exists()
    assert list((tmp_path / "store").iterdir()) == []


@contextmanager
def without_a_handshake() -> Iterator[str]:
    """A TLS port that closes every connection, as a proxy does that is being restarted."""

    class Closing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_a_broken_handshake_passes_and_blames_no_certificate(tmp_path: Path) -> None:
    with without_a_handshake() as url:
        error = refused(tmp_path, wish(url, "s3://models/a"))
    assert (error.reason, error.code) == ("SourceUnreachable", ExitCode.PASSING)
    assert "EOF" in error.message
    assert "certificate" not in error.message


def test_a_certificate_that_isnt_trusted_stays_so(tmp_path: Path) -> None:
    said = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1016)"
    shelf = s3.S3Shelf(building.job(tmp_path, wish("https://127.0.0.1:9", "s3://models/a")))
    error = shelf.named(exceptions.SSLError(endpoint_url="https://127.0.0.1:9", error=said))
    assert (error.reason, error.code) == ("SourceUnreachable", ExitCode.USER_ERROR)
    assert "ca.crt" in error.next_step


def test_a_name_that_leads_to_a_metadata_service_is_asked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_socket: socket.socket, address: tuple[str, int]) -> None:
        raise AssertionError(f"a connection to {address}")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket.socket, "connect", connect)
    error = refused(tmp_path, wish("http://minio.example", "s3://models/a"))
    assert (error.reason, error.code) == ("SourceUnsafe", ExitCode.USER_ERROR)
    assert "minio.example leads to 169.254.169.254" in error.message


def test_a_service_that_cannot_be_reached_passes_and_is_named(tmp_path: Path) -> None:
    closed = f"http://127.0.0.1:{ports.free('127.0.0.1')}"
    error = refused(tmp_path, wish(closed, "s3://models/a"))
    assert (error.reason, error.code) == ("SourceUnreachable", ExitCode.PASSING)
    assert closed in error.message
