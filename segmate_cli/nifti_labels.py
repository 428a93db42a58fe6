"""Label maps as NIfTI files: values slice by slice, names and colours in the header.

The names stand in an extension of the header, in the form that TotalSegmentator writes and reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from segmate_cli import files
from segmate_cli.errors import UnreadableError, one_line
from segmate_cli.flow import Ahead
from segmate_cli.geometry import Geometry, ras_affine
from segmate_cli.gzipped import is_gzip_name, zipping
from segmate_cli.nifti import NiftiFile, slices
from segmate_cli.organs import Organ, foreign_organ
from segmate_cli.volume import LabelMap, Labels, LabelValues, NiftiSource

# ecode 0 is what TotalSegmentator writes its label table under, 30 is Caret's own.
_LABEL_TABLE_CODES = (0, 30)
# Planes of labels that are made while others are deflated.
_PLANES_AHEAD = 4
_STEP = 1e-3


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A ``LabelMap`` in a file, read slice by slice, as often as it is asked for.

    Attributes:
        file: Its header.
        organs: What its values mean.
    """

    file: NiftiFile
    organs: dict[int, Organ]

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie."""
        return self.file.geometry

    @property
    def source(self) -> NiftiSource:
        """The file itself."""
        return self.file.source

    @property
    def run(self) -> None:
        """Unknown."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The widest that a slice may have."""
        small = self.file.dtype == np.uint8 and (self.file.slope, self.file.intercept) == (1.0, 0.0)
        return np.dtype(np.uint8 if small else np.uint16)

    def planes(self) -> Iterator[LabelValues]:
        """Yield the slices; errors as ``label_planes``."""
        return label_planes(self.file)


def read_labels(file: NiftiFile, names: dict[int, Organ] | None = None) -> Labels:
    """Read a label map: whole numbers from 0; names from the header where none are given.

    Raises:
        UnreadableError: The file is cut, or holds numbers that are no labels.
    """
    values: npt.NDArray[Any] = np.empty(file.geometry.shape, dtype=np.uint8)
    for k, plane in enumerate(label_planes(file)):
        if plane.dtype != np.uint8 and values.dtype == np.uint8:
            values = values.astype(np.uint16)
        values[k] = plane
    found = label_names(file) if names is None else names
    return Labels(values, file.geometry, found, file.source)


def label_planes(file: NiftiFile) -> Iterator[LabelValues]:
    """Yield a label map's slices k = 0, 1, ... as uint8, or uint16 where a slice needs it.

    Raises:
        UnreadableError: The file is cut, or holds numbers that are no labels.
    """
    for k, raw in enumerate(slices(file)):
        if (file.slope, file.intercept) != (1.0, 0.0):
            raw = _rounded(raw)
        if not np.isfinite(raw).all() or raw.min() < 0 or raw.max() > 65535 or (raw % 1).any():
            raise UnreadableError(
                f"{file.path}: slice {k} holds numbers that are no labels (whole, 0 to 65535); "
                "is it a scan? Give a label map."
            )
        yield raw.astype(np.uint8 if raw.max() <= 255 else np.uint16)


def _rounded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values as whole numbers where they miss these by no more than stored steps explain.

    nibabel stores an array of floats under a header of int16 in steps of a 65535th of its range.
    """
    whole = np.rint(values)
    near: npt.NDArray[Any] = np.where(np.abs(values - whole) < _STEP, whole, values)
    return near


def label_names(file: NiftiFile) -> dict[int, Organ]:
    """The label table in the header's extensions (segmate's or TotalSegmentator's), or {}."""
    for extension in file.header.extensions:
        if extension.get_code() not in _LABEL_TABLE_CODES:
            continue
        content = extension.get_content()
        text = content if isinstance(content, bytes) else str(content).encode()
        if b"<CaretExtension" in text:
            return _parse_label_table(file.path, text.rstrip(b"\x00"))
    return {}


def write_labels(labels: LabelMap, path: Path) -> str:
    """Write a label map on its scan's grid, with names and colours in the header.

    Returns:
        sha256 of the voxels, little-endian in (k, j, i) order.

    The header repeats the scan's shape, sform, qform, their codes and units; texts and extensions
    of the scan, which may name a patient, are left out.

    Raises:
        OutputError: The file cannot be written.
    """
    header = _label_header(labels)
    digest = hashlib.sha256()
    with (
        files.write_atomically(path) as raw,
        zipping(raw, is_gzip_name(path)) as stream,
        Ahead(_hashed(labels, digest), _PLANES_AHEAD) as planes,
    ):
        header.write_to(stream)  # writes the extension flag and the extensions, too
        stream.write(b"\x00" * (int(header["vox_offset"]) - stream.tell()))
        for plane in planes:
            stream.write(plane.data)
    return digest.hexdigest()


def _hashed(labels: LabelMap, digest: Any) -> Generator[npt.NDArray[Any], None, None]:
    """Planes as they are written; made, hashed and deflated by a thread each."""
    with Ahead(_as_written(labels), _PLANES_AHEAD) as planes:
        for plane in planes:
            digest.update(plane.data)
            yield plane


def _as_written(labels: LabelMap) -> Generator[npt.NDArray[Any], None, None]:
    for plane in labels.planes():
        yield np.ascontiguousarray(plane, dtype=labels.dtype.newbyteorder("<"))


def _label_header(labels: LabelMap) -> Any:
    import nibabel

    if isinstance(labels.source, NiftiSource):
        header = labels.source.header.copy()
        if header.endianness != "<":
            header = header.as_byteswapped("<")
        for text in ("descrip", "aux_file", "db_name", "intent_name"):
            if text in header:
                header[text] = b""
    else:
        header = nibabel.Nifti1Header()
        k, j, i = labels.geometry.shape
        header.set_data_shape((i, j, k))
        header.set_sform(ras_affine(labels.geometry), code=1)
        header.set_qform(ras_affine(labels.geometry), code=1, strip_shears=True)
        header.set_xyzt_units("mm")
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"] = header["cal_max"] = header["vox_offset"] = 0
    header.set_intent("label")
    header["descrip"] = b"segmate labels"
    table = nibabel.nifti1.Nifti1Extension(0, _label_table(labels.organs))
    header.extensions = type(header.extensions)([table])
    # write_to fills in the offset only when it is asked to write; the padding needs it before.
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    return header


def _label_table(names: dict[int, Organ]) -> bytes:
    """The label table in Caret's XML, as TotalSegmentator writes and reads it."""
    rows = []
    for value, organ in sorted(names.items()):
        red, green, blue = (round(part / 255, 4) for part in organ.rgb)
        colour = f'Red="{red}" Green="{green}" Blue="{blue}" Alpha="1"'
        rows.append(f'<Label Key="{value}" {colour}><![CDATA[{organ.key}]]></Label>')
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0">'
        f"<LabelTable>{''.join(rows)}</LabelTable><StudyMetaDataLinkSet></StudyMetaDataLinkSet>"
        "<VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"
    ).encode()


def _parse_label_table(path: Path, text: bytes) -> dict[int, Organ]:
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # no label table needs either; bombs do
        raise UnreadableError(f"{path}: its label table declares XML entities; give --labels.")
    try:
        rows = ElementTree.fromstring(text).iter("Label")
        pairs = [(int(row.attrib["Key"]), (row.text or "").strip()) for row in rows]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise UnreadableError(
            f"{path}: its label table cannot be read ({one_line(error)}); give --labels."
        ) from error
    return {value: foreign_organ(name, value) for value, name in pairs if value > 0 and name}
