"""The base of every model in the vocabulary: frozen, strict about unknown fields, camelCase outside."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


class Rule(BaseModel):
    """One rule over several fields; the message says what to write instead.

    It is written twice, side by side: `rule` is the CEL that the API server runs (`x-kubernetes-validations`) and
    `holds` the same in Python, which guards whoever parses a spec without an API server. A test gives both the same
    bad specs. `holds` is None for transition rules (`oldSelf`): a parser sees no old object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    message: str
    message_expression: str | None = None
    field_path: str | None = None
    holds: Callable[[Any], bool] | None = None


class Model(BaseModel):
    """A frozen value that forbids unknown fields and speaks camelCase JSON."""

    # Most programs use a few models of the vocabulary: the others are never made ready.
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, defer_build=True
    )

    cel: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules(self) -> Self:
        for rule in self.cel:
            if rule.holds is not None and not rule.holds(self):
                raise ValueError(rule.message)
        return self


def unique(key: str | None = None) -> AfterValidator:
    """Refuse a list that names an entry twice, as the API server does for map lists (by `key`) and sets.

    The list says the same to the API server: `x-kubernetes-list-map-keys`, or `x-kubernetes-list-type: set`.
    """

    def check(items: list[Any]) -> list[Any]:
        names = [getattr(item, key) if key else item for item in items]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{f'{key} ' if key else ''}{name!r} occurs twice: remove or rename one")
        return items

    return AfterValidator(check)
