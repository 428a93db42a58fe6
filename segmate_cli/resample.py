"""From a scan's grid to the model's and back, one slice at a time.

The model's grid has the scan's own axes, permuted and flipped to the closest of the directions
that the manifest names, and the manifest's spacing; the first voxel's centre stays in place. An
oblique scan is thus fed along its own axes. Every map is separable: three lists of taps there,
three lists of indices back. Slices that are tilted or uneven are fed from an upright canvas, with
their true places along its slice axis, and taken back from it (``upright``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from segmate_cli.bundle import Preprocessing, Resampling
from segmate_cli.geometry import Geometry, Reorientation, ScalarT
from segmate_cli.planes import Planes, Uint8Array
from segmate_cli.upright import Upright

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.intp]
PlaceArray = npt.NDArray[np.float64]

# Beyond this many standard deviations a Gaussian tap is under 1e-4 of the middle one.
_GAUSS_REACH = 4.0
# Outputs that are summed at once. With 32 OpenBLAS takes 32 MB of address space, and longer.
_BLOCK = 16
# Lines of the model's slices that are taken at once for slices stored across them.
_LINES = 16
# What lies beside a tilted slice on the canvas: air, as scanners have it outside of the body.
_OUTSIDE_HU = -1024


@dataclass(frozen=True, slots=True)
class Taps:
    """Weighted sums along one axis, each of a few neighbouring inputs.

    Some outputs at a time are one small matrix product: a fifth of the time of adding up tap after
    tap, always in the same order, and too small for OpenBLAS to take threads or memory for it.

    Attributes:
        outputs: How many there are.
        blocks: Which outputs, the inputs that they hang on, and weights (outputs, inputs) float32;
            each output's sum to 1.
    """

    outputs: int
    blocks: tuple[tuple[slice, slice, FloatArray], ...]

    @classmethod
    def fit(cls, inputs: int, outputs: int, step: float, sigma: float) -> Taps:
        """Linear interpolation at n * step of an input smoothed by a Gaussian of ``sigma``."""
        at = np.arange(outputs) * step
        reach = int(np.ceil(_GAUSS_REACH * sigma))
        offsets = np.arange(-reach, reach + 2)[:, None]
        low = np.floor(at).astype(np.intp)
        part = at - low
        # Interpolating two smoothed samples is smoothing with two shifted kernels.
        weights = _kernel(offsets, sigma) * (1.0 - part) + _kernel(offsets - 1, sigma) * part
        weights /= weights.sum(axis=0)
        index = np.clip(low + offsets, 0, inputs - 1)
        keep = (weights > 1e-6).any(axis=1)
        return cls._of(index[keep], weights[keep])

    @classmethod
    def between(cls, places: PlaceArray, outputs: int, step: float) -> Taps:
        """Linear interpolation at n * step of inputs at ascending, uneven places."""
        low, part = _between(places, np.arange(outputs, dtype=np.float64) * step)
        index = np.stack([low, np.minimum(low + 1, len(places) - 1)])
        return cls._of(index, np.stack([1.0 - part, part]))

    @classmethod
    def _of(cls, index: IndexArray, weights: PlaceArray) -> Taps:
        """Of (taps, outputs) positions in the input and their weights."""
        blocks = []
        for start in range(0, index.shape[1], _BLOCK):
            outputs = slice(start, min(start + _BLOCK, index.shape[1]))
            own = index[:, outputs]
            inputs = slice(int(own.min()), int(own.max()) + 1)
            matrix = np.zeros((own.shape[1], inputs.stop - inputs.start))
            np.add.at(matrix, (np.arange(own.shape[1]), own - inputs.start), weights[:, outputs])
            blocks.append((outputs, inputs, matrix.astype(np.float32)))
        return cls(index.shape[1], tuple(blocks))

    def down(self, array: FloatArray) -> FloatArray:
        """Sum along axis 0 of a 2D array."""
        out = np.empty((self.outputs, array.shape[1]), dtype=np.float32)
        for outputs, inputs, weights in self.blocks:
            np.matmul(weights, array[inputs], out=out[outputs])
        return out

    def across(self, array: FloatArray) -> FloatArray:
        """Sum along axis 1 of a 2D array."""
        out = np.empty((array.shape[0], self.outputs), dtype=np.float32)
        for outputs, inputs, weights in self.blocks:
            np.matmul(array[:, inputs], weights.T, out=out[:, outputs])
        return out


@dataclass(frozen=True, slots=True)
class Packing:
    """The scan's slices in its own storage order, with no more rows and columns than the model's.

    Attributes:
        turn: From the model's rows and columns to the scan's.
        rows: Of the model's, those that any of the scan's takes its labels from; None for all.
        columns: The same of columns.
        row_counts: How many of the scan's rows each row of a packed slice stands for.
        column_counts: The same of columns.
    """

    turn: Reorientation
    rows: IndexArray | None
    columns: IndexArray | None
    row_counts: IndexArray
    column_counts: IndexArray

    def of(self, plane: Uint8Array) -> Uint8Array:
        """A slice of the model's grid, packed."""
        packed: Uint8Array = self.turn.view(_taken(plane, self.rows, self.columns)[None])[0]
        return packed


@dataclass(frozen=True, slots=True)
class ModelGrid:
    """How one scan lies on the model's grid.

    Attributes:
        turn: From the scan's storage order to the model's directions.
        source_shape: The scan's shape in the model's axis order.
        shape: Slices, rows and columns of the model's grid.
        steps: Model voxel over scan voxel, along each axis.
        voxel_ml: Volume of one model voxel.
        rows: Taps along rows.
        columns: Taps along columns.
        upright: The canvas of uneven slices, which then is what "the scan" means here.
        own: Axes along which the grid's voxels are the scan's own; see ``at_scan_slices``.
        offset: How far its slices lie beyond the places that ``fit`` gives them, in slices.
    """

    turn: Reorientation
    source_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    steps: tuple[float, float, float]
    voxel_ml: float
    rows: Taps
    columns: Taps
    upright: Upright | None = None
    own: tuple[int, ...] = ()
    offset: float = 0.0

    @classmethod
    def fit(cls, geometry: Geometry, preprocessing: Preprocessing) -> ModelGrid:
        """Lay the model's grid over a scan."""
        upright = None if geometry.places_mm is None else Upright.of(geometry)
        if upright:
            geometry = upright.geometry
        turned, turn = geometry.reoriented(preprocessing.grid.directions)
        spacings = zip(preprocessing.grid.spacing_mm, turned.spacing_mm, strict=True)
        steps = [model / scan for model, scan in spacings]
        counts = [_samples(n, step) for n, step in zip(turned.shape, steps, strict=True)]
        sigmas = [_sigma(step, preprocessing.resampling) for step in steps]
        places = _places(upright, turn)
        rows, columns = (
            Taps.fit(turned.shape[axis], counts[axis], steps[axis], sigmas[axis])
            if axis not in places
            else Taps.between(places[axis], counts[axis], steps[axis])
            for axis in (1, 2)
        )
        return cls(
            turn=turn,
            source_shape=turned.shape,
            shape=(counts[0], counts[1], counts[2]),
            steps=(steps[0], steps[1], steps[2]),
            voxel_ml=geometry.voxel_ml * float(np.prod(steps)),
            rows=rows,
            columns=columns,
            upright=upright,
        )

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """The scan's shape as stored: its own or, of uneven slices, their canvas's."""
        k, j, i = (self.source_shape[self.turn.axes.index(axis)] for axis in range(3))
        return k, j, i

    @property
    def places(self) -> dict[int, PlaceArray]:
        """By axis of the model, where the scan's voxels lie along it, in scan voxels, if uneven."""
        places = _places(self.upright, self.turn)
        return {axis: at for axis, at in places.items() if axis not in self.own}

    @property
    def across(self) -> int:
        """The model's axis along which the scan's slices are stored: 0 where it ``streams``."""
        return self.turn.axes.index(0)

    @property
    def streams(self) -> bool:
        """Whether the scan's stored slices lie along the model's slice axis."""
        return self.turn.axes[0] == 0

    @property
    def descending(self) -> bool:
        """Whether stored slices run against the model's slice direction."""
        return self.streams and self.turn.flips[0]

    def at_scan_slices(self) -> ModelGrid:
        """The grid with the scan's own slices, and the model's rows and columns.

        Where the scan's slices are stored along the model's rows or columns, it has one of these
        for each of them.
        """
        own = (0,) if self.streams else (0, self.across)
        shape, steps, voxel_ml = list(self.shape), list(self.steps), self.voxel_ml
        for axis in own:
            shape[axis], steps[axis] = self.source_shape[axis], 1.0
            voxel_ml /= self.steps[axis]
        return replace(
            self,
            shape=(shape[0], shape[1], shape[2]),
            steps=(steps[0], steps[1], steps[2]),
            voxel_ml=voxel_ml,
            own=own,
            offset=0.0,
        )

    def extents_mm(
        self, spacing_mm: tuple[float, float, float], stride: int = 1
    ) -> tuple[PlaceArray, PlaceArray, PlaceArray]:
        """How much of the scan each of the model's slices, rows and columns stands for.

        Args:
            spacing_mm: Of the model's grid.
            stride: Take every so-manieth slice alone.
        """
        found = []
        for axis, size_mm in enumerate(spacing_mm):
            step = self.steps[axis] * (1 if axis else stride)
            count = -(-self.shape[axis] // (1 if axis else stride))
            between = (np.arange(count - 1) + 0.5) * step
            edges = np.concatenate([[-0.5], between, [self.source_shape[axis] - 0.5]])
            found.append(np.diff(edges) * (size_mm / self.steps[axis]))
        return found[0], found[1], found[2]

    def upright_planes(
        self, planes: Iterator[npt.NDArray[np.int16]]
    ) -> Iterator[npt.NDArray[np.int16]]:
        """The scan's stored slices, put upright where they are not."""
        return self.upright.put_all(planes, _OUTSIDE_HU) if self.upright else planes

    def turn_plane(self, plane: npt.NDArray[ScalarT]) -> npt.NDArray[ScalarT]:
        """A slice of the scan's array across ``turn.axes[0]`` in the model's axes; a view."""
        turned: npt.NDArray[ScalarT] = self.turn.view(np.expand_dims(plane, self.turn.axes[0]))[0]
        return turned

    def slices(self, planes: Iterable[npt.NDArray[np.int16]]) -> Iterator[FloatArray]:
        """Yield the scan's HU on the model's grid, slice after slice, (rows, columns) float32.

        Args:
            planes: The scan's slices in the model's axes, ordered along the model's slice axis,
                or against it where the grid is ``descending``; so are the slices that come out.
                All are taken, the ones after the last that is needed too.
        """
        source = enumerate(planes)
        last = self.source_shape[0] - 1
        recent: dict[int, npt.NDArray[np.int16]] = {}
        places = self.places.get(0)
        for n in self.order():
            low, part = self._neighbours(n, places)
            high = min(low + 1, last)
            wanted = {low, high} if part else {low}
            recent = {k: plane for k, plane in recent.items() if k in wanted}
            while not wanted <= recent.keys():
                taken, plane = next(source)
                k = last - taken if self.descending else taken
                if k in wanted:
                    recent[k] = plane
            # First between the slices, then in them: one plane to shrink, not two.
            if low == high or not part:
                yield self._in_plane(recent[low].astype(np.float32))
            else:
                yield self._in_plane(recent[low] * (1 - part) + recent[high] * part)
        for _ in source:
            pass

    def _neighbours(self, n: int, places: PlaceArray | None) -> tuple[int, np.float32]:
        """The scan's slice below one of the model's, and how far towards the next that lies."""
        at = (n + self.offset) * self.steps[0]
        if places is None:
            return min(int(at), self.source_shape[0] - 1), np.float32(at - int(at))
        low, part = _between(places, np.array([at]))
        return int(low[0]), np.float32(part[0])

    def order(self) -> range:
        """The model's slices in the order in which the scan gives them."""
        count = self.shape[0]
        return range(count - 1, -1, -1) if self.descending else range(count)

    def back(self, labels: Planes) -> Uint8Array:
        """Labels of the model's grid at the scan's voxels, in the scan's own storage order."""
        shape = self.upright.slices.shape if self.upright else self.stored_shape
        out = np.empty(shape, np.uint8)
        for k, plane in enumerate(self.back_planes(labels)):
            out[k] = plane
        return out

    def packing(self) -> Packing | None:
        """How the scan's slices look on the grid; None where they do not lie along the model's."""
        if not self.streams or self.upright is not None:
            return None
        _, rows, columns = self._sources()
        used = [np.unique(part, return_counts=True) for part in (rows, columns)]
        turn = self._plane_turn.inverse()
        counts = [
            used[axis - 1][1][:: -1 if flip else 1]
            for axis, flip in zip(turn.axes[1:], turn.flips[1:], strict=True)
        ]
        some = [_some(used[axis - 1][0], self.shape[axis]) for axis in (1, 2)]
        return Packing(turn, some[0], some[1], counts[0], counts[1])

    def packed_planes(self, labels: Planes) -> Iterator[Uint8Array] | None:
        """The scan's slices in its own storage order, as ``packing`` has them; None likewise."""
        packing = self.packing()
        if packing is None:
            return None
        turned = self._turned_planes(labels, packing.rows, packing.columns)
        return (packing.turn.view(plane[None])[0] for plane in turned)

    def back_planes(self, labels: Planes) -> Iterator[Uint8Array]:
        """The same slice by slice."""
        planes = self._stored_planes(labels)
        if self.upright is None:
            yield from planes
            return
        for k, plane in enumerate(planes):
            yield self.upright.take(k, plane)

    def _stored_planes(self, labels: Planes) -> Iterator[Uint8Array]:
        if not self.streams:
            yield from self._planes_across(labels)
            return
        stored = self._plane_turn.inverse()
        some = [_some(self._sources()[axis], self.shape[axis]) for axis in (1, 2)]
        for plane in self._turned_planes(labels, some[0], some[1]):
            yield stored.view(plane[None])[0]

    @property
    def _plane_turn(self) -> Reorientation:
        axes = (0, self.turn.axes[1], self.turn.axes[2])
        return Reorientation(axes, (False, *self.turn.flips[1:]))

    def _turned_planes(
        self, labels: Planes, rows: IndexArray | None, columns: IndexArray | None
    ) -> Iterator[Uint8Array]:
        """Slices in the model's axes, at some of its rows and columns, ordered as ``slices``."""
        slices = self._sources()[0]
        last = -1
        for source in slices[::-1] if self.descending else slices:
            if source != last:  # neighbours often repeat: the scan's slices lie closer
                last, plane = source, _taken(labels[source], rows, columns)
            yield plane

    def _planes_across(self, labels: Planes) -> Iterator[Uint8Array]:
        """The scan's stored slices, where each needs a line of all of the model's slices.

        Lines are taken from the labels some at a time: a pass over all slices for each stored
        slice would take long, and all at once much memory.
        """
        sources = self._sources()
        across = self.across
        lines = sources[across][:: -1 if self.turn.flips[across] else 1]
        stored = self.turn.inverse()
        first, block = -1, np.empty((0, 0, 0), np.uint8)
        for line in lines:
            if line // _LINES != first:
                first = line // _LINES
                part = [slice(None), slice(None)]
                part[across - 1] = slice(first * _LINES, (first + 1) * _LINES)
                # Copies, for a view would keep its whole plane until all are there.
                block = np.stack([labels[n][tuple(part)].copy() for n in range(self.shape[0])])
            own = block.take([line - first * _LINES], across)
            for axis in {0, 1, 2} - {across}:
                own = own.take(sources[axis], axis)
            yield stored.view(own)[0]

    def _sources(self) -> list[IndexArray]:
        """For each axis of the model, where each of the scan's voxels takes its label from."""
        places = self.places
        even = (np.arange(count) for count in self.source_shape)
        return [
            _nearest(places.get(axis, at), count, step)
            for axis, (at, count, step) in enumerate(zip(even, self.shape, self.steps, strict=True))
        ]

    def _in_plane(self, plane: FloatArray) -> FloatArray:
        return self.columns.across(self.rows.down(plane))


def _some(taken: IndexArray, there: int) -> IndexArray | None:
    """Lines to be taken; None where that is all of them, in their order."""
    return None if np.array_equal(taken, np.arange(there)) else taken


def _taken(plane: Uint8Array, rows: IndexArray | None, columns: IndexArray | None) -> Uint8Array:
    """Some rows and columns of a plane; the plane itself where it is all."""
    # Rows last: they are copied whole.
    plane = plane if columns is None else plane.take(columns, 1)
    return plane if rows is None else plane.take(rows, 0)


def _kernel(offset: npt.NDArray[Any], sigma: float) -> npt.NDArray[np.float64]:
    if sigma == 0:
        return np.asarray(offset == 0, dtype=np.float64)
    return np.asarray(np.exp(-0.5 * (offset / sigma) ** 2))


def _sigma(step: float, rule: Resampling) -> float:
    """Anti-alias before taking every step-th voxel; see ``bundle.Resampling``."""
    return (step - 1.0) / 2.0 if rule.anti_alias == "gaussian" and step > 1.0 else 0.0


def _samples(inputs: int, step: float) -> int:
    """Model voxels that bring every scan voxel within half a model voxel."""
    return max(1, int(np.floor((inputs - 1) / step + 0.5)) + 1)


def _nearest(places: npt.NDArray[Any], samples: int, step: float) -> IndexArray:
    return np.minimum(np.floor(places / step + 0.5).astype(np.intp), samples - 1)


def _places(upright: Upright | None, turn: Reorientation) -> dict[int, PlaceArray]:
    if upright is None:
        return {}
    across = turn.axes.index(0)
    at = upright.steps
    return {across: (at[-1] - at)[::-1] if turn.flips[across] else at}


def _between(places: PlaceArray, at: PlaceArray) -> tuple[IndexArray, PlaceArray]:
    """The place below each position, and the share of the way to the next."""
    low = np.clip(np.searchsorted(places, at, side="right") - 1, 0, len(places) - 1)
    high = np.minimum(low + 1, len(places) - 1)
    apart = np.where(high > low, places[high] - places[low], 1.0)
    return low, np.clip((at - places[low]) / apart, 0.0, 1.0)
