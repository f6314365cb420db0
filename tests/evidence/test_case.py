"""A case and the text that replays it."""

from __future__ import annotations

import pytest
import torch

from cofm_triton.evidence.case import Case

CASE = Case("linear_scan", "gated+reverse", (2, 33, 17), torch.float32, "h0+strided", 5)
TEXT = "linear_scan:gated+reverse:float32:2x33x17:h0+strided:5"


def test_text_and_parse_are_inverse() -> None:
    assert CASE.text == TEXT
    assert Case.parse(TEXT) == CASE
    plain = Case("rnn_scan", "fixed size", (8, 4096, 256), torch.bfloat16)
    assert Case.parse(plain.text) == plain
    assert (plain.size, plain.dtype_name) == ("8x4096x256", "bfloat16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear_scan", "a case is OPERATOR:VARIANT"),
        (TEXT.replace("2x33x17", "2x33"), "a case is OPERATOR:VARIANT"),
        (TEXT.replace("float32", "float31"), "a case is OPERATOR:VARIANT"),
        (TEXT.replace("float32", "nn"), "a case has a dtype"),
        (TEXT.replace("h0+strided", "dense"), "a layout of plain, h0"),
        (TEXT.replace(":5", ":-1"), "a seed >= 0"),
    ],
)
def test_names_of_no_case_say_what_one_looks_like(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case.parse(text)
