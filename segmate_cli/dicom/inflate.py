"""The data set of a deflated DICOM file in a temporary file, where what it holds can be found.

What is deflated as a whole can only be read from its beginning; a multi-frame file holds a scan,
which does not belong into memory. The temporary file has no name where the system allows it.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, cast

from segmate_cli.dicom import archives
from segmate_cli.dicom.data_set import file_meta
from segmate_cli.dicom.decode import DecoderError

_CHUNK = 1 << 20


def inflated(stream: BinaryIO, size: int, most: int) -> tuple[BinaryIO, int]:
    """Inflate a file.

    Args:
        stream: The file, seekable, at its start.
        size: Of the file.
        most: Bytes after which nothing more is wanted.

    Returns:
        The data set in explicit little endian, without preamble and file meta group, and its size.

    Raises:
        DecoderError: It holds more than a CT of its size could.
        one of MALFORMED: It is damaged; the temporary file cannot be written.
    """
    file_meta(stream, size)
    written = 0
    with ExitStack() as closing:
        file = cast(BinaryIO, tempfile.TemporaryFile(prefix=".segmate-"))  # noqa: SIM115
        closing.callback(file.close)
        for part in _parts(stream):
            file.write(part)
            written += len(part)
            ratio = written / max(1, size)
            if written > archives.RATIO_MATTERS_BYTES and ratio > archives.MAX_RATIO:
                raise DecoderError("it inflates to many times its size, as no CT does")
            if written > archives.MAX_FILE_BYTES:
                raise DecoderError("it inflates to more than a CT holds")
            if written >= most:
                break
        file.seek(0)
        closing.pop_all()  # from here on the caller closes it
    return file, written


def _parts(stream: BinaryIO) -> Iterator[bytes]:
    """What a stream inflates to, a little at a time."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflate.eof:
        packed = inflate.unconsumed_tail or stream.read(_CHUNK)
        yield inflate.decompress(packed, _CHUNK) if packed else inflate.flush()
        if not packed:
            break
