"""Clean-up and survey of labels, done as far as they go while the network still runs.

What is left once the last slice is labelled: to take away the parts that are too small, and to
count anew the slices that held them.
"""

from __future__ import annotations

from segmate_cli.bundle import Manifest
from segmate_cli.clean_up import FloatArray, clean_up, parts_of
from segmate_cli.doubt.survey import Survey, Surveyor, Weights
from segmate_cli.flow import Stopwatch
from segmate_cli.geometry import Geometry
from segmate_cli.planes import PackedPlanes, Uint8Array
from segmate_cli.resample import ModelGrid


class Finishing:
    """``Planes`` of labels that come in the grid's order, each once, and then are cleaned.

    Args:
        grid: Where the labels lie.
        geometry: The scan's.
        manifest: The model's.
        watch: Counts ``clean_up`` and ``gates``.

    Attributes:
        labels: What has come, on the grid.
    """

    def __init__(
        self, grid: ModelGrid, geometry: Geometry, manifest: Manifest, watch: Stopwatch
    ) -> None:
        self.labels = PackedPlanes(grid.shape)
        self._grid, self._geometry, self._manifest, self._watch = grid, geometry, manifest, watch
        self._there = 0
        self._changed: set[int] = set()
        self._cleaning = False
        fills = any(rule.fill_holes for rule in manifest.clean_up.values())
        # Filled organs change what follows; and parts are numbered from the first plane on, which
        # settles which of two that are equally large stays.
        self._parts = None if fills or grid.descending else parts_of(self)
        self._packing = grid.packing() if 0 in grid.own else None  # else planes come more than once
        self._surveyor = None
        if self._packing:
            weights = Weights(self._packing.row_counts, self._packing.column_counts)
            self._surveyor = Surveyor(geometry, len(manifest.organs), weights, recountable=True)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns."""
        return self.labels.shape

    def __getitem__(self, n: int, /) -> Uint8Array:
        return self.labels[n]

    def __setitem__(self, n: int, plane: Uint8Array, /) -> None:
        self.labels[n] = plane
        if self._cleaning:
            self._changed.add(self._stored(n))
            return
        self._there += 1
        if self._parts:
            with self._watch.stage("clean_up"):
                self._parts.advance(self._there)
        if self._surveyor and self._packing:
            with self._watch.stage("gates"):
                self._surveyor.add(self._packing.of(plane))

    def clean_up(self) -> FloatArray:
        """Clean the labels, once all have come; as the function of that name."""
        self._cleaning = True
        with self._watch.stage("clean_up"):
            return clean_up(self, self._manifest, self._grid.voxel_ml, self._parts)

    def survey(self) -> Survey:
        """Evidence about the labels at the scan's voxels, by way of the few on the grid."""
        if self._surveyor:
            return self._surveyor.survey(self._changed, self._packed)
        packing = self._grid.packing()
        weights = Weights(packing.row_counts, packing.column_counts) if packing else None
        surveyor = Surveyor(self._geometry, len(self._manifest.organs), weights)
        planes = self._grid.packed_planes(self.labels) or self._grid.back_planes(self.labels)
        for plane in planes:
            surveyor.add(plane)
        return surveyor.survey()

    def _packed(self, k: int) -> Uint8Array:
        if self._packing is None:
            return self.labels[self._stored(k)]
        return self._packing.of(self.labels[self._stored(k)])

    def _stored(self, n: int) -> int:
        """The scan's slice that a plane of the grid is, and the other way round."""
        return len(self.labels) - 1 - n if self._grid.descending else n
