"""Model bundles: a folder, or one ``.segmate`` zip of it, with a manifest and network files.

The manifest says everything that the pipeline does; no preprocessing constant lives in code.
Nothing in a bundle is executed except the network itself, whose sha256 is checked at every load.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segmate_cli import bundle_files, organs
from segmate_cli.bundle_files import DEFAULT_MODEL as DEFAULT_MODEL
from segmate_cli.bundle_files import MANIFEST_NAME as MANIFEST_NAME
from segmate_cli.bundle_files import bundled_folders as bundled_folders
from segmate_cli.bundle_files import locate, manifest_json, read_member
from segmate_cli.errors import ManifestError

FORMAT = "segmate-bundle"
FORMAT_VERSION = 1

Engine = Literal["onnx", "torchscript", "pt2"]
Direction = Literal["L", "R", "A", "P", "S", "I"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
FileName = Annotated[str, Field(pattern=bundle_files.FILE_NAME)]
Name = Annotated[str, Field(pattern=bundle_files.FILE_NAME, max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

PartT = TypeVar("PartT", bound=BaseModel)

# Slices on either side of which the network may want to know; each is kept in memory.
_FARTHEST_STEP = 64

# What the letters of a direction have in common: each axis of the model takes one of the three.
_AXIS_OF = {"L": 0, "R": 0, "A": 1, "P": 1, "S": 2, "I": 2}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NetworkFile(_Part):
    """One exported form of the network. All files of a bundle hold the same weights.

    Attributes:
        engine: What runs it.
        file: Name inside the bundle.
        sha256: Of the file.
        precision: How weights are stored; arithmetic is float32 in either case.
        parity: Largest difference from the source network, over its logits' standard deviation.
    """

    engine: Engine
    file: FileName
    sha256: Sha256
    precision: Literal["fp32", "fp16"] = "fp32"
    parity: Annotated[float, Field(ge=0)] | None = None


class Network(_Part):
    """The network: inputs ``slices`` (N, S, H, W) and, with FiLM, ``slice_position`` (N,).

    The output ``logits`` is (N, channels, H, W). A negative slice position means "unknown".
    """

    architecture: str
    encoder: str
    channels: Annotated[int, Field(ge=1, le=1024)]
    takes_slice_position: bool = False
    parameters: int | None = None
    # Working memory of one slice in flight, from which the batch size under a cap is chosen.
    bytes_per_pixel: Annotated[int, Field(ge=1)] = 2500
    files: Annotated[tuple[NetworkFile, ...], Field(min_length=1, strict=False)]


class OrganChannel(_Part):
    """One organ: its key in the organ table, its channel, and the probability it must pass."""

    key: str
    channel: Annotated[int, Field(ge=0)]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    experimental: bool = False


class Grid(_Part):
    """The model's voxel grid.

    Attributes:
        spacing_mm: Distance between slices, rows and columns.
        directions: Where the slice, row and column index grow to, such as ``("S", "P", "L")``.
    """

    spacing_mm: Annotated[tuple[Positive, Positive, Positive], Field(strict=False)]
    directions: Annotated[tuple[Direction, Direction, Direction], Field(strict=False)]

    @model_validator(mode="after")
    def _three_axes(self) -> Grid:
        if len({_AXIS_OF[letter] for letter in self.directions}) != 3:
            raise ValueError(f"directions {self.directions} name one axis twice")
        return self


class Window(_Part):
    """Network input = clip(HU, low_hu, high_hu) * scale + offset."""

    low_hu: Finite
    high_hu: Finite
    scale: Finite
    offset: Finite

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low_hu >= self.high_hu or self.scale == 0:
            raise ValueError("window needs low_hu < high_hu and a scale other than 0")
        return self


class Padding(_Part):
    """Rows and columns are padded at their ends, with a value in network units, to a multiple."""

    value: Finite
    multiple: Annotated[int, Field(ge=1, le=512)]


class Resampling(_Part):
    """How a scan comes onto the model's grid and labels come back.

    Attributes:
        image: Interpolation of HU; the first voxel's centre stays.
        anti_alias: In-plane Gaussian before down-sampling by f > 1, sigma = (f - 1) / 2 voxels.
        labels: How labels return to the scan's grid: of the ``nearest`` model voxel; or by
            ``scores``, logits interpolated between slices, and nearest within them.
    """

    image: Literal["linear"] = "linear"
    anti_alias: Literal["gaussian", "none"] = "gaussian"
    labels: Literal["nearest", "scores"] = "nearest"


class Preprocessing(_Part):
    """All that happens between HU and the network.

    Attributes:
        neighbours_mm: Offsets along the slice axis of the network's input channels, in order.
        edge: Slices beyond the ends repeat the end.
        slice_position: ``none`` (FiLM is the identity) or ``estimate`` (a first pass without,
            then first and last slice with any organ over ``slice_position_min_ml``).
    """

    grid: Grid
    window: Window
    neighbours_mm: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=15, strict=False)]
    edge: Literal["repeat"] = "repeat"
    padding: Padding
    resampling: Resampling = Resampling()
    slice_position: Literal["none", "estimate"] = "none"
    slice_position_min_ml: Annotated[float, Field(ge=0)] = 0.5

    @model_validator(mode="after")
    def _whole_steps(self) -> Preprocessing:
        self.neighbour_steps()
        return self

    def neighbour_steps(self) -> tuple[int, ...]:
        """The neighbours' offsets in slices of the model's grid."""
        step_mm = self.grid.spacing_mm[0]
        steps = [mm / step_mm for mm in self.neighbours_mm]
        if any(abs(step) > _FARTHEST_STEP for step in steps):
            raise ValueError(f"neighbours_mm {self.neighbours_mm} are over {_FARTHEST_STEP} slices")
        if any(abs(step - round(step)) > 1e-3 for step in steps):
            raise ValueError(
                f"neighbours_mm {self.neighbours_mm} are not whole steps of {step_mm} mm"
            )
        return tuple(round(step) for step in steps)


class CleanUp(_Part):
    """What is done to one organ's mask after the network; off unless the manifest asks."""

    largest_component: bool = False
    fill_holes: bool = False
    min_component_ml: Annotated[float, Field(ge=0)] = 0.0


class Intervals(_Part):
    """How far volumes may be off: what ``predict --uncertainty`` makes its intervals of.

    Measured against hands on patients that training never saw, as
    ``python -m benchmarks.doubt_scores --write`` does.

    Attributes:
        half_widths: By organ key, half an interval on a logarithmic scale; an organ that is not
            named gets no interval.
        share: Of hands' volumes, how many lay within that of the network's.
        note: On which patients, and with which weights, in a sentence.
    """

    half_widths: Annotated[dict[str, Annotated[float, Field(gt=0, le=3)]], Field(min_length=1)]
    share: Annotated[float, Field(gt=0, lt=1)]
    note: str


class Provenance(_Part):
    """Where the weights come from and what they may be used for."""

    licence: str
    intended_use: str
    training_data: Annotated[tuple[str, ...], Field(strict=False)] = ()
    source: str = ""
    scores: dict[str, float] = Field(default_factory=dict)
    scores_note: str = ""


class Recipe(_Part):
    """All of a manifest that cannot be read off a network's tensors; see ``segmate convert``."""

    name: Name
    version: str
    title: str
    organs: Annotated[tuple[OrganChannel, ...], Field(min_length=1, max_length=255, strict=False)]
    activation: Literal["sigmoid"] = "sigmoid"
    overlap: Literal["largest_logit"] = "largest_logit"
    preprocessing: Preprocessing
    clean_up: dict[str, CleanUp] = Field(default_factory=dict)
    # Whether the built-in gates, made for CT of adults, hold for what this model is meant for.
    gates: Literal["adult_ct", "none"] = "adult_ct"
    intervals: Intervals | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _known_organs(self) -> Recipe:
        keys = [entry.key for entry in self.organs]
        channels = [entry.channel for entry in self.organs]
        if len(set(keys)) != len(keys) or len(set(channels)) != len(channels):
            raise ValueError("an organ or a channel is named twice")
        unknown = [key for key in keys if not organs.is_known(key)]
        if unknown:
            raise ValueError(f"organs {unknown} are not in segmate's organ table")
        measured = {} if self.intervals is None else self.intervals.half_widths
        for part, named in (("clean_up", self.clean_up), ("intervals", measured)):
            stray = set(named) - set(keys)
            if stray:
                raise ValueError(
                    f"{part} names organs that the model does not have: {sorted(stray)}"
                )
        return self


class Manifest(Recipe):
    """A bundle's ``manifest.json``."""

    format: Literal["segmate-bundle"]
    format_version: Literal[1]
    network: Network

    @model_validator(mode="after")
    def _channels_fit(self) -> Manifest:
        highest = max(entry.channel for entry in self.organs)
        if highest >= self.network.channels:
            raise ValueError(
                f"an organ uses channel {highest} of a network with {self.network.channels}"
            )
        if self.preprocessing.slice_position != "none" and not self.network.takes_slice_position:
            raise ValueError("slice_position asks for a network that takes one")
        return self

    def organ_table(self) -> tuple[organs.Organ, ...]:
        """The organs in the manifest's order; label value n is the n-th of them."""
        return tuple(organs.organ(entry.key) for entry in self.organs)

    def threshold_logits(self) -> tuple[float, ...]:
        """Each organ's threshold as a logit, in the manifest's order."""
        return tuple(math.log(o.threshold / (1.0 - o.threshold)) for o in self.organs)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A manifest and where its files lie. ``location`` is a folder or a ``.segmate`` file."""

    manifest: Manifest
    location: Path

    def network_file(self, engine: Engine) -> NetworkFile | None:
        """The bundle's network for one engine, or None."""
        files = (each for each in self.manifest.network.files if each.engine == engine)
        return next(files, None)

    def read_network(self, network_file: NetworkFile) -> bytes:
        """The bytes of a network file, hash checked.

        Raises:
            HashMismatchError: It is not the file that the manifest names.
            ManifestError: It is missing or cannot be read.
        """
        return bundle_files.read_network(self.location, network_file.file, network_file.sha256)


def open_bundle(name_or_path: str | Path = DEFAULT_MODEL) -> Bundle:
    """Open an installed model by name, or a bundle by its folder or ``.segmate`` file.

    A name goes before a folder that happens to be called so; write that one ``./default``.

    Raises:
        ModelError: There is no such model; the message lists those installed.
        ManifestError: The manifest is missing, of another version, or inconsistent.
    """
    path = locate(name_or_path, bundled_folders())
    return Bundle(parse_manifest(read_member(path, MANIFEST_NAME), str(path)), path)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Validate a manifest's JSON.

    Raises:
        ManifestError: Says the field that is wrong.
    """
    raw = manifest_json(data, where)
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ManifestError(f"{where}: {MANIFEST_NAME} does not describe a segmate bundle.")
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{where}: bundle format {version!r:.20} is unknown to this segmate, which reads "
            f"format {FORMAT_VERSION}; install the release of segmate that the bundle was made for."
        )
    return validate(Manifest, raw, where)


def validate(kind: type[PartT], raw: object, where: str) -> PartT:
    """Check decoded JSON against a model; ManifestError in one sentence."""
    try:
        return kind.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:100] or "top level"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ManifestError(f"{where}: {place}: {first['msg']}{more}.") from error
