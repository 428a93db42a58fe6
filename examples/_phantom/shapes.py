"""Smooth implicit shapes that the phantom is painted with, and how they combine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .grid import FAR_MM, Array, Box, Grid, Shape, Vector, box_of, smooth_max


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid; `axes` holds its three unit axes as rows."""

    center: Vector
    radii: Vector
    axes: tuple[Vector, Vector, Vector] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        half = np.sqrt(np.sum((np.array(self.axes) * np.array(self.radii)[:, None]) ** 2, axis=0))
        return box_of(np.array(self.center) - half, np.array(self.center) + half)

    def distance(self, grid: Grid) -> Array:
        """Return the distance, exact on the surface and to first order near it."""
        at = (grid.x - self.center[0], grid.y - self.center[1], grid.z - self.center[2])
        first = np.zeros(grid.x.shape, np.float32)
        second = np.zeros(grid.x.shape, np.float32)
        for axis, radius in zip(self.axes, self.radii, strict=True):
            along = sum(float(w) * p for w, p in zip(axis, at, strict=True) if abs(w) > 1e-6)
            part = np.square(along / np.float32(radius))
            first += part
            second += part / np.float32(radius * radius)
        np.sqrt(first, out=first)
        np.sqrt(second, out=second)
        np.maximum(second, 1e-6, out=second)
        out: Array = (first * (first - 1) / second).astype(np.float32, copy=False)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Loft:
    """A column of ellipse-like cross-sections: rows of `knots` are (z, x, y, half x, half y).

    `power` 2 gives ellipses, above 2 boxier sections. `flat` leaves the ends open (no rounding).
    """

    knots: Array
    power: float = 2.0

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        z, x, y, a, b = self.knots.T
        return Box(
            (float((x - a).min()), float((y - b).min()), float(z.min())),
            (float((x + a).max()), float((y + b).max()), float(z.max())),
        )

    def section(self, z: Array) -> tuple[Array, Array, Array, Array]:
        """Return centre x, centre y and half axes of the section at `z`."""
        table = self.knots
        x, y, a, b = (np.interp(z, table[:, 0], table[:, c]) for c in range(1, 5))
        return (
            x.astype(np.float32),
            y.astype(np.float32),
            a.astype(np.float32),
            b.astype(np.float32),
        )

    def distance(self, grid: Grid) -> Array:
        """Return the distance along the ray from the section's centre, and to the ends."""
        x, y, a, b = (v[:, None, None] for v in self.section(grid.zs))
        dx, dy = grid.x - x, grid.y - y
        ray = np.sqrt(dx * dx + dy * dy)
        dx /= a
        dy /= b
        dx *= dx
        dy *= dy
        if self.power == 2.0:
            reach = np.sqrt(dx + dy)
        else:
            half = np.float32(self.power / 2)
            reach = (dx**half + dy**half) ** np.float32(1 / self.power)
        reach += 1e-4
        inside: Array = ray - ray / reach - np.float32(1e-3)
        # On the axis the ray has no length: there the nearer half axis is the distance.
        inside = np.where(ray < 0.5, -np.minimum(a, b), inside)
        ends = np.maximum(self.knots[0, 0] - grid.z, grid.z - self.knots[-1, 0])
        out: Array = np.maximum(inside, ends).astype(np.float32, copy=False)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Tubes:
    """Many round cones, each from (x, y, z) to (x, y, z); a swept tube is a chain of them.

    `ends` is (n, 2, 3) in mm, `radii` is (n, 2); `tall` stretches the section along z.
    """

    ends: Array
    radii: Array
    tall: float = 1.0

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        reach = float(self.radii.max()) * max(1.0, self.tall)
        flat = self.ends.reshape(-1, 3)
        return box_of(flat.min(axis=0) - reach, flat.max(axis=0) + reach)

    def distance(self, grid: Grid) -> Array:
        """Return the distance near the tubes; further than 12 mm away it is only 'far'."""
        out = np.full(grid.x.shape, FAR_MM, np.float32)
        reach = self.radii.max(axis=1) * max(1.0, self.tall) + 12
        low, high = self.ends.min(axis=1), self.ends.max(axis=1)
        near = (low[:, 2] - reach <= grid.zs[-1]) & (high[:, 2] + reach >= grid.zs[0])
        base = [s.start or 0 for s in grid.window]
        for n in np.flatnonzero(near):
            part = grid.inside(box_of(low[n] - reach[n], high[n] + reach[n]))
            if part is None:
                continue
            k, j, i = (
                slice(s.start - b, s.stop - b) for s, b in zip(part.window, base, strict=True)
            )
            np.minimum(out[k, j, i], self._cone(part, int(n)), out=out[k, j, i])
        return out

    def _cone(self, grid: Grid, n: int) -> Array:
        (ax, ay, az), (bx, by, bz) = self.ends[n]
        first, last = self.radii[n]
        ux, uy, uz = bx - ax, by - ay, (bz - az) / self.tall
        dx, dy, dz = grid.x - ax, grid.y - ay, (grid.z - az) / np.float32(self.tall)
        length = max(float(ux * ux + uy * uy + uz * uz), 1e-6)
        along = (dx * ux + dy * uy + dz * uz) / np.float32(length)
        np.clip(along, 0, 1, out=along)
        dx -= along * ux
        dy -= along * uy
        off = dz - along * uz
        gap = np.sqrt(dx * dx + dy * dy + off * off)
        gap -= first + along * (last - first)
        out: Array = gap.astype(np.float32, copy=False)
        return out


@dataclass(frozen=True, slots=True)
class Plane:
    """The half space behind a plane: points with normal . (p - point) < 0 are inside."""

    point: Vector
    normal: Vector

    @property
    def box(self) -> Box:
        """Unbounded."""
        return Box()

    def distance(self, grid: Grid) -> Array:
        """Return the exact distance."""
        size = float(np.sqrt(sum(v * v for v in self.normal)))
        x, y, z = (v / size for v in self.normal)
        level = sum(a * b for a, b in zip((x, y, z), self.point, strict=True))
        out: Array = x * grid.x + y * grid.y + (z * grid.z - np.float32(level))
        return out.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """A smooth random field of mean 0 and SD 1: plane waves; `vectors` (n, 3) in rad/mm."""

    vectors: npt.NDArray[np.float64]
    phases: npt.NDArray[np.float64]

    def sample(self, grid: Grid) -> Array:
        """Return the field at the grid's points, (k, j, i).

        Plane waves factorise over the axes, so that a voxel costs two products a wave.
        """
        out = np.zeros(grid.x.shape, np.float32)
        gain = np.float32(np.sqrt(2 / len(self.phases)))
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            along_x = np.exp(1j * vector[0] * grid.xs)
            along_y = gain * np.exp(1j * vector[1] * grid.ys)
            along_z = np.exp(1j * (vector[2] * grid.zs + phase)).astype(np.complex64)
            sheet = (along_y[:, None] * along_x[None, :]).astype(np.complex64)
            real, imag = np.ascontiguousarray(sheet.real), np.ascontiguousarray(sheet.imag)
            for k, turn in enumerate(along_z):
                out[k] += real * turn.real - imag * turn.imag
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Above:
    """Where a random field exceeds `level`; `slope_mm` turns field units into mm."""

    waves: Waves
    level: float
    slope_mm: float

    @property
    def box(self) -> Box:
        """Unbounded."""
        return Box()

    def distance(self, grid: Grid) -> Array:
        """Return a pseudo-distance: (level - field) x slope_mm."""
        out: Array = (np.float32(self.level) - self.waves.sample(grid)) * np.float32(self.slope_mm)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Septa:
    """Thin curved sheets, where a random field is near 0; `slope_mm` turns field units into mm."""

    waves: Waves
    half_mm: float
    slope_mm: float

    @property
    def box(self) -> Box:
        """Unbounded."""
        return Box()

    def distance(self, grid: Grid) -> Array:
        """Return a pseudo-distance to the sheets' surfaces."""
        out: Array = np.abs(self.waves.sample(grid)) * np.float32(self.slope_mm)
        out -= np.float32(self.half_mm)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The union of shapes, with rounded seams."""

    parts: tuple[Shape, ...]
    seam_mm: float = 0.0

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        box = self.parts[0].box
        for part in self.parts[1:]:
            box = box.joined(part.box)
        return box.grown(self.seam_mm / 2)

    def distance(self, grid: Grid) -> Array:
        """Return the smooth minimum of the parts' distances."""
        out = -self.parts[0].distance(grid)
        for part in self.parts[1:]:
            out = smooth_max(out, -part.distance(grid), self.seam_mm)
        return -out


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """What all shapes share, less what `without` covers, with rounded seams."""

    parts: tuple[Shape, ...]
    without: tuple[Shape, ...] = ()
    seam_mm: float = 0.0

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        box = Box()
        for part in self.parts:
            box = box.met(part.box)
        return box

    def distance(self, grid: Grid) -> Array:
        """Return the smooth maximum of the distances (negated for what is taken away)."""
        out = self.parts[0].distance(grid)
        for part in self.parts[1:]:
            out = smooth_max(out, part.distance(grid), self.seam_mm)
        for part in self.without:
            out = smooth_max(out, -part.distance(grid), self.seam_mm)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """A shape with its surface moved outwards by `mm` (inwards if negative)."""

    shape: Shape
    mm: float

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        return self.shape.box.grown(self.mm)

    def distance(self, grid: Grid) -> Array:
        """Return the shape's distance less `mm`."""
        out: Array = self.shape.distance(grid) - np.float32(self.mm)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Bumpy:
    """A shape whose surface wanders by `mm` (one SD), as organs do."""

    shape: Shape
    waves: Waves
    mm: float

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        return self.shape.box.grown(2 * self.mm)

    def distance(self, grid: Grid) -> Array:
        """Return the shape's distance plus the random field."""
        out: Array = self.shape.distance(grid) + self.waves.sample(grid) * np.float32(self.mm)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A shape that several others are made of: its distance is computed once a slab."""

    shape: Shape

    @property
    def box(self) -> Box:
        """Bounds in mm."""
        return self.shape.box

    def distance(self, grid: Grid) -> Array:
        """Return the cached distance, cut to the grid's window."""
        if id(self) not in grid.cache:
            grid.cache[id(self)] = self.shape.distance(grid.slab or grid)
        return grid.cache[id(self)][grid.window]
