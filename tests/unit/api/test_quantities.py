from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator.api import quantities


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1.5", "1.5"),
        ("1k", "1000"),
        ("2Gi", str(2 * 2**30)),
        ("1.5Mi", "1572864"),
        ("1G", "1e9"),
        ("20E", "2e19"),
        ("2Pi", str(2 * 2**50)),
        ("100u", "0.0001"),
        ("1n", "1e-9"),
    ],
)
def test_reads_what_kubernetes_writes(text: str, number: str) -> None:
    assert quantities.parse(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "m", "1Q", "-1", "1.2.3", "1 Gi", "0x10", "٣", "1mm", "1iK", "1e3"])
def test_refuses_everything_else_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"write e\.g\. 500m, 2, 512Mi or 2Gi"):
        quantities.parse(text)


@given(st.integers(min_value=1, max_value=2**50))
def test_mebibytes_never_round_down(size: int) -> None:
    written = quantities.parse(quantities.mebibytes(size))

    assert size <= written < size + 2**20
