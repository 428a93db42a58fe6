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
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu_meter import driver
from benchmarks.processes import run as run_measured
from segmate_cli.bundle import Bundle, open_bundle
from segmate_cli.files import sha256_of_file

ROOT = Path(__file__).parent.parent
PAPER_SIDE = 512
PAPER_MB = 295
_ENGINES = ("torchscript", "pt2", "onnx")
# Voxels and millimetres of the phantom before each voxel is repeated four times along each axis:
# one whose slices the network sees as 512 x 512, and one of the size of README's table.
_REPEATS = 4
_PAPER_SCAN = ((128, 128, 24), (6.0, 6.0, 12.0))
_LONG_SCAN = ((128, 128, 100), (3.2, 3.2, 5.0))


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
    parser.add_argument("-o", "--out", type=Path, help="write the figures here, as JSON")
    args = parser.parse_args()
    if args.device == "cuda" and driver() is None:
        sys.exit("No GPU: NVIDIA's driver finds none here, so nothing was measured.")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(args, Path(temporary))
    found["all_s"] = time.perf_counter() - start
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))
    print(text(found))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, in the order in which they are wanted most; a step that fails says so."""
    with ThreadPoolExecutor(2) as pool:
        scans = [
            pool.submit(make_scan, folder / f"{name}.nii.gz", *scan, args.slices)
            for name, scan in (("paper", _PAPER_SCAN), ("long", _LONG_SCAN))
        ]
        engines = tuple(args.engines.split(","))
        bundle = make_bundle(folder / "bundle", engines)
        paper, long = (each.result() for each in scans)
    said("bundle and scans are made")
    found: dict[str, Any] = {"device": args.device, "sweeps": {}, "predict": {}, "parity": {}}
    labels = {}
    found["predict"]["cpu"], labels["cpu"] = predict(bundle, "onnx", "cpu", paper)
    for engine in engines:
        # Fewest bytes first: what is asked for most is measured even if time then runs out.
        capped, _ = predict(bundle, engine, args.device, paper, "--gpu-memory-cap", args.cap)
        one, labels[engine] = predict(bundle, engine, args.device, paper, "--batch-size", "1")
        found["predict"] |= {f"{engine} under {args.cap}": capped, f"{engine} batch 1": one}
        command = ["sweep", str(bundle), engine, args.device, str(args.side)]
        found["sweeps"][engine] = probe([*command, args.batches])
        few = args.batches.split(",")[:: max(1, args.batches.count(","))]
        found["sweeps"][f"{engine} tf32"] = probe([*command, ",".join(few), "tf32"])
        said(f"{engine} is measured")
    for engine in engines:
        found["parity"][engine] = difference(labels["cpu"], labels[engine])
    for device in dict.fromkeys((args.device, "cpu")):
        for engine in engines if device != "cpu" else ("onnx",):
            name = f"{engine} on {device}, the long scan"
            found["predict"][name] = whole(bundle, engine, device, long)
    two, _ = predict(bundle, engines[0], args.device, long, calls=2)
    found["predict"][f"{engines[0]}, the long scan, two calls at once"] = two
    return found


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


def make_bundle(folder: Path, engines: tuple[str, ...]) -> Path:
    """The default bundle with its network in the torch forms, too."""
    source = open_bundle()
    folder.mkdir()
    onnx = source.network_file("onnx")
    if onnx is None:
        sys.exit("the default bundle has no ONNX network.")
    (folder / onnx.file).write_bytes(source.read_network(onnx))
    files = [onnx.model_dump(mode="json")]
    if set(engines) - {"onnx"}:
        files += torch_files(source, folder / onnx.file, engines)
    manifest = source.manifest.model_dump(mode="json")
    manifest["network"]["files"] = files
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def torch_files(source: Bundle, onnx: Path, engines: tuple[str, ...]) -> list[dict[str, Any]]:
    """The network of a bundle's ONNX file, written for PyTorch and proved."""
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
    files = []
    for engine in ("torchscript", "pt2"):
        if engine in engines:
            path = onnx.with_name(FILE_NAMES[engine])
            parity = export_and_prove(exported, engine, path, "fp32")
            record = {"engine": engine, "file": path.name, "sha256": sha256_of_file(path)}
            files.append({**record, "precision": "fp32", "parity": float(f"{parity:.3g}")})
    return files


def probe(arguments: list[str]) -> dict[str, Any]:
    """Figures of ``benchmarks.gpu_probe``, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.gpu_probe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        return {"failed": (done.stderr.strip() or done.stdout.strip())[-600:]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found if found.get("code", 0) == 0 else {"failed": done.stderr.strip()[-600:], **found}


def predict(
    bundle: Path, engine: str, device: str, scan: Path, *options: str, calls: int = 1
) -> tuple[dict[str, Any], npt.NDArray[np.uint8] | None]:
    """``segmate predict`` with the GPU's memory measured; its figures and its labels."""
    import nibabel

    out = bundle.with_name(f"{engine}_{device}_{len(options)}_{scan.name}")
    command = ["predict", str(calls), str(scan), "-o", str(out), "--model", str(bundle)]
    found = probe([*command, "--engine", engine, "--device", device, "--overwrite", *options])
    if "failed" in found:
        return found, None
    sidecar = json.loads(Path(str(out).replace(".nii.gz", ".json")).read_text())
    found |= {"engine": sidecar["engine_description"], "seconds": sidecar["seconds"]}
    found |= {"batch": sidecar["options"]["batch_size"], "grid": sidecar["model_grid"]["shape"]}
    return found, np.asarray(nibabel.load(out).dataobj).astype(np.uint8)


def whole(bundle: Path, engine: str, device: str, scan: Path) -> dict[str, Any]:
    """The command as users give it, timed from outside."""
    out = bundle.with_name(f"whole_{engine}_{device}.nii.gz")
    command = [sys.executable, "-m", "segmate_cli", "predict", str(scan), "-o", str(out)]
    command += ["--model", str(bundle), "--engine", engine, "--device", device, "--overwrite"]
    try:
        cost = run_measured([*command, "--no-gate-exit", "--progress", "json"])
    except subprocess.CalledProcessError as error:
        return {"failed": str(error.stderr)[-600:]}
    sidecar = json.loads(Path(str(out).replace(".nii.gz", ".json")).read_text())
    found = {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "first_slice_s": cost.first_s}
    return {**found, "peak_rss_mb": cost.peak_mb, "seconds": sidecar["seconds"]}


def difference(
    ours: npt.NDArray[np.uint8] | None, theirs: npt.NDArray[np.uint8] | None
) -> dict[str, float] | None:
    """Voxels with another label, as a share of all and of those that either labels."""
    if ours is None or theirs is None:
        return None
    differ = int(np.count_nonzero(ours != theirs))
    labelled = int(np.count_nonzero((ours > 0) | (theirs > 0)))
    shares = {"of_all": differ / ours.size, "of_labelled": differ / max(labelled, 1)}
    return {"voxels": differ, "labelled": labelled, **shares}


def said(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def text(found: dict[str, Any]) -> str:
    """The figures as tables."""
    lines = [
        "| engine | batch | slices/s | left on the GPU | GPU MB | torch reserved, allocated MB |"
    ]
    lines.append("| --- " * 6 + "|")
    for name, sweep in found["sweeps"].items():
        for batch, row in sweep.get("batches", {}).items():
            torch = [row.get(f"torch_{each}_mb") for each in ("reserved", "allocated")]
            cells = [row["slices_per_s"], row["on_device_slices_per_s"], row["peak_gpu_mb"], *torch]
            shown = ["-" if cell is None else f"{cell:.0f}" for cell in cells]
            shown[-2:] = [", ".join(shown[-2:])]
            lines.append(f"| {name} | {batch} | {' | '.join(shown)} |")
        if "failed" in sweep:
            lines.append(f"{name}: {sweep['failed']}")
    lines += ["", "predict:"]
    lines += [f"  {name}: {_short(row)}" for name, row in found["predict"].items()]
    lines += ["", "voxels with another label than on the CPU:"]
    lines += [f"  {name}: {row}" for name, row in found["parity"].items()]
    return "\n".join([*lines, "", f"{found['all_s']:.0f} s in all."])


def _short(row: dict[str, Any]) -> str:
    """One line of figures; stages under a hundredth of a second are left out."""
    kept = {name: value for name, value in row.items() if name != "seconds"}
    rounded = {
        name: round(value, 2) if isinstance(value, float) else value for name, value in kept.items()
    }
    stages = {name: s for name, s in row.get("seconds", {}).items() if s >= 0.01}
    return f"{rounded} {stages}"


if __name__ == "__main__":
    main()
