"""A repository of the hub, through the real huggingface_hub, against a server that speaks the hub's API."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_build import download, fetch, files, formats
from bert_build.failures import BuildError
from bert_build.state import State
from bert_build.store import Store
from bert_operator.api.report import BuildRequest, ExitCode
from support import hub_server
from unit.bert_build import building


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub_server.Hub]:
    monkeypatch.setattr(formats, "toolchain", lambda _: {"torch": "2.6.0", "exporter": "onnx-1"})
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with hub_server.running() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        folder = building.model_folder(tmp_path / "repo")
        found.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {
            "README.md": b"#",
            "tf_model.h5": b"h",
        }
        yield found


def wish(revision: str = "main", repo: str = "team/bert", token: str = "") -> BuildRequest:
    source = {"repo": repo, "revision": revision} | ({"tokenSecretRef": {"name": token, "key": "hf"}} if token else {})
    return building.request(source={"huggingFace": source})


def told(tmp_path: Path, token: str) -> None:
    """What the kubelet makes of the Secret."""
    (tmp_path / "credentials").mkdir(exist_ok=True)
    (tmp_path / "credentials" / "token").write_text(token)


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


def test_for_a_read_only_store_no_weights_are_downloaded(server: hub_server.Hub, tmp_path: Path) -> None:
    read_only = wish().model_copy(update={"store_read_only": True})
    error = refused(tmp_path, read_only)
    assert (error.reason, error.code) == ("StoreReadOnly", ExitCode.NO_SPACE)
    assert server.downloads("model.safetensors") == []
    key = run(tmp_path).artifact_key
    Store(tmp_path / "store").publish(tmp_path / "s", building.staged(tmp_path / "s", key=key), "me")
    assert run(tmp_path, read_only).reused


def test_mirror_without_published_digests_works_too(server: hub_server.Hub, tmp_path: Path) -> None:
    with_digests = run(tmp_path).artifact_key
    server.large = set()
    assert run(tmp_path).artifact_key == with_digests


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_broken_download_goes_on_where_it_broke_off(
    server: hub_server.Hub,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    ignores_ranges: bool,  # noqa: FBT001
) -> None:
    content = building.safetensors(building.shapes() | {"cls.big": (1000, 1000)})
    server.files["model.safetensors"] = content
    server.break_after, server.ignores_ranges = 3_000_000, ignores_ranges
    state = run(tmp_path)
    first, second = server.downloads("model.safetensors")
    assert first is None
    assert second is not None
    assert 1_000_000 <= int(second.removeprefix("bytes=").removesuffix("-")) <= 3_000_000
    assert (tmp_path / "work" / "source" / "model.safetensors").read_bytes() == content
    assert state.files["model.safetensors"].sha256 == hashlib.sha256(content).hexdigest()
    assert "can't be reached" in capfd.readouterr().out


def test_large_files_come_from_another_origin_which_never_sees_the_token(
    server: hub_server.Hub, tmp_path: Path
) -> None:
    server.token = "hf_secret"  # noqa: S105 - of this test's server
    told(tmp_path, "hf_secret")
    server.cdn = server.url.replace("127.0.0.1", "localhost")
    server.files["model.safetensors"] = building.safetensors({"cls.big": (1000, 1024)})
    server.break_after = 2_500_000
    run(tmp_path, wish(token="hub"))  # noqa: S106 - a Secret's name
    got = (tmp_path / "work" / "source" / "model.safetensors").read_bytes()
    assert got == server.files["model.safetensors"]
    assert [span for _, path, span in server.requests if path.startswith("/cdn/")] == [None, "bytes=2097152-"]


def test_a_download_that_gets_on_is_never_given_up(server: hub_server.Hub, tmp_path: Path) -> None:
    server.files["model.safetensors"] = building.safetensors({"cls.big": (1000, 2048)})
    server.break_after, server.breaks = 1_200_000, download.TRIES + 2
    assert run(tmp_path).files["model.safetensors"].size == len(server.files["model.safetensors"])
    assert len(server.downloads("model.safetensors")) == download.TRIES + 3


def test_a_file_that_never_ends_is_cut_off(server: hub_server.Hub, tmp_path: Path) -> None:
    server.surplus = 5_000_000
    error = refused(tmp_path)
    assert (error.reason, error.code) == ("DownloadCorrupt", ExitCode.PASSING)
    assert "sends more than the" in error.message
    got = tmp_path / "work" / "source" / "model.safetensors"
    assert got.stat().st_size <= len(server.files["model.safetensors"])


def test_a_mirror_that_lists_no_sizes_is_asked_for_them(server: hub_server.Hub, tmp_path: Path) -> None:
    key = run(tmp_path).artifact_key
    server.tells_sizes = False
    assert run(tmp_path).artifact_key == key


def test_a_savedmodel_is_taken_with_its_folders(server: hub_server.Hub, tmp_path: Path) -> None:
    inside = {name: name.encode() for name in ("saved_model.pb", "variables/variables.index", "assets/vocab.txt")}
    server.files |= inside | {"variables/variables.data-00000-of-00001": b"v", "onnx/model.onnx": b"no"}
    state = fetch.run(
        building.job(tmp_path, building.request(repo="team/bert", framework="tensorflow")), State(request_key="k")
    )
    assert {name for name, file in state.files.items() if file.kind == "weights"} == {
        *inside, "variables/variables.data-00000-of-00001",
    }  # fmt: skip
    assert (tmp_path / "work" / "source" / "assets" / "vocab.txt").read_bytes() == b"assets/vocab.txt"


@pytest.mark.parametrize(
    "name", ["variables/../../../store/x", "variables//etc/x", "assets/..", "assets/a\nb", "assets/a/b"]
)
def test_a_mirror_cannot_name_files_outside_the_models_folder(
    server: hub_server.Hub, tmp_path: Path, name: str
) -> None:
    server.files |= {"saved_model.pb": b"s", "variables/variables.index": b"i", name: b"out"}
    error = refused(tmp_path, building.request(repo="team/bert", framework="tensorflow"))
    assert error.reason == "SourceUnsafe"
    assert not (tmp_path / "store" / "x").exists()


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


def test_private_repository_asks_for_a_token_and_takes_it(server: hub_server.Hub, tmp_path: Path) -> None:
    server.token = "hf_secret"  # noqa: S105 - of this test's server
    assert "tokenSecretRef: {name: hub}" in refused(tmp_path).next_step
    told(tmp_path, "hf_secret\n")
    assert run(tmp_path, wish(token="hub")).revision == hub_server.COMMIT  # noqa: S106 - a Secret's name


def test_a_missing_secret_is_named_with_the_command_that_makes_it(server: hub_server.Hub, tmp_path: Path) -> None:
    error = refused(tmp_path, wish(token="hub"))  # noqa: S106 - a Secret's name
    assert (error.reason, error.code) == ("SecretNotFound", ExitCode.PASSING)
    assert "Secret 'hub' of source.huggingFace.tokenSecretRef doesn't exist in namespace team" in error.message
    assert "kubectl create secret generic hub -n team --from-literal=hf=…" in error.next_step
    assert "again" not in error.next_step, "only the operator knows whether it is tried again"
    assert not server.requests


def test_wrong_token_is_named_and_never_shown(
    server: hub_server.Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.token = "hf_secret"  # noqa: S105 - of this test's server
    told(tmp_path, "hf_wrong_one")
    error = refused(tmp_path, wish(token="hub"))  # noqa: S106 - a Secret's name
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
