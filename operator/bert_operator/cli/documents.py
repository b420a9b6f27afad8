"""Reads YAML files as kubectl would: several documents per file, Lists taken apart, every word a plain JSON value."""

import json
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bert_operator.api import names
from bert_operator.cli.terminal import FailureError


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One resource of a file."""

    file: str
    """Name of the file as given."""
    number: int
    """Which YAML document of the file it is, from 1."""
    content: Any

    @property
    def kind(self) -> str:
        """What it says it is, or nothing."""
        return str(self.content.get("kind") or "") if isinstance(self.content, dict) else ""

    @property
    def title(self) -> str:
        """How messages call it."""
        metadata = self.content.get("metadata") if isinstance(self.content, dict) else None
        name = metadata.get("name") or metadata.get("generateName") if isinstance(metadata, dict) else None
        words = [self.kind or "something without kind", *([str(name)] if name else [])]
        return f"{self.file}: document {self.number}: {' '.join(words)}"


class _Loader(yaml.SafeLoader):
    """Like kubectl: a date is text, and a key that is written twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - its signature
        """Refuse a second entry of the same key: PyYAML would silently keep the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is written twice: remove one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(file: str) -> list[Document]:
    """The documents of a file, or of standard input if it is `-`; empty ones are left out.

    Raises:
        FailureError: it can't be read, or isn't YAML.
    """
    shown = "standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        loaded = list(yaml.load_all(text, _Loader))
    except OSError as error:
        raise FailureError(f"{shown}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FailureError(f"{shown}: isn't UTF-8 text: write it anew as UTF-8") from error
    except yaml.YAMLError as error:
        raise FailureError(f"{shown}: isn't YAML: {_where(error)}") from error
    return [
        Document(file=shown, number=number, content=item)
        for number, document in enumerate(loaded, 1)
        if document is not None
        for item in _items(document)
    ]


def one_kind(file: str, kind: str) -> list[dict[str, Any]]:
    """Everything of a kind in a file.

    Raises:
        FailureError: it can't be read, or holds none.
    """
    found = [document.content for document in read(file) if document.kind == kind]
    if not found:
        raise FailureError(f"{file}: holds no {kind}: give the output of `kubectl get {kind.lower()} -o yaml`")
    return found


def is_bert(document: Document) -> bool:
    """Whether it is, or was meant to be, a BertDeployment."""
    group = str(document.content.get("apiVersion") or "") if isinstance(document.content, dict) else ""
    ours = group.partition("/")[0] == names.GROUP and document.kind != names.ARTIFACT_KIND
    return ours or document.kind.lower() in {names.KIND.lower(), names.PLURAL, "bertd"}


def as_stored(value: Any) -> Any:  # noqa: ANN401 - any YAML
    """What the API server makes of it: plain JSON in which a field that is null counts as not written."""
    return _without_nulls(json.loads(json.dumps(value, default=str)))


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _items(document: Any) -> Iterator[Any]:  # noqa: ANN401 - any YAML
    """A List's items, as `kubectl get -o yaml` prints them; else the document itself."""
    if isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list):
        yield from document["items"]
    else:
        yield document


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())
