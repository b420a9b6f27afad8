"""A repository of the hub, through the real huggingface_hub, against a server that speaks the hub's API."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from bert_build import fetch, files, formats, hub
from bert_build.failures import BuildError
from bert_build.state import State
from bert_build.store import Store
from bert_operator.api.report import BuildRequest, ExitCode
from support import hub_server
from unit.bert_build import building


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub_server.Hub]:
    monkeypatch.setattr(formats, "toolchain", lambda _: {"torch": "2.6.0", "exporter": "onnx-1"})
    monkeypatch.setattr(hub.time, "sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server.running() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        folder = building.model_folder(tmp_path / "repo")
        found.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {
            "README.md": b"#",
            "tf_model.h5": b"h",
        }
        yield found


def wish(revision: str = "main", repo: str = "team/bert") -> BuildRequest:
    return building.request(repo=repo, revision=revision)


def run(tmp_path: Path, request: BuildRequest | None = None) -> State:
    return fetch.run(building.job(tmp_path, request or wish()), State(request_key="k1"))


def refused(tmp_path: Path, request: BuildRequest | None = None) -> BuildError:
    with pytest.raises(BuildError) as caught:
        run(tmp_path, request)
    assert caught.value.next_step
    return caught.value


def test_only_what_is_needed_is_downloaded_at_the_resolved_commit(server: hub_server.Hub, tmp_path: Path) -> None:
    state = run(tmp_path)
    assert state.revision == hub_server.COMMIT
    assert sorted(state.files) == ["config.json", "model.safetensors", "vocab.txt"]
    got = (tmp_path / "work" / "source" / "model.safetensors").read_bytes()
    assert got == server.files["model.safetensors"]
    paths = [path for _, path, _ in server.requests if "/resolve/" in path]
    assert all(f"/resolve/{hub_server.COMMIT}/" in path for path in paths)


def test_same_model_from_hub_and_claim_is_the_same_artifact(server: hub_server.Hub, tmp_path: Path) -> None:
    building.model_folder(tmp_path / "source")
    assert run(tmp_path).artifact_key == run(tmp_path, building.request()).artifact_key
    assert server.requests


def test_published_artifact_is_found_before_weights_are_downloaded(server: hub_server.Hub, tmp_path: Path) -> None:
    key = run(tmp_path).artifact_key
    Store(tmp_path / "store").publish(tmp_path / "s", building.staged(tmp_path / "s", key=key), "me")
    server.requests.clear()
    assert run(tmp_path).reused
    assert server.downloads("model.safetensors") == []


def test_mirror_without_published_digests_works_too(server: hub_server.Hub, tmp_path: Path) -> None:
    with_digests = run(tmp_path).artifact_key
    server.large = set()
    assert run(tmp_path).artifact_key == with_digests


def test_broken_download_goes_on_where_it_broke_off(
    server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    server.files["model.safetensors"] = building.safetensors(building.shapes() | {"cls.big": (1000, 1000)})
    server.break_after = 1_000_000
    run(tmp_path)
    spans = server.downloads("model.safetensors")
    assert len(spans) > 1
    assert spans[-1] not in (None, "bytes=0-")


def test_download_with_a_wrong_digest_is_thrown_away(server: hub_server.Hub, tmp_path: Path) -> None:
    server.published_sha256 = "ab" * 32
    error = refused(tmp_path)
    assert (error.reason, error.code) == ("DownloadCorrupt", ExitCode.PASSING)
    assert not (tmp_path / "work" / "source" / "model.safetensors").exists()


def test_unknown_revision_is_named(server: hub_server.Hub, tmp_path: Path) -> None:
    error = refused(tmp_path, wish(revision="v9"))
    assert (error.reason, error.code) == ("RevisionNotFound", ExitCode.USER_ERROR)
    assert "'v9'" in error.message
    assert server.url in error.message


def test_unknown_repository_is_named(server: hub_server.Hub, tmp_path: Path) -> None:
    error = refused(tmp_path, wish(repo="team/bart"))
    assert (error.reason, error.code) == ("SourceNotFound", ExitCode.USER_ERROR)
    assert "team/bart" in error.message
    assert server.requests


def test_private_repository_asks_for_a_token_and_takes_it(
    server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "hf_secret"  # noqa: S105 - of this test's server
    assert "tokenSecretRef: {name: hub}" in refused(tmp_path).next_step
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    assert run(tmp_path).revision == hub_server.COMMIT


def test_wrong_token_is_named_and_never_shown(
    server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.token = "hf_secret"  # noqa: S105 - of this test's server
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")
    error = refused(tmp_path)
    assert error.code is ExitCode.USER_ERROR
    assert "token" in error.next_step
    assert "hf_wrong" not in error.message + error.next_step + "".join(capfd.readouterr())


def test_gated_repository_says_where_to_accept_its_terms(server: hub_server.Hub, tmp_path: Path) -> None:
    server.gated = True
    error = refused(tmp_path)
    assert (error.reason, error.code) == ("SourceForbidden", ExitCode.USER_ERROR)
    assert f"{server.url}/team/bert" in error.next_step


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_bad_day_of_the_hub_passes(server: hub_server.Hub, tmp_path: Path, status: int) -> None:
    server.status = status
    error = refused(tmp_path)
    assert (error.reason, error.code) == ("SourceUnreachable", ExitCode.PASSING)
    assert str(status) in error.message


def test_unreachable_hub_passes_and_is_named(
    server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", closed)
    error = refused(tmp_path)
    assert (error.reason, error.code) == ("SourceUnreachable", ExitCode.PASSING)
    assert closed in error.message
    assert not server.requests


def test_model_that_cannot_be_built_is_refused_before_its_weights_are_downloaded(
    server: hub_server.Hub, tmp_path: Path
) -> None:
    server.files["config.json"] = json.dumps({"model_type": "llama"}).encode()
    assert refused(tmp_path).reason == "UnsupportedModel"
    assert server.downloads("model.safetensors") == []


def test_lack_of_space_is_noticed_before_the_download(
    server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free", lambda _: 5000)
    error = refused(tmp_path)
    assert (error.reason, error.code) == ("ScratchFull", ExitCode.NO_SPACE)
    assert server.downloads("model.safetensors") == []
    assert not os.listdir(tmp_path / "store")  # noqa: PTH208 - emptiness is the point
