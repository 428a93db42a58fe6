"""Files that may be gzip-compressed, read and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def is_gzip_name(path: Path) -> bool:
    """Whether the name ends in .gz, in any case."""
    return path.name.lower().endswith(".gz")


def open_unzipped(path: Path) -> IO[bytes]:
    """Open a file for reading; one whose name ends in .gz is decompressed on the way."""
    if not is_gzip_name(path):
        return path.open("rb")
    return _gzip_module().open(path, "rb")  # type: ignore[no-any-return]


@contextmanager
def zipping(raw: IO[bytes], compress: bool) -> Iterator[IO[bytes]]:
    """What to write to, so that `raw` gets it compressed, or as it is."""
    if not compress:
        yield raw
        return
    # No name and no time in the gzip header: the same labels give the same bytes.
    with _gzip_module().GzipFile("", "wb", 1, raw, 0) as stream:
        yield stream


def _gzip_module() -> Any:
    """Intel's isal reads and writes gzip about twice as fast as zlib, where it is installed."""
    try:
        from isal import igzip
    except ImportError:
        import gzip

        return gzip
    return igzip
