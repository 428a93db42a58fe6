"""segmate: organ segmentation in clinical CT, with volumes one can trust.

    >>> import segmate_cli as segmate                                   # doctest: +SKIP
    >>> labels = segmate.predict(segmate.load("scan.nii.gz"))           # doctest: +SKIP
    >>> [(s.organ.key, s.volume_ml) for s in segmate.measure(labels)]   # doctest: +SKIP

Importing this package costs nothing: each function loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# From 1.29 on ONNX Runtime reports each session to its makers unless it is told before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from segmate_cli.bundle import open_bundle as open_model
    from segmate_cli.errors import SegmateError
    from segmate_cli.measurement import OrganStats, measure
    from segmate_cli.organs import Organ
    from segmate_cli.pipeline import PredictOptions, predict
    from segmate_cli.saving import save
    from segmate_cli.scans import load, load_labels
    from segmate_cli.volume import Labels, Volume

_HOMES = {
    "Labels": ("volume", "Labels"),
    "Organ": ("organs", "Organ"),
    "OrganStats": ("measurement", "OrganStats"),
    "PredictOptions": ("pipeline", "PredictOptions"),
    "SegmateError": ("errors", "SegmateError"),
    "Volume": ("volume", "Volume"),
    "load": ("scans", "load"),
    "load_labels": ("scans", "load_labels"),
    "measure": ("measurement", "measure"),
    "open_model": ("bundle", "open_bundle"),
    "predict": ("pipeline", "predict"),
    "save": ("saving", "save"),
}

__all__ = [
    "Labels",
    "Organ",
    "OrganStats",
    "PredictOptions",
    "SegmateError",
    "Volume",
    "__version__",
    "load",
    "load_labels",
    "measure",
    "open_model",
    "predict",
    "save",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'segmate_cli' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"segmate_cli.{module}"), attribute)
