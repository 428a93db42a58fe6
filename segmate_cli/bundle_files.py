"""Where a bundle's files lie and how they are read: a folder, or one ``.segmate`` zip of it.

Knows nothing of what a manifest means but the sha256 of a network, which is checked at every load;
``bundle`` does. So a network can be read before that is imported, which takes a tenth of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmate_cli.errors import HashMismatchError, ManifestError, ModelError

MANIFEST_NAME = "manifest.json"
DEFAULT_MODEL = "default"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

# A manifest is a page; networks of this design have tens of megabytes.
MANIFEST_BYTES = 1 << 20
_NETWORK_BYTES = 4 << 30
# What zipfile raises beside OSError: no such member, encrypted, another method, damaged.
_DAMAGED = (KeyError, RuntimeError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class OnnxNetwork:
    """A bundle's network for ONNX Runtime, as its manifest names it.

    Attributes:
        name: Of its file.
        sha256: Of that.
        parameters: How many it has; 0 where that is not said.
        alone: Whether the bundle has it for no other engine.
    """

    name: str
    sha256: str
    parameters: int
    alone: bool


def bundled_folders() -> Iterator[Path]:
    """Folders of the models that came with segmate."""
    package = Path(__file__).parent
    # A wheel carries weights/ inside the package; an editable install finds it beside the package.
    for root in (package / "weights", package.parent / "weights"):
        if root.is_dir():
            yield from sorted(path.parent for path in root.glob(f"*/{MANIFEST_NAME}"))
            return


def locate(name_or_path: str | Path, folders: Iterable[Path]) -> Path:
    """Where a bundle lies: one of the installed ones by name, or at a path.

    Raises:
        ModelError: There is no such model; the message lists those installed.
    """
    installed = {folder.name: folder for folder in folders}
    if isinstance(name_or_path, str) and name_or_path in installed:
        return installed[name_or_path]
    if not name_or_path or not os.path.exists(name_or_path):  # pathlib's raises for a name too long
        raise ModelError(
            f"there is no model '{name_or_path}': neither a bundle's folder or .segmate file "
            f"nor installed ({', '.join(sorted(installed)) or 'none is'})."
        )
    return Path(name_or_path)


def manifest_json(data: bytes, where: str) -> Any:
    """What a manifest says, whatever that is.

    Raises:
        ManifestError: It is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: {MANIFEST_NAME} is not JSON ({error}).") from error


def onnx_network(location: Path) -> OnnxNetwork | None:
    """The bundle's network for ONNX Runtime; None where its manifest does not plainly name one.

    Raises:
        ManifestError: There is no manifest, or it is not JSON.
    """
    raw = manifest_json(read_member(location, MANIFEST_NAME), str(location))
    try:
        files = list(raw["network"]["files"])
        entry = next(each for each in files if each["engine"] == "onnx")
        name, sha256 = entry["file"], entry["sha256"]
        parameters = raw["network"].get("parameters") or 0
    except (KeyError, TypeError, AttributeError, StopIteration):
        return None
    if not all(isinstance(each, str) for each in (name, sha256)) or type(parameters) is not int:
        return None
    if not re.fullmatch(FILE_NAME, name):  # it might lead out of the bundle
        return None
    return OnnxNetwork(name, sha256, parameters, len(files) == 1)


def read_network(location: Path, name: str, sha256: str) -> bytes:
    """The bytes of a network file, hash checked.

    Raises:
        HashMismatchError: It is not the file that the manifest names.
        ManifestError: It is missing or cannot be read.
    """
    data = read_member(location, name, _NETWORK_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise HashMismatchError(
            f"{location}: {name} has sha256 {found[:16]}..., its manifest says {sha256[:16]}...; "
            "the bundle was changed or cut, install it again."
        )
    return data


def read_member(location: Path, name: str, most_bytes: int = MANIFEST_BYTES) -> bytes:
    """A file of a bundle.

    Raises:
        ManifestError: It is missing, larger than it may be, or cannot be read.
    """
    what = f"{location}: {name}"
    try:
        if location.is_dir():
            _check_size((location / name).stat().st_size, most_bytes, what)
            return (location / name).read_bytes()
        if not zipfile.is_zipfile(location):
            raise ManifestError(f"{location} is neither a bundle's folder nor a .segmate file.")
        with zipfile.ZipFile(location) as archive:
            _check_size(archive.getinfo(name).file_size, most_bytes, what)
            return archive.read(name)  # never more than the size it states
    except (OSError, *_DAMAGED) as error:
        raise ManifestError(
            f"{what} is missing or unreadable, so this is not a whole segmate bundle."
        ) from error


def _check_size(size: int, most_bytes: int, what: str) -> None:
    if size > most_bytes:
        raise ManifestError(f"{what} has {size} bytes, more than the {most_bytes} it may have.")
