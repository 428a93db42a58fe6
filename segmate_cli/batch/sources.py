"""What a scan is made of: hashes that do not change when it is moved, renamed or zipped."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from segmate_cli import files
from segmate_cli.batch.records import Content
from segmate_cli.batch.settings import digest_of
from segmate_cli.errors import UnreadableError
from segmate_cli.geometry import Geometry
from segmate_cli.volume import DicomSource, Scan

_CHUNK = 1 << 20


def content_of(scan: Scan, path: Path) -> Content:
    """Hash the files of a scan, which are read for that.

    Raises:
        UnreadableError: One cannot be read.
    """
    try:
        if isinstance(scan.source, DicomSource):
            digests = _digests(scan.source)
            sha256 = digest_of(sorted(digests))
        else:
            digests = [files.sha256_of_file(path)]
            sha256 = digests[0]
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return Content(
        sha256=sha256, files=len(digests), geometry_sha256=geometry_sha256(scan.geometry)
    )


def geometry_sha256(geometry: Geometry) -> str:
    """Of shape and affine."""
    affine = np.ascontiguousarray(geometry.affine, dtype="<f8")
    facts = [list(geometry.shape), affine.tobytes().hex()]
    if geometry.places_mm is not None:
        facts.append(np.ascontiguousarray(geometry.places_mm, dtype="<f8").tobytes().hex())
    return digest_of(facts)


def pixels_sha256(scan: Scan) -> str:
    """Of the voxels, as the pipeline hashes them in passing."""
    digest = hashlib.sha256()
    for plane in scan.planes():
        digest.update(np.ascontiguousarray(plane, dtype="<i2").data)
    return digest.hexdigest()


def _digests(source: DicomSource) -> list[str]:
    from segmate_cli.dicom.files import open_store

    with open_store(source.path) as store:
        return [_digest(store.open(name)) for name in dict.fromkeys(source.files)]


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    with stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
