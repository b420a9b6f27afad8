"""docs/reference.md, made from the models: `python -m bert_operator.api.reference [--check]`.

One table per type, in the order in which a reader meets them. `make crds` writes it, a test keeps it in step with the
models. It reads the same schemas as `crd.py` gives the API server, so the page can't promise what isn't enforced.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bert_operator.api import crd, names
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.base import Model
from bert_operator.api.spec import BertDeploymentSpec
from bert_operator.api.status import BertDeploymentStatus

PAGE: Final = Path("docs/reference.md")
INTRODUCTION: Final = f"""<!-- Generated from bert_operator.api by `make crds`: edit the models, not this file. -->
# Reference of the API `{names.API_VERSION}`

What the API server accepts, fills in and refuses, field by field. Start from a file in `crds/samples`; the same text
is in `kubectl explain bertd.spec --recursive`. Unknown fields are refused. Bounds are inclusive.

"""
NAMES_SECTION: Final = f"""## BertDeployment

What you write: short name `bertd`, namespaced. Everything that it names lives in its own namespace. The annotation
`{names.REFRESH_ANNOTATION}` on it, set to any new value, resolves and builds every source again.

Rules for `metadata.name`:

"""
ARTIFACT_SECTION: Final = """## BertArtifact

The operator's record of one artifact on a claim: short name `berta`. Read it (`kubectl get berta`); only the operator
writes it.

"""


def render() -> str:
    """Text of the page."""
    parts = [INTRODUCTION, NAMES_SECTION, *(f"- {prose(rule.message)}\n" for rule in crd.NAME_RULES), "\n"]
    parts += _sections("spec", crd.object_schema(BertDeploymentSpec), BertDeploymentSpec)
    parts += _sections("status", crd.object_schema(BertDeploymentStatus, defaults=False), BertDeploymentStatus)
    parts.append(ARTIFACT_SECTION)
    parts += _sections("spec", crd.object_schema(BertArtifactSpec), BertArtifactSpec, anchor="artifact.spec")
    return "".join(parts).rstrip("\n") + "\n"


def _sections(path: str, schema: crd.Schema, model: type[Model], *, anchor: str = "") -> Iterator[str]:
    """The section of one object, then those of the objects in it."""
    anchor = anchor or path
    yield f'### <a id="{anchor}"></a>`{path}`\n\n{model.__doc__ if "." not in path else schema["description"]}\n\n'
    yield "| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n"
    required = set(schema.get("required", ()))
    inner: list[tuple[str, crd.Schema]] = []
    for name, child in schema["properties"].items():
        yield _row(name, child, f"{anchor}.{name}", required=name in required)
        if nested := _object_in(child):
            inner.append((name + ("[]" if child.get("type") == "array" else ""), nested))
    yield "\n"
    yield _rules(schema)
    for name, nested in inner:
        yield from _sections(f"{path}.{name}", nested, model, anchor=f"{anchor}.{name.removesuffix('[]')}")


def _object_in(schema: crd.Schema) -> crd.Schema | None:
    for candidate in (schema, schema.get("items", {})):
        if "properties" in candidate:
            return dict(candidate)
    return None


def _row(name: str, schema: crd.Schema, anchor: str, *, required: bool) -> str:
    default = "**required**" if required else _default(schema)
    type_ = _type(schema)
    if _object_in(schema):
        type_ = f"[{type_}](#{anchor})"
    cells = (f"`{name}`", type_, default, _bounds(schema), _cell(prose(schema.get("description", ""))))
    return f"| {' | '.join(cells)} |\n"


def _default(schema: crd.Schema) -> str:
    default = schema.get("default", {})
    if default == {}:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else "empty"


def _type(schema: crd.Schema) -> str:
    if "enum" in schema:
        return "one of"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema["type"])


def _bounds(schema: crd.Schema) -> str:
    """Everything that limits a value, in a few words."""
    words = [_range(schema), _size(schema)]
    inner = schema.get("items") or schema.get("additionalProperties") or {}
    if "enum" in schema:
        words.append(", ".join(f"`{value}`" for value in schema["enum"]))
    if "pattern" in schema:
        words.append(f"`{_cell(schema['pattern'])}`")
    if keys := schema.get("x-kubernetes-list-map-keys"):
        words.append(f"unique `{', '.join(keys)}`")
    if schema.get("x-kubernetes-list-type") == "set":
        words.append("no duplicates")
    if "properties" not in inner and (each := inner and _bounds(inner)):
        words.append(f"each {each}")
    return "; ".join(filter(None, words))


def _range(schema: crd.Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"≥ {low}" if low is not None else f"≤ {high}" if high is not None else ""


def _size(schema: crd.Schema) -> str:
    """Length of a string, list or map."""
    for least, most, unit in (
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "entries"),
        ("minProperties", "maxProperties", "entries"),
    ):
        if most in schema:
            return f"{schema[least]} to {schema[most]} {unit}" if schema.get(least) else f"≤ {schema[most]} {unit}"
    return ""


def _rules(schema: crd.Schema) -> str:
    """The rules over several fields, as the API server says them."""
    own: list[dict[str, Any]] = list(schema.get("x-kubernetes-validations", ()))
    for name, child in schema["properties"].items():
        if "additionalProperties" in child:
            own += [{"message": f"{name}: {rule['message']}"} for rule in child.get("x-kubernetes-validations", ())]
    return "".join(["Rules:\n\n", *(f"- {prose(rule['message'])}\n" for rule in own), "\n"]) if own else ""


def prose(text: str) -> str:
    """Escape what Markdown would take for a tag or for emphasis, but not inside backticks."""
    parts = text.split("`")
    return "`".join(re.sub(r"([<*_])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def stale(root: Path) -> str:
    """What the committed page lacks, as a unified diff; empty if it is current."""
    path = root / PAGE
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    diff = difflib.unified_diff(
        old.splitlines(keepends=True), render().splitlines(keepends=True), str(path), "generated from the models"
    )
    return "".join(diff)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page below the current folder, or with --check say whether it is current."""
    parser = argparse.ArgumentParser(prog="python -m bert_operator.api.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff if the page is stale")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: this folder)")
    options = parser.parse_args(arguments)
    if options.check:
        diff = stale(options.root)
        sys.stdout.write(diff)
        if diff:
            sys.stderr.write(f"{PAGE} is stale: run `make crds`\n")
        return 1 if diff else 0
    path = options.root / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
