"""Give DICOM files to the Orthanc on this machine and take them back, each way that README shows.

    python give_and_take.py FILE...

prints {"<file>": {"<way>": "same bytes" | "same values" | "what differs or failed"}} as JSON. Bytes
are those of the data set: what stands before it in the file, each archive writes for itself.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pydicom
import pynetdicom

_URL = "http://localhost:8042"
_STOW = ("-H", 'Content-Type: multipart/related; type="application/dicom"')
_META_AT = 128 + 4 + 12


def fetch(path: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(_URL + path, method=method)
    # Without the last part, WADO-RS turns all into explicit little endian.
    request.add_header("Accept", 'multipart/related; type="application/dicom"; transfer-syntax=*')
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


def c_store(path: Path) -> str:
    """As a modality or a router sends it."""
    meta = pydicom.filereader.read_file_meta_info(path)
    pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True  # as it is in the file
    entity = pynetdicom.AE()
    entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    link = entity.associate("127.0.0.1", 4242)
    if not link.accepted_contexts:
        return "the class or the transfer syntax was not accepted"
    status = link.send_c_store(path).get("Status")
    link.release()
    return "" if status == 0 else f"status {status}"


def storescu(path: Path) -> str:
    """README's command for C-STORE, by DCMTK."""
    # Not what pynetdicom installs by that name.
    return _run("/usr/bin/storescu", "-R", "localhost", "4242", path)


def stow(path: Path) -> str:
    """README's command for STOW-RS, by curl."""
    return _run(
        "curl",
        "-sSf",
        f"{_URL}/dicom-web/studies",
        *_STOW,
        "-F",
        f"file=@{path};type=application/dicom",
    )


def _run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def taken_back(path: Path) -> str:
    """What became of a file, fetched by REST and by WADO-RS; the archive is empty afterwards."""
    ids = json.loads(fetch("/instances"))
    if len(ids) != 1:
        return f"{len(ids)} instances were stored"
    original = pydicom.dcmread(path)
    study, series, instance = (
        original[f"{name}InstanceUID"].value for name in ("Study", "Series", "SOP")
    )
    rest = fetch(f"/instances/{ids[0]}/file")
    wado = fetch(f"/dicom-web/studies/{study}/series/{series}/instances/{instance}")
    fetch(f"/instances/{ids[0]}", "DELETE")
    if rest not in wado:
        return "WADO-RS gives another file than REST"
    if data_set(rest) == data_set(path.read_bytes()):
        return "same bytes"
    found = pydicom.dcmread(io.BytesIO(rest))
    return "same values" if found == original else "other values"


def data_set(content: bytes) -> bytes:
    (length,) = struct.unpack("<L", content[_META_AT - 4 : _META_AT])
    return content[_META_AT + length :]


WAYS: dict[str, Callable[[Path], str]] = {"C-STORE": c_store, "storescu": storescu, "STOW": stow}


def main() -> None:
    found: dict[str, dict[str, str]] = {}
    for path in map(Path, sys.argv[1:]):
        found[path.name] = {way: give(path) or taken_back(path) for way, give in WAYS.items()}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
