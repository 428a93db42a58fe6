from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmate_cli.dicom.uids import UidMaker, check_root
from segmate_cli.errors import UsageError

UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


@given(st.text(), st.sampled_from([None, "1.2", "1.2.826.0.1.3680043.8.498.12345.6789"]))
def test_uids_are_valid_and_under_their_root(fact, root):
    uid = UidMaker.of({"fact": fact}, root).uid("instance")
    assert UID.fullmatch(uid)
    assert len(uid) <= 64
    assert uid.startswith(f"{root or '2.25'}.")


def test_the_default_is_a_uuid_as_a_number():
    number = int(UidMaker.of({}).uid().removeprefix("2.25."))
    assert (number >> 76) & 0xF == 8  # version
    assert (number >> 62) & 0x3 == 2  # variant


def test_the_same_facts_give_the_same_uids_and_others_give_others():
    first, again = (UidMaker.of({"a": 1, "b": [2]}) for _ in range(2))
    assert first.uid("x") == again.uid("x")
    others = [first.uid("y"), UidMaker.of({"a": 1, "b": [3]}).uid("x"), first.uid("x", "")]
    others.append(UidMaker.of({"a": 1, "b": [2]}, "1.2").uid("x"))
    assert len({first.uid("x"), *others}) == 5


@pytest.mark.parametrize(
    "root", ["", "1", "1.2.", "1.02", "3.1", "1.2.x", "1.2\n", "1." + "9" * 40]
)
def test_what_is_no_root_is_refused(root):
    with pytest.raises(UsageError, match="--uid-root"):
        check_root(root)
