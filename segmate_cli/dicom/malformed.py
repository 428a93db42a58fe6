"""What is raised where bytes are not what they claim to be."""

from __future__ import annotations

import struct
import zipfile
import zlib

# What pydicom, its decoders, zlib and zipfile raise for malformed bytes, found by mutating files.
# RuntimeError covers RecursionError and NotImplementedError; MemoryError: absurd declared sizes.
MALFORMED = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    OSError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
