"""segmate on an NVIDIA GPU: memory against the paper's 295 MB, batch sizes, parity with the CPU.

    python -m benchmarks.gpu                            # needs a GPU, and torch and timm
    python -m benchmarks.gpu --device cpu --slices 8    # the same steps without one, to try them

Every figure comes from a process of its own. The network is that of the default bundle, written as
TorchScript and .pt2 by the torch at hand; ONNX Runtime takes part where its CUDA provider starts.
GPU memory is the driver's count beyond a bare CUDA context.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu_meter import driver
from benchmarks.processes import run as run_measured
from segmate_cli.bundle import Bundle, open_bundle
from segmate_cli.files import sha256_of_file

Labels = npt.NDArray[np.uint8]

ROOT = Path(__file__).parent.parent
PAPER_SIDE = 512
PAPER_MB = 295
_ENGINES = ("torchscript", "pt2", "onnx")
# Voxels and millimetres of the phantom before each voxel is repeated four times along each axis:
# one whose slices the network sees as 512 x 512, and one of the size of README's table.
_REPEATS = 4
_PAPER_SCAN = ((128, 128, 24), (6.0, 6.0, 12.0))
_LONG_SCAN = ((128, 128, 100), (3.2, 3.2, 5.0))


Row = dict[str, Any]


@dataclass
class Report:
    """Rows, printed and saved as they come: a machine may be lent for less than all of them."""

    out: Path | None
    rows: dict[str, Row] = field(default_factory=dict)
    start_s: float = field(default_factory=time.perf_counter)

    def add(self, name: str, row: Row) -> Row:
        """Take down a row."""
        self.rows[name] = row
        if self.out:
            self.out.write_text(json.dumps(self.rows, indent=1))
        print(f"{time.perf_counter() - self.start_s:5.0f} s  {name}: {_short(row)}", flush=True)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--engines", default=",".join(_ENGINES))
    parser.add_argument("--slices", type=int, help="of each scan alone, for a quick try")
    parser.add_argument("--side", type=int, default=PAPER_SIDE, help="pixels of the sweep's slices")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--cap", default=f"{PAPER_MB}MB", help="for --gpu-memory-cap")
    parser.add_argument(
        "--step-s", type=float, default=60.0, help="the most that one step may take"
    )
    parser.add_argument("-o", "--out", type=Path, help="write the rows here, as JSON")
    args = parser.parse_args()
    if args.device == "cuda" and driver() is None:
        sys.exit("No GPU: NVIDIA's driver finds none here, so nothing was measured.")
    with tempfile.TemporaryDirectory() as temporary:
        measure(args, Path(temporary), Report(args.out))


def measure(args: argparse.Namespace, folder: Path, report: Report) -> None:
    """All rows, those first that are wanted most; a step that fails, or takes long, says so."""
    with ThreadPoolExecutor(2) as pool:
        paper, long = (
            pool.submit(make_scan, folder / f"{name}.nii.gz", *scan, args.slices)
            for name, scan in (("paper", _PAPER_SCAN), ("long", _LONG_SCAN))
        )
        engines = tuple(args.engines.split(","))
        bundles = {}
        for engine in engines:
            bundles[engine] = make_bundle(folder / f"bundle_{engine}", engine)
            report.add(f"{engine}, written", {})
            command = ["sweep", str(bundles[engine]), engine, args.device, str(args.side)]
            few = args.batches.split(",")[:: max(1, args.batches.count(","))]
            for batches, *how in ((args.batches,), (",".join(few), "tf32")):
                name = " ".join([engine, *how])
                for row in probe([*command, batches, *how], args.step_s):
                    report.add(f"{name}, {row.pop('row', 'sweep')}", row)
        _parity(args, bundles, paper.result(), report)
        _long(args, bundles, long.result(), report)


def _parity(args: argparse.Namespace, bundles: dict[str, Path], scan: Path, report: Report) -> None:
    """``segmate predict`` of slices that the network sees as 512 x 512, and its labels."""
    first = next(iter(bundles.values()))
    row, wanted = predict(args, first, "onnx", "cpu", scan)
    report.add("predict on the CPU", row)
    for engine, bundle in bundles.items():
        for options in (("--gpu-memory-cap", args.cap), ("--batch-size", "1")):
            row, labels = predict(args, bundle, engine, args.device, scan, *options)
            report.add(f"predict, {engine} {' '.join(options)}", row)
        report.add(f"labels, {engine} and CPU", difference(wanted, labels))


def _long(args: argparse.Namespace, bundles: dict[str, Path], scan: Path, report: Report) -> None:
    """The scan of README's table: the command as it is, and with two calls at once."""
    first, bundle = next(iter(bundles.items()))
    for engine in bundles:
        report.add(f"long scan, {engine}", whole(args, bundles[engine], engine, args.device, scan))
    report.add("long scan, CPU", whole(args, bundle, "onnx", "cpu", scan))
    row, _ = predict(args, bundle, first, args.device, scan, calls=2)
    report.add(f"long scan, {first}, two calls at once", row)


def make_scan(
    path: Path,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    slices: int | None,
) -> Path:
    """A phantom enlarged, with noise of its own for every voxel: whole phantoms take a minute."""
    import nibabel

    small = path.with_name(f"small_{path.name}")
    columns, rows, count = shape
    count = count if slices is None else -(-slices // _REPEATS)
    command = [sys.executable, str(ROOT / "examples" / "phantom.py"), "-o", str(small)]
    command += ["--size", *map(str, (columns, rows, count)), "--spacing", *map(str, spacing_mm)]
    subprocess.run([*command, "--no-table"], check=True, stdout=subprocess.DEVNULL)
    image = nibabel.load(small)
    hu = np.asarray(image.dataobj).astype(np.int16)
    for axis in range(3):
        hu = hu.repeat(_REPEATS, axis)
    hu += np.random.default_rng(0).integers(-15, 16, hu.shape, dtype=np.int16)
    affine = image.affine @ np.diag([*[1 / _REPEATS] * 3, 1.0])
    data = nibabel.Nifti1Image(hu, affine).to_bytes()
    path.write_bytes(gzip.compress(data, 1))
    return path


def make_bundle(folder: Path, engine: str) -> Path:
    """The default bundle, with its network in a torch form, too."""
    source = open_bundle()
    folder.mkdir()
    onnx = source.network_file("onnx")
    if onnx is None:
        sys.exit("the default bundle has no ONNX network.")
    (folder / onnx.file).write_bytes(source.read_network(onnx))
    files = [onnx.model_dump(mode="json")]
    if engine != "onnx":
        files.append(torch_file(source, folder / onnx.file, engine))
    manifest = source.manifest.model_dump(mode="json")
    manifest["network"]["files"] = files
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def torch_file(source: Bundle, onnx: Path, engine: Any) -> Row:
    """The network of a bundle's ONNX file, written for PyTorch and proved; its manifest entry."""
    from segmate_cli.export import FILE_NAMES, Source, export_and_prove
    from segmate_cli.network import NetworkConfig, build_network, fill_network
    from training.from_bundle import exported_tensors

    network_part, preprocessing = source.manifest.network, source.manifest.preprocessing
    config = NetworkConfig(
        network_part.encoder or "",
        network_part.channels,
        slices=len(preprocessing.neighbours_mm),
        film=network_part.takes_slice_position,
        boundary=False,
        presence=False,
    )
    network = build_network(config)
    fill_network(network, dict(exported_tensors(onnx)), str(onnx))
    exported = Source(network.eval(), preprocessing.window, multiple=preprocessing.padding.multiple)
    path = onnx.with_name(FILE_NAMES[engine])
    parity = export_and_prove(exported, engine, path, "fp32")
    record = {"engine": engine, "file": path.name, "sha256": sha256_of_file(path)}
    return {**record, "precision": "fp32", "parity": float(f"{parity:.3g}")}


def probe(arguments: list[str], limit_s: float) -> Iterator[Row]:
    """Rows of ``benchmarks.gpu_probe`` as they come, and at the end why no more did."""
    command = [sys.executable, "-m", "benchmarks.gpu_probe", *arguments]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT
        )
        clock = threading.Timer(limit_s, process.kill)
        clock.start()
        for line in process.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
        code = process.wait()
        clock.cancel()
        if code:
            said.seek(0)
            yield {"failed": f"code {code}: {said.read().strip()[-600:]}"}


def predict(
    args: argparse.Namespace,
    bundle: Path,
    engine: str,
    device: str,
    scan: Path,
    *options: str,
    calls: int = 1,
) -> tuple[Row, Labels | None]:
    """``segmate predict`` with the GPU's memory measured; its figures and its labels."""
    import nibabel

    out = bundle / f"{device}_{len(options)}_{scan.name}"
    command = ["predict", str(calls), str(scan), "-o", str(out), "--model", str(bundle)]
    command += ["--engine", engine, "--device", device, "--overwrite", *options]
    found = list(probe(command, args.step_s))[-1]
    if "failed" in found or found["code"]:
        return found, None
    sidecar = json.loads(Path(str(out).replace(".nii.gz", ".json")).read_text())
    found |= {"engine": sidecar["engine_description"], "seconds": sidecar["seconds"]}
    found |= {"batch": sidecar["options"]["batch_size"], "grid": sidecar["model_grid"]["shape"]}
    return found, np.asarray(nibabel.load(out).dataobj).astype(np.uint8)


def whole(args: argparse.Namespace, bundle: Path, engine: str, device: str, scan: Path) -> Row:
    """The command as users give it, timed from outside."""
    out = bundle / f"whole_{device}.nii.gz"
    command = [
        "timeout",
        str(args.step_s),
        sys.executable,
        "-m",
        "segmate_cli",
        "predict",
        str(scan),
        "-o",
        str(out),
    ]
    command += ["--model", str(bundle), "--engine", engine, "--device", device, "--overwrite"]
    try:
        cost = run_measured([*command, "--no-gate-exit", "--progress", "json"])
    except subprocess.CalledProcessError as error:
        return {"failed": str(error.stderr)[-600:]}
    sidecar = json.loads(Path(str(out).replace(".nii.gz", ".json")).read_text())
    found = {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "first_slice_s": cost.first_s}
    return {**found, "peak_rss_mb": cost.peak_mb, "seconds": sidecar["seconds"]}


def difference(ours: Labels | None, theirs: Labels | None) -> Row:
    """Voxels with another label, as a share of all and of those that either labels."""
    if ours is None or theirs is None:
        return {"failed": "one of them is missing"}
    differ = int(np.count_nonzero(ours != theirs))
    labelled = int(np.count_nonzero((ours > 0) | (theirs > 0)))
    shares = {"of_all": differ / ours.size, "of_labelled": differ / max(labelled, 1)}
    return {"voxels": differ, "labelled": labelled, **shares}


def _short(row: Row) -> str:
    """One line of figures; stages under a hundredth of a second are left out."""
    kept = {name: value for name, value in row.items() if name != "seconds" and value is not None}
    rounded = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in kept.items()
    }
    stages = {name: s for name, s in row.get("seconds", {}).items() if s >= 0.01}
    return " ".join(f"{name}={value}" for name, value in {**rounded, **stages}.items())


if __name__ == "__main__":
    main()
