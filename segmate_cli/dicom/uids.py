"""UIDs derived from what an object is made of: the same input gives the same object, byte for byte.

A SOP instance that is sent twice must be the same, and two that differ must never share a UID. So
a UID is a hash of everything that decides the object's bytes, the versions of the writers included.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segmate_cli.errors import UsageError

_LONGEST = 64
# 26 digits hold 86 bits; with fewer, chance could make two UIDs equal.
_LEAST_DIGITS = 26
_ROOT = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


@dataclass(frozen=True, slots=True)
class UidMaker:
    """Makes the UIDs of one object.

    Attributes:
        seed: sha256 of everything that decides the object's bytes.
        root: An organisation's UID root without a final dot, or None for 2.25 and a UUID.
    """

    seed: bytes
    root: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any], root: str | None = None) -> UidMaker:
        """A maker for an object that ``facts`` (plain data for JSON) fully describe.

        Raises:
            UsageError: The root is no UID root, or too long.
        """
        check_root(root)
        text = json.dumps({"facts": facts, "root": root}, sort_keys=True)
        return cls(hashlib.sha256(text.encode()).digest(), root)

    def uid(self, *names: str) -> str:
        """The UID of one part of the object, such as ``uid("tracking", "liver")``."""
        digest = hashlib.sha256("\0".join((self.seed.hex(), *names)).encode()).digest()
        if self.root is None:
            # PS3.5 B.2: 2.25 and a UUID as a whole number; version 8 is for hashes of one's own.
            number = uuid.UUID(bytes=digest[:16]).int
            number = number & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
            return f"2.25.{number}"
        digits = _LONGEST - len(self.root) - 1
        return f"{self.root}.{int.from_bytes(digest, 'big') % (9 * 10 ** (digits - 1)) + 1}"


def check_root(root: str | None) -> None:
    """Refuse what cannot begin a UID.

    Raises:
        UsageError: No dotted number, or too long to leave room for a hash.
    """
    if root is None:
        return
    most = _LONGEST - 1 - _LEAST_DIGITS
    if _ROOT.fullmatch(root) is None or len(root) > most:
        raise UsageError(
            f"--uid-root {root}: give your organisation's root, numbers with dots between such as "
            f"1.2.826.0.1.12345, of at most {most} characters."
        )
