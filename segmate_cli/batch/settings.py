"""What a batch is told once: the options that decide its results, and their identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segmate_cli import __version__
from segmate_cli.bundle import Bundle
from segmate_cli.doubt.gates_file import parse_gates
from segmate_cli.engines import EngineChoice
from segmate_cli.errors import UsageError

OutputFormat = Literal["nifti", "seg", "sr", "rtstruct", "html"]
GATES = "gates"
FORMATS: tuple[OutputFormat, ...] = ("nifti", "seg", "sr", "rtstruct", "html")
# What a manifest may say of a single case, beside its path, id and series.
CASE_OPTIONS = ("organs", "assume_ras", "check_hu")


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of a batch that its workers need.

    Attributes:
        model: Name of a model, or a bundle's path.
        organs: Only these, or None for all.
        engine: As ``PredictOptions``.
        device: As ``PredictOptions``.
        check_hu: As ``PredictOptions``.
        assume_ras: Take NIfTI without orientation for RAS.
        formats: What is written for each case; NIfTI always is.
        report: Write ``report.json`` for each case.
        seg_type: How a DICOM SEG is written.
        seg_compress: Whether it is deflated.
        uid_root: Root of the UIDs of DICOM outputs.
        gates: Text of a file with limits of gates; None for the built-in ones.
        keep_month: As ``PredictOptions``.
        batch_size: Slices a batch; does not change results.
        threads: CPU threads of each worker; does not change results.
        memory_cap_bytes: Of each worker; does not change results.
    """

    model: str = "default"
    organs: tuple[str, ...] | None = None
    engine: EngineChoice = "auto"
    device: str = "auto"
    check_hu: bool = True
    assume_ras: bool = False
    formats: tuple[OutputFormat, ...] = ("nifti",)
    report: bool = False
    seg_type: Literal["binary", "labelmap"] = "binary"
    seg_compress: bool = False
    uid_root: str | None = None
    gates: str | None = None
    keep_month: bool = False
    batch_size: int | None = None
    threads: int | None = None
    memory_cap_bytes: int | None = None

    def for_case(self, options: dict[str, Any]) -> Settings:
        """These settings with what a manifest says of one case."""
        if "organs" in options:
            options = {**options, "organs": tuple(options["organs"])}
        return dataclasses.replace(self, **options)

    def as_json(self) -> dict[str, Any]:
        """For the way to a worker."""
        return dataclasses.asdict(self)


def settings_of(raw: dict[str, Any]) -> Settings:
    """The inverse of ``as_json``."""
    organs = raw["organs"]
    return Settings(
        **{
            **raw,
            "formats": tuple(raw["formats"]),
            "organs": None if organs is None else tuple(organs),
        }
    )


def identity(settings: Settings, bundle: Bundle) -> dict[str, Any]:
    """What two runs must share for the results of one to be those of the other."""
    manifest = bundle.manifest.model_dump(mode="json")
    gates = {} if settings.gates is None else {GATES: gates_sha256(settings.gates)}
    # Named only where they are given, so that older results stay those of the same command.
    month = {"keep_month": True} if settings.keep_month else {}
    return {
        **gates,
        **month,
        "segmate": major_version(),
        "model": bundle.manifest.name,
        "model_version": bundle.manifest.version,
        "weights_sha256": {each.engine: each.sha256 for each in bundle.manifest.network.files},
        "manifest_sha256": digest_of(manifest),
        "engine": settings.engine,
        "device": settings.device.partition(":")[0],
        "organs": settings.organs and sorted(settings.organs),
        "check_hu": settings.check_hu,
        "assume_ras": settings.assume_ras,
        "formats": sorted(settings.formats),
        "report": settings.report,
        "seg": [settings.seg_type, settings.seg_compress, settings.uid_root],
    }


def making_sha256(config: dict[str, Any]) -> str:
    """Identity of what in a configuration decides the voxels: all but the gates."""
    return digest_of({name: value for name, value in config.items() if name != GATES})


def gates_sha256(text: str) -> str:
    """Of what a file of gates means: neither comments nor the order of its lines count."""
    rules = parse_gates(text, "--gates")
    return digest_of([[rule.id, rule.severity, dict(rule.limits)] for rule in rules])


def major_version() -> str:
    """The part of the version within which results stay the same: 1 of 1.2.3, 0.1 of 0.1.2."""
    major, minor, *_ = __version__.split(".")
    return major if major != "0" else f"{major}.{minor}"


def digest_of(value: Any) -> str:
    """sha256 of plain data, whatever the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def parse_formats(words: tuple[str, ...]) -> tuple[OutputFormat, ...]:
    """Formats by name; UsageError for others. A DICOM SR refers to a SEG, so it brings one."""
    known: dict[str, OutputFormat] = {name: name for name in FORMATS}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise UsageError(f"--format {','.join(unknown)} is unknown; use {', '.join(FORMATS)}.")
    wanted = {"nifti", *words, *(["seg"] if "sr" in words else [])}
    return tuple(name for name in FORMATS if name in wanted)


def parse_case_options(text: str, where: str) -> dict[str, Any]:
    """``organs=liver+heart;assume_ras;no_hu_check`` as the changes of ``Settings.for_case``.

    Raises:
        UsageError: An option that a case cannot have.
    """
    found: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in text.split(";"))):
        name, _, value = word.partition("=")
        if name == "organs" and value:
            found["organs"] = [organ.strip() for organ in value.split("+")]
        elif word == "assume_ras":
            found["assume_ras"] = True
        elif word == "no_hu_check":
            found["check_hu"] = False
        else:
            raise UsageError(
                f"{where}: option '{word}' is unknown; use organs=liver+heart, assume_ras or "
                "no_hu_check, with semicolons between."
            )
    return found


def absolute_model(model: str, bundle: Bundle) -> str:
    """The model as a worker in another folder can open it."""
    return model if not Path(model).exists() else str(bundle.location.absolute())
