"""Published SegMate checkpoints to segmate bundles, each export proved against PyTorch.

Importing this module is cheap; `convert_checkpoint` needs the packages of the ``torch`` extra.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from segmate_cli.bundle import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    Engine,
    Manifest,
    Recipe,
    validate,
)
from segmate_cli.errors import (
    EngineMissingError,
    ManifestError,
    ModelError,
    OutputError,
    OutputExistsError,
    UsageError,
)
from segmate_cli.files import sha256_of_file

if TYPE_CHECKING:
    from segmate_cli.export import Source
    from segmate_cli.network import NetworkConfig

Precision = Literal["fp32", "fp16"]

#: The nine structures of published networks, in channel order.
PUBLISHED_ORGANS = (
    *("lung_left", "lung_right", "spinal_cord", "esophagus", "liver"),
    *("kidney_left", "kidney_right", "aorta", "trachea"),
)
PUBLISHED_SPACING_MM = 1.5
PUBLISHED_WINDOW = {"low_hu": -1000.0, "high_hu": 400.0, "scale": 1 / 1400, "offset": 1000 / 1400}
#: Published training normalises values of 0 to 1 with a mean and deviation meant for 0 to 255.
#: That step goes into the exported graph: in a manifest's scale and offset, float32 would round
#: the inputs, within [-1, -0.992], to other values than training saw.
PUBLISHED_MEAN = PUBLISHED_DEVIATION = 127.5

_UNMEASURED_BYTES_PER_PIXEL = 2500
_NEEDED = {"onnx": ("torch", "timm", "onnx", "onnxruntime")}


def convert_checkpoint(
    path: Path | str,
    out_dir: Path | str,
    *,
    to: Sequence[Engine] = ("onnx",),
    recipe: Path | str | None = None,
    encoder: str | None = None,
    precision: Precision = "fp32",
    name: str | None = None,
    version: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn a published-layout checkpoint into a bundle folder.

    Args:
        path: Checkpoint; nothing in it is executed.
        out_dir: Folder to make; it appears only when every file in it is proved.
        to: Formats to export.
        recipe: JSON with everything of the manifest that tensors do not tell (`bundle.Recipe`);
            without it, the published preprocessing of nine organs.
        encoder: timm name, where it is not recognised.
        precision: How large weights are stored; arithmetic is float32 in either case.
        name: Name of the model, instead of the recipe's or the file's.
        version: Version of the model, instead of the recipe's.
        overwrite: Replace an existing bundle.

    Returns:
        The bundle's folder.

    Raises:
        ModelError: The checkpoint, the recipe or an exported file is wrong; nothing is written.
        EngineMissingError: Packages that conversion needs are not installed.
        OutputError: The folder cannot be made, or exists and may not be replaced.
        UsageError: An unknown format.
    """
    path, out_dir = Path(path), Path(out_dir)
    _check_formats(to)
    _check_output(out_dir, overwrite=overwrite)
    from segmate_cli.export import Source
    from segmate_cli.network import network_from_checkpoint

    network, config = network_from_checkpoint(path, encoder)
    own: dict[str, Any] = {}
    if recipe is None:
        plan = published_recipe(config, path)
        own = {"mean": PUBLISHED_MEAN, "deviation": PUBLISHED_DEVIATION}
    else:
        plan = read_recipe(Path(recipe))
    plan = _renamed(plan, path, name, version)
    check_fit(plan, config, str(recipe or path))
    preprocessing = plan.preprocessing
    source = Source(network, preprocessing.window, multiple=preprocessing.padding.multiple, **own)
    with _new_folder(out_dir) as folder:
        network_part = _export_all(source, tuple(dict.fromkeys(to)), folder, precision)
        _write_manifest(plan, network_part, folder, out_dir)
    return out_dir


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's JSON.

    Raises:
        ManifestError: It is missing, is no JSON, or says which field is wrong.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the recipe ({error.strerror}).") from error
    except ValueError as error:
        raise ManifestError(f"{path}: the recipe is not JSON ({error}).") from error
    return validate(Recipe, raw, str(path))


def published_recipe(config: NetworkConfig, path: Path) -> Recipe:
    """What the published training code did, for a checkpoint without a recipe.

    Raises:
        ModelError: The network has another number of organs than the nine published ones.
    """
    if config.organs != len(PUBLISHED_ORGANS):
        raise ModelError(
            f"{path} has {config.organs} organs, the published networks {len(PUBLISHED_ORGANS)}: "
            "say which they are, and how its input is prepared, in a recipe (--recipe)."
        )
    reach = config.slices // 2
    steps = [step * PUBLISHED_SPACING_MM for step in range(-reach, reach + 1)]
    raw = {
        "name": _name_from(path),
        "version": "0",
        "title": f"SegMate with {config.encoder}, published layout",
        "organs": [{"key": key, "channel": n} for n, key in enumerate(PUBLISHED_ORGANS)],
        "preprocessing": {
            # Closest canonical (RAS+) volumes, used as (slice, x, y).
            "grid": {"spacing_mm": [PUBLISHED_SPACING_MM] * 3, "directions": ["S", "R", "A"]},
            "window": PUBLISHED_WINDOW,
            "neighbours_mm": steps,
            "padding": {"value": 0.0, "multiple": 1},
            "slice_position": "estimate" if config.film else "none",
        },
        "provenance": {
            "licence": "not stated by the checkpoint; ask whoever trained it",
            "intended_use": "research only; not a medical device",
        },
    }
    return validate(Recipe, raw, str(path))


def check_fit(recipe: Recipe, config: NetworkConfig, where: str) -> None:
    """Compare a recipe with the network it is for.

    Raises:
        ModelError: Organs, neighbouring slices or slice position do not fit the tensors.
    """
    channels = [entry.channel for entry in recipe.organs]
    if len(channels) != config.organs or max(channels) >= config.organs:
        raise ModelError(
            f"{where}: {len(channels)} organs up to channel {max(channels)} do not fit a network "
            f"with {config.organs} channels; name one organ for each channel from 0."
        )
    neighbours = len(recipe.preprocessing.neighbours_mm)
    if neighbours != config.slices:
        raise ModelError(
            f"{where}: neighbours_mm names {neighbours} slices, but the network takes "
            f"{config.slices}."
        )
    if recipe.preprocessing.slice_position != "none" and not config.film:
        raise ModelError(
            f"{where}: slice_position is asked for, but the network has no FiLM layer; set 'none'."
        )


def _check_formats(to: Sequence[Engine]) -> None:
    known = get_args(Engine)
    unknown = [each for each in to if each not in known]
    if unknown or not to:
        wanted = ", ".join(unknown) or "none"
        raise UsageError(f"Cannot convert to {wanted}; choose from {', '.join(known)}.")
    needed = sorted({package for each in to for package in _NEEDED.get(each, ("torch", "timm"))})
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineMissingError(
            f"Conversion needs {', '.join(missing)}; install them by: "
            "pip install 'segmate-cli[torch]'."
        )


def _check_output(out_dir: Path, *, overwrite: bool) -> None:
    if not out_dir.parent.is_dir():
        raise OutputError(f"{out_dir.parent}: there is no such folder; make it first.")
    if not out_dir.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{out_dir} exists; give another name or --overwrite.")
    # Replacing removes what is there, so it must be a bundle and not somebody's folder.
    replaceable = out_dir.is_dir() and not out_dir.is_symlink()
    if not replaceable or (any(out_dir.iterdir()) and not (out_dir / MANIFEST_NAME).is_file()):
        raise OutputError(f"{out_dir} is no bundle, so it is not replaced; give another name.")


def _name_from(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:64]
    return name or "segmate-model"


def _renamed(recipe: Recipe, path: Path, name: str | None, version: str | None) -> Recipe:
    """The recipe under the name and version that were asked for, and with its source said."""
    raw = recipe.model_dump(mode="json")
    raw["name"] = name or raw["name"]
    raw["version"] = version or raw["version"]
    origin = f"{path.name}, sha256 {sha256_of_file(path)}"
    said = raw["provenance"]["source"]
    raw["provenance"]["source"] = f"{said} ({origin})" if said else origin
    return validate(Recipe, raw, "--name or --version")


def _export_all(
    source: Source, engines: Sequence[Engine], folder: Path, precision: Precision
) -> dict[str, Any]:
    """Write and prove each format; returns the manifest's ``network`` part."""
    from segmate_cli.export import FILE_NAMES, export_and_prove
    from segmate_cli.network import InferenceNetwork

    files = []
    for engine in engines:
        file = folder / FILE_NAMES[engine]
        parity = export_and_prove(source, engine, file, precision)
        record = {"engine": engine, "file": file.name, "sha256": sha256_of_file(file)}
        files.append({**record, "precision": precision, "parity": float(f"{parity:.3g}")})
    config = source.network.config
    parameters = InferenceNetwork(source.network).parameters()
    measured = {}
    if "onnx" in engines:
        measured["bytes_per_pixel"] = measure_footprint(folder / FILE_NAMES["onnx"], config.slices)
    return {
        "architecture": "segmate",
        "encoder": config.encoder,
        "channels": config.organs,
        "takes_slice_position": config.film,
        "parameters": sum(tensor.numel() for tensor in parameters),
        **measured,
        "files": files,
    }


# Memory that two slices in flight need beside the loaded network, each from a thread of its own as
# ``predict`` sends them, in a process that does nothing else.
_FOOTPRINT = """
import ctypes, os, sys
from concurrent.futures import ThreadPoolExecutor
import numpy, onnxruntime
def resident(which):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))
options = onnxruntime.SessionOptions()
options.enable_mem_pattern = False
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
side = int(sys.argv[3])
feed = {"slices": numpy.zeros((1, int(sys.argv[2]), side, side), numpy.float32)}
if len(session.get_inputs()) > 1:
    feed["slice_position"] = numpy.full(1, -1.0, numpy.float32)
try:
    ctypes.CDLL("libc.so.6").malloc_trim(0)
except (OSError, AttributeError):
    pass
open("/proc/self/clear_refs", "w").write("5")
loaded = resident("VmRSS")
with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda _: session.run(None, feed) and None, range(4)))
print((resident("VmHWM") - loaded) // (2 * side * side))
"""
# The engine's arena packs some sizes better than others.
_FOOTPRINT_SIDES = (288, 352, 416, 480, 576)


def measure_footprint(file: Path, slices: int) -> int:
    """Bytes a pixel that each slice in an ONNX network takes, the mean over some sizes.

    Args:
        file: The network.
        slices: How many it is shown for each.
    """
    found = []
    for side in _FOOTPRINT_SIDES:
        command = [sys.executable, "-c", _FOOTPRINT, str(file), str(slices), str(side)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:  # no /proc
            return _UNMEASURED_BYTES_PER_PIXEL
        found.append(int(done.stdout))
    return max(100, sum(found) // len(found))


def _write_manifest(recipe: Recipe, network: dict[str, Any], folder: Path, out_dir: Path) -> None:
    raw = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **recipe.model_dump(mode="json"),
        "network": network,
    }
    manifest = validate(Manifest, raw, str(out_dir))
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


@contextmanager
def _new_folder(out_dir: Path) -> Iterator[Path]:
    """A folder that takes the name `out_dir` when the block ends well, and else vanishes."""
    temporary = out_dir.with_name(f".{out_dir.name[:200]}.{os.getpid()}.part")
    replaced = out_dir.with_name(f".{out_dir.name[:200]}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        yield temporary
        if out_dir.exists():
            out_dir.rename(replaced)
        temporary.rename(out_dir)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{out_dir}: cannot be written ({reason}); choose another.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if out_dir.exists():
            shutil.rmtree(replaced, ignore_errors=True)
