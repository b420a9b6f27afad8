"""Each message is one JSON object that says what it is about."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from bert_operator import logs


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure()
    yield stream
    root.handlers[:] = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_message_has_time_level_logger_and_text(written: io.StringIO) -> None:
    logging.getLogger("some.where").warning("%d of %s", 3, "many")
    (line,) = lines(written)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "some.where", "message": "3 of many"}


def test_messages_of_a_reconcile_name_the_bertdeployment_and_the_reconcile(written: io.StringIO) -> None:
    for _ in range(2):
        with logs.about("ns", "demo"):
            logging.getLogger("x").warning("inside")
    logging.getLogger("x").warning("outside")
    first, second, outside = lines(written)
    assert (first["namespace"], first["name"]) == ("ns", "demo")
    assert second["reconcile"] == first["reconcile"] + 1
    assert "name" not in outside


def test_kopfs_messages_name_their_object(written: io.StringIO) -> None:
    reference = {"kind": "Pod", "namespace": "ns", "name": "p", "uid": "u"}
    logging.getLogger("kopf.objects").warning("hello", extra={"k8s_ref": reference})
    assert lines(written)[0] | {"kind": "Pod", "namespace": "ns", "name": "p"} == lines(written)[0]


def test_a_traceback_and_a_newline_stay_inside_one_line(written: io.StringIO) -> None:
    try:
        int("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("it broke\nbadly")
    (line,) = lines(written)
    assert "Traceback" in line["exception"]
    assert line["message"] == "it broke\nbadly"


@pytest.mark.usefixtures("written")
def test_text_is_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(logs.FORMAT_ENV, "text")
    logs.configure()
    logging.getLogger("x").warning("plain")
    assert capsys.readouterr().err.endswith("WARNING x: plain\n")
