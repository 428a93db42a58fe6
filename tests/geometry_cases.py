"""Made series of any orientation, tilt, gaps and steps, whose organ is known in millimetres.

A case goes from DICOM files through segmate and a network that only looks at HU; what comes back
is compared with the shape itself. `tests/test_dicom_uneven.py` runs some; for many:

    python tests/geometry_cases.py 2000
"""

from __future__ import annotations

import itertools
import random
import struct
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from conftest import write_bundle
from dicom_maker import CT_CLASS, EXPLICIT, UID_ROOT, Recipe, position_of

from segmate_cli.bundle import open_bundle
from segmate_cli.dicom import choose_series, find_series, read_series
from segmate_cli.engines import LoadedModel, load_model
from segmate_cli.measurement import measure
from segmate_cli.pipeline import PredictOptions, predict
from segmate_cli.upright import Upright, evened, on_slices
from segmate_cli.volume import Labels

MODEL_MM = 1.25
X, Y, Z = np.eye(3)
_SIGNED = [sign * axis for axis in (X, Y, Z) for sign in (1, -1)]
# The 24 pairs of row and column directions; with tilt to either side, 48.
PLANES = [(tuple(r), tuple(c)) for r, c in itertools.product(_SIGNED, _SIGNED) if not r @ c]
_CENTRES = np.array([[0.0, 0.0, 0.0], [46.0, 14.0, 10.0], [8.0, -38.0, 34.0]])
# Of 0.25 mm voxels whose centres lie inside.
TRUE_ML = 349.646
_AXES = np.array([[48.0, 34.0, 42.0], [22.0, 26.0, 20.0], [18.0, 16.0, 24.0]])


@dataclass(frozen=True)
class Case:
    """One series.

    Attributes:
        plane: Number in PLANES.
        tilt_deg: Of the slices against their stack, towards the columns or away from them.
        steps_mm: Between one slice and the next.
        left_out: Slices that are missing.
        pixel_mm: Between rows and between columns.
        slopes: Whether each slice has a rescale slope of its own.
        seed: Of the files' order.
    """

    plane: int
    tilt_deg: float
    steps_mm: tuple[float, ...]
    left_out: tuple[int, ...]
    pixel_mm: tuple[float, float]
    slopes: bool
    seed: int


@dataclass(frozen=True)
class Result:
    """How far a case is off.

    Attributes:
        worst: Farthest voxel that is wrong from the shape's surface, over what is allowed: half a
            voxel of the scan and half a voxel of the model along each axis.
        volume: Measured over true.
        by_slices: Measured over what true labels on the same slices give: what a shape does in a
            gap of a centimetre and more no slice tells.
        gaps: Whether slices are missing.
        axial: Whether slices are stored along the model's; else coronally or sagittally.
        moved_mm: Largest coordinate of the way from the true centre to the one found. The shape has
            no symmetry: a swapped side would move it by centimetres.
    """

    worst: float
    volume: float
    by_slices: float
    gaps: bool
    axial: bool
    moved_mm: float

    @property
    def right(self) -> bool:
        """Whether all is in its place, on its side, and of its size."""
        ratio = self.by_slices if self.gaps else self.volume
        return self.worst <= 1 and abs(ratio - 1) <= 0.01 and self.moved_mm < MODEL_MM


def make_case(number: int) -> Case:
    """The n-th case; 48 in a row are in all orientations."""
    random_ = random.Random(number)
    kind = random_.choice(("even", "gaps", "uneven", "jitter", "two steps"))
    step = random_.uniform(2.0, 4.0)
    steps = [step] * round(170 / step)
    left_out: set[int] = set()
    if kind == "uneven":
        steps = [random_.uniform(0.6, 1.4) * step for _ in steps]
    elif kind == "jitter":
        steps = [random_.uniform(0.85, 1.15) * step for _ in steps]
    elif kind == "two steps":
        steps[: len(steps) // 3] = [2 * step] * (len(steps) // 6)
    elif kind == "gaps":
        for _ in range(random_.randint(1, 3)):
            first = random_.randrange(2, len(steps) - 4)
            left_out |= set(range(first, first + random_.randint(1, 2)))
    tilt = random_.choice((0.0, random_.uniform(0.2, 25.0))) * (1 if number % 48 < 24 else -1)
    return Case(
        plane=number % 24,
        tilt_deg=tilt,
        steps_mm=tuple(round(each, 3) for each in steps),
        left_out=tuple(sorted(left_out)),
        pixel_mm=(random_.choice((2.0, 2.5)), random_.choice((2.0, 2.5))),
        slopes=random_.random() < 0.3,
        seed=number,
    )


def distance_mm(points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """About the signed distance from the shape's surface, negative inside, of (..., 3) LPS mm."""
    found = np.full(points_mm.shape[:-1], np.inf)
    for centre, axes in zip(_CENTRES, _AXES, strict=True):
        squares = np.square(points_mm - centre)
        scaled, slope = (np.sqrt(squares @ axes**power) for power in (-2.0, -4.0))
        found = np.minimum(found, scaled * (scaled - 1.0) / np.maximum(slope, 1e-3))
    return found


def recipe_of(case: Case) -> Recipe:
    """The series around the shape."""
    row, column = (np.array(each) for each in PLANES[case.plane])
    positions = np.concatenate([[0.0], np.cumsum(case.steps_mm)])
    lean = np.tan(np.radians(case.tilt_deg))
    shape = (len(positions), round(150 / case.pixel_mm[0]), round(150 / case.pixel_mm[1]))
    shape = (shape[0], shape[1] + round(abs(lean) * 170 / case.pixel_mm[0]), shape[2])
    middle = positions[-1] / 2
    origin = np.array([14.0, 0.0, 6.0]) - np.cross(row, column) * middle
    origin = origin - row * case.pixel_mm[1] * (shape[2] - 1) / 2
    origin = origin - column * (case.pixel_mm[0] * (shape[1] - 1) / 2 + lean * middle)
    slopes: Any = 1.0
    if case.slopes:
        slopes = [1.0 + 0.25 * (k % 3) for k in range(shape[0])]
    return Recipe(
        shape=shape,
        row=tuple(row),
        column=tuple(column),
        origin=tuple(origin),
        step_mm=float(np.median(case.steps_mm)),
        positions_mm=tuple(positions),
        tilt_deg=case.tilt_deg,
        leave_out=case.left_out,
        pixel_mm=case.pixel_mm,
        slope=slopes,
        series=case.seed + 1,
    )


def write_series(folder: Path, recipe: Recipe, hu: npt.NDArray[np.int16]) -> None:
    """Write the series as `make_series` does, with few attributes but ten times as fast."""
    order = [k for k in range(recipe.shape[0]) if k not in recipe.leave_out]
    random.Random(recipe.series).shuffle(order)
    folder.mkdir(parents=True, exist_ok=True)
    for n, k in enumerate(order):
        slope = recipe.slope[k] if isinstance(recipe.slope, list) else 1.0
        stored = np.rint((hu[k] + 1024.0) / slope).astype("<i2")
        (folder / f"file{n}").write_bytes(_file(recipe, k, slope, stored))


def _file(recipe: Recipe, k: int, slope: float, stored: npt.NDArray[np.int16]) -> bytes:
    uid = f"{UID_ROOT}{recipe.series}"
    numbers = (stored.shape[0], stored.shape[1], 16, 16, 15, 1)
    tags = (0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
    elements = {
        0x00080008: ("CS", r"ORIGINAL\PRIMARY\AXIAL"),
        0x00080016: ("UI", CT_CLASS),
        0x00080018: ("UI", f"{uid}.{k + 1}"),
        0x00080060: ("CS", "CT"),
        0x0020000D: ("UI", f"{UID_ROOT}9"),
        0x0020000E: ("UI", uid),
        0x00200032: ("DS", _decimals(position_of(recipe, k))),
        0x00200037: ("DS", _decimals((*recipe.row, *recipe.column))),
        0x00200052: ("UI", f"{UID_ROOT}8"),
        0x00280030: ("DS", _decimals(recipe.pixel_mm)),
        0x00281052: ("DS", "-1024"),
        0x00281053: ("DS", f"{slope:g}"),
        **{tag: ("US", struct.pack("<H", n)) for tag, n in zip(tags, numbers, strict=True)},
    }
    start = bytes(128) + b"DICM" + _element(0x00020010, "UI", EXPLICIT)
    body = b"".join(_element(tag, *elements[tag]) for tag in sorted(elements))
    return start + body + _element(0x7FE00010, "OW", stored.tobytes())


def _decimals(values: Iterable[float]) -> str:
    return "\\".join(f"{value:.8g}" for value in values)


def _element(tag: int, kind: str, value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    data += (b"\0" if kind == "UI" else b" ") * (len(data) % 2)
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    long = struct.pack("<HL", 0, len(data)) if kind == "OW" else struct.pack("<H", len(data))
    return start + long + data


def centres_mm(recipe: Recipe) -> npt.NDArray[np.float64]:
    """LPS millimetres of every voxel, (k, j, i, 3), by the recipe alone."""
    j = np.arange(recipe.shape[1])[:, None, None] * recipe.pixel_mm[0] * np.array(recipe.column)
    i = np.arange(recipe.shape[2])[:, None] * recipe.pixel_mm[1] * np.array(recipe.row)
    return np.stack([position_of(recipe, k) + j + i for k in range(recipe.shape[0])])


def run_case(case: Case, folder: Path, model: LoadedModel) -> Result:
    """Make a case's series, segment it, compare.

    Raises:
        ValueError: An even grid that does not give the labels back.
    """
    recipe = recipe_of(case)
    points = centres_mm(recipe)
    distance = distance_mm(points)
    # As partial volume blurs it over some millimetres: the surface lies at -300 HU.
    hu = np.rint(np.clip(-300 - 175 * distance, -1000, 400)).astype(np.int16)
    write_series(folder, recipe, hu)
    finding = find_series(folder)
    volume = read_series(finding, choose_series(finding))
    labels = predict(volume, model, PredictOptions(batch_size=64))  # few hand-overs: cheap
    kept = [k for k in range(recipe.shape[0]) if k not in case.left_out]
    found, distance = labels.values == 1, distance[kept]
    wrong = found != (distance < 0)
    apart = np.diff(np.array(recipe.positions_mm)[kept]).max()
    sizes = np.array([apart, *case.pixel_mm])
    allowed_mm = np.linalg.norm(sizes / 2 + MODEL_MM / 2)
    _check_even(labels)
    found_at, true_at = (
        _centre_mm(mask, points[kept], labels.geometry.slice_extents_mm)
        for mask in (found, distance < 0)
    )
    (stats,) = measure(labels)
    measured_ml = stats.volume_ml or 0.0
    pixels = np.count_nonzero(distance < 0, axis=(1, 2))
    slices_ml = float(pixels @ labels.geometry.slice_extents_mm) * np.prod(case.pixel_mm) / 1000
    return Result(
        worst=float(np.abs(distance[wrong]).max(initial=0.0) / allowed_mm),
        volume=measured_ml / TRUE_ML,
        by_slices=measured_ml / slices_ml,
        gaps=bool(case.left_out),
        axial=_is_axial(case),
        moved_mm=float(np.abs(found_at - true_at).max()),
    )


def _centre_mm(
    mask: npt.NDArray[np.bool_], points_mm: npt.NDArray[np.float64], extents_mm: Any
) -> npt.NDArray[np.float64]:
    """Centre of what a mask marks, each slice counted by its extent."""
    weights = (mask * extents_mm[:, None, None]).ravel()
    return np.asarray(weights @ points_mm.reshape(-1, 3) / weights.sum())


def _is_axial(case: Case) -> bool:
    row, column = PLANES[case.plane]
    return bool(abs(np.cross(row, column)[2]) > 0.5)


def _check_even(labels: Labels) -> None:
    """The even grid of a file holds the same labels, and nothing else."""
    if labels.geometry.places_mm is None:
        return
    even = evened(labels)
    values = np.stack(list(even.planes()))
    back = on_slices(Labels(values, even.geometry, labels.organs), labels.geometry)
    if not np.array_equal(back.values, labels.values):
        raise ValueError("the even grid does not give the labels back")
    grid = Upright.of(labels.geometry).even
    if sorted(set(grid.slices)) != list(range(labels.geometry.shape[0])):
        raise ValueError("a slice has no plane on the even grid")


def identity_model(folder: Path) -> LoadedModel:
    """A network that says what is denser than -300 HU."""
    grid = {"spacing_mm": [MODEL_MM] * 3, "directions": ["S", "P", "L"]}
    bundle = write_bundle(
        folder,
        preprocessing__grid=grid,
        preprocessing__neighbours_mm=[-MODEL_MM, 0.0, MODEL_MM],
        preprocessing__resampling={"labels": "scores"},
    )
    return load_model(open_bundle(bundle), threads=1)


def main(count: int, first: int = 0) -> None:
    """Run many cases; print the worst of them, after each round of orientations."""
    results: list[tuple[Case, Result]] = []
    with tempfile.TemporaryDirectory() as place:
        model = identity_model(Path(place) / "model")
        for number in range(first, first + count):
            with tempfile.TemporaryDirectory(dir=place) as folder:
                case = make_case(number)
                results.append((case, run_case(case, Path(folder), model)))
            if not results[-1][1].right:
                print("WRONG", *results[-1], flush=True)
            if len(results) % 48 == 0 or len(results) == count:
                print(_summary(results), flush=True)


def _summary(results: list[tuple[Case, Result]]) -> str:
    cases, found = zip(*results, strict=True)
    worst = max(each.worst for each in found)
    moved = max(each.moved_mm for each in found)
    lines = [
        f"{len(cases)} cases, {sum(bool(case.tilt_deg) for case in cases)} tilted, "
        f"{sum(bool(case.left_out) for case in cases)} with gaps, "
        f"{sum(len(set(case.steps_mm)) > 1 for case in cases)} uneven, "
        f"{sum(case.slopes for case in cases)} with slopes; "
        f"{sum(not each.right for each in found)} wrong",
        f"  farthest wrong voxel / allowed: {worst:.3f} in case "
        f"{next(case.seed for case, each in results if each.worst == worst)}",
        f"  centre moved by up to {moved:.3f} mm",
    ]
    for axial, gaps in itertools.product((True, False), repeat=2):
        some = [each for each in found if (each.axial, each.gaps) == (axial, gaps)]
        for name in ("volume", "by_slices"):
            ratios = [getattr(each, name) for each in some] or [1.0]
            spread = f"{min(ratios):.4f} to {max(ratios):.4f}"
            lines.append(f"  axial {axial}, gaps {gaps}: {len(some)}, {name} {spread}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
