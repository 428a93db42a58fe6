"""Plan against measured memory over many shapes: the table of docs/memory.md.

    python -m benchmarks.plan
    python -m benchmarks.plan --model BUNDLE --folder SCANS -o table.md

For each shape ``segmate plan`` says what ``segmate predict`` will take, and then that is run. The
scans are one phantom, its voxels repeated or left out: what a run takes hangs on the shape, not on
what is in it. Real DICOM series are measured as well where ``../shared/ct`` is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip

from benchmarks.__main__ import ROOT, machine, make_scan

DICOM = ROOT.parent / "shared" / "ct" / "scans"
BASE = "256x256x140"


@dataclass(frozen=True)
class Case:
    """One scan and how it is run.

    Attributes:
        size: Columns, rows and slices.
        spacing_mm: Along these.
        storage: Which axis of these is stored slowest: axial is 2.
        dtype: Of the voxels.
        suffix: Of the file.
        options: For predict and plan.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    storage: int = 2
    dtype: str = "int16"
    suffix: str = ".nii.gz"
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        storage = {0: "sagittal", 1: "coronal", 2: ""}[self.storage]
        kind = "" if self.dtype == "int16" else self.dtype
        bare = "" if self.suffix == ".nii.gz" else self.suffix
        return " ".join(filter(None, ["x".join(map(str, self.size)), storage, kind, bare]))


THIN = (0.8, 0.8, 1.25)
CASES = (
    Case((512, 512, 8), (0.8, 0.8, 5.0)),
    Case((512, 512, 100), (0.8, 0.8, 5.0)),
    Case((512, 512, 400), THIN),
    Case((512, 512, 531), (0.8, 0.8, 1.0)),
    Case((512, 512, 1600), (0.8, 0.8, 0.4)),
    Case((512, 512, 2000), (0.8, 0.8, 0.3)),
    Case((128, 128, 40), (3.0, 3.0, 5.0)),
    Case((256, 256, 140), (1.5, 1.5, 3.0)),
    Case((360, 360, 90), (1.3, 1.3, 4.0)),
    Case((768, 768, 200), (0.5, 0.5, 2.0)),
    Case((1024, 1024, 150), (0.4, 0.4, 3.0)),
    Case((1024, 1024, 60), (0.8, 0.8, 5.0)),
    Case((512, 512, 300), THIN, dtype="float32"),
    Case((512, 512, 300), THIN, suffix=".nii"),
    Case((512, 512, 200), (0.8, 0.8, 2.5), storage=1),
    Case((512, 512, 200), (0.8, 0.8, 2.5), storage=0),
    Case((512, 512, 400), THIN, options=("--batch-size", "1")),
    Case((512, 512, 400), THIN, options=("--threads", "1")),
    Case((512, 512, 400), THIN, options=("--threads", "4")),
    Case((512, 512, 400), THIN, options=("--batch-size", "6", "--threads", "6")),
)
REAL = (("abdomen20_dicom", ()), ("ircad01_dicom.zip", ()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="name or path of a bundle")
    parser.add_argument("--folder", type=Path, help="keep the phantom here for the next time")
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("-o", "--out", type=Path, help="write the table here, too")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        base = make_scan(BASE, args.folder or Path(temporary))
        for case in CASES[: args.cases]:
            scan = Path(temporary) / f"scan{case.suffix}"
            write_case(case, base, scan)
            options = (*case.options, "--model", args.model)
            rows.append((case.name, " ".join(case.options), *compare(scan, options)))
            scan.unlink()
            print(line(rows[-1]), file=sys.stderr, flush=True)
    for name, options in REAL if args.cases == len(CASES) and DICOM.is_dir() else ():
        rows.append(
            (f"real: {name}", "", *compare(DICOM / name, (*options, "--model", args.model)))
        )
    text = table(rows)
    print(text)
    if args.out:
        args.out.write_text(text)


def write_case(case: Case, base: Path, path: Path) -> None:
    """The phantom's voxels, nearest by nearest, on a grid of another shape and storage."""
    image = nibabel.load(base)
    voxels = np.ascontiguousarray(np.asanyarray(image.dataobj).T)  # slices first
    taken = [
        np.arange(n) * have // n for n, have in zip(case.size, voxels.shape[::-1], strict=True)
    ]
    axes = [axis for axis in (0, 1, 2) if axis != case.storage]
    axes.append(case.storage)
    affine = np.diag([*case.spacing_mm, 1.0])[:, [*axes, 3]]
    header = nibabel.Nifti1Header()
    header.set_data_shape([case.size[axis] for axis in axes])
    header.set_data_dtype(case.dtype)
    header.set_sform(affine, code=1)
    header["vox_offset"] = 352
    with igzip.open(path, "wb", 1) if case.suffix.endswith(".gz") else path.open("wb") as stream:
        header.write_to(stream)
        stream.write(bytes(352 - stream.tell()))
        for n in taken[case.storage]:
            plane = voxels.take(n, 2 - case.storage)  # the later of the other axes first
            plane = plane.take(taken[axes[1]], 0).take(taken[axes[0]], 1)
            stream.write(np.ascontiguousarray(plane, dtype=case.dtype).data)


def compare(scan: Path, options: tuple[str, ...]) -> tuple[float, float, float]:
    """MB that the plan expects, that were measured, and the smallest cap."""
    segmate = [sys.executable, "-m", "segmate_cli"]
    plan = [*segmate, "plan", str(scan), "--format", "json", *options]
    done = subprocess.run(plan, check=True, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        run = [
            *segmate,
            "predict",
            str(scan),
            "-o",
            str(out),
            "--quiet",
            "--no-gate-exit",
            *options,
        ]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        sidecar = json.loads((Path(folder) / "labels.json").read_text())
    planned = json.loads(done.stdout)
    sizes = (
        planned["expected_peak_bytes"],
        sidecar["peak_memory_bytes"],
        planned["least_cap_bytes"],
    )
    return sizes[0] / 1e6, sizes[1] / 1e6, sizes[2] / 1e6


def line(row: tuple[str, str, float, float, float]) -> str:
    name, options, planned, measured, least = row
    error = 100 * (planned / measured - 1)
    return f"| {name} | {options} | {planned:.0f} | {measured:.0f} | {error:+.1f} % | {least:.0f} |"


def table(rows: list[tuple[str, str, float, float, float]]) -> str:
    """Markdown."""
    head = "| scan | options | planned MB | measured MB | error | smallest cap MB |"
    worst = max(abs(planned / measured - 1) for _, _, planned, measured, _ in rows)
    lines = [head, "| --- | --- | --- | --- | --- | --- |", *map(line, rows)]
    return "\n".join([*lines, "", f"Largest error: {worst:.1%}. {machine()}"]) + "\n"


if __name__ == "__main__":
    main()
