"""What a page says about where its label map comes from: files, model, software."""

from __future__ import annotations

from typing import Any

from segmate_cli import __version__, files
from segmate_cli.bundle import Manifest, bundled_folders, open_bundle
from segmate_cli.look.content import Content
from segmate_cli.volume import DicomSource

Facts = list[tuple[str, str]]


def provenance(content: Content, manifest: Manifest | None) -> list[tuple[str, Facts]]:
    """Groups of names and values; what nobody tells is left out."""
    told = content.sidecar or {}
    groups = [("Label map", _label_map(content)), ("Scan", _scan(content))]
    model = told.get("model")
    if isinstance(model, dict):
        groups.append(("Model", _model(model)))
        if manifest is not None:
            groups.append(("Model card", _card(manifest)))
    groups.append(("Software", _software(told)))
    return [(title, facts) for title, facts in groups if facts]


def manifest_of(content: Content) -> Manifest | None:
    """The manifest of the model that made the label map, if that model is a bundled one."""
    model = (content.sidecar or {}).get("model")
    wanted = model.get("weights_sha256") if isinstance(model, dict) else None
    for folder in bundled_folders() if wanted else ():
        manifest = open_bundle(folder).manifest
        if wanted in [each.sha256 for each in manifest.network.files]:
            return manifest
    return None


def _label_map(content: Content) -> Facts:
    path, geometry = content.source.labels, content.geometry
    voxels = "Shown in voxels" if content.by_contours else "Voxels"
    facts = [
        ("File", path.name),
        ("File sha256", files.sha256_of_file(path)),
        (voxels, " \u00d7 ".join(str(n) for n in reversed(geometry.shape))),
        ("Voxel size", " \u00d7 ".join(f"{n:.4g}" for n in reversed(geometry.spacing_mm)) + " mm"),
        ("Stored towards", " ".join(reversed(geometry.directions))),
    ]
    if geometry.obliqueness_deg >= 0.5:
        facts.append(("Oblique by", f"{geometry.obliqueness_deg:.1f} degrees"))
    if content.sidecar is None:
        facts.append(("Sidecar", "none that belongs to this file, so its making is unknown"))
    return facts


def _scan(content: Content) -> Facts:
    told = (content.sidecar or {}).get("input") or {}
    facts: Facts = []
    if content.source.ct is not None:
        facts.append(("Given", content.source.ct.name))
    if content.same_scan is not None:
        words = {True: "yes, voxel by voxel", False: "no, its voxels differ"}
        facts.append(("Is the one segmented", words[content.same_scan]))
    if told.get("pixels_sha256"):
        facts.append(("Voxels sha256", str(told["pixels_sha256"])))
    source = content.scan.source if content.scan else None
    series = (told.get("dicom") or {}).get("series_uid")
    if isinstance(source, DicomSource):
        series = source.series_uid
    if series:
        facts.append(("Series UID", str(series)))
    return facts


def _model(model: dict[str, Any]) -> Facts:
    names = {
        "name": "Name",
        "version": "Version",
        "weights_sha256": "Weights sha256",
        "licence": "Licence",
        "intended_use": "Intended use",
    }
    return [(title, str(model[key])) for key, title in names.items() if model.get(key)]


def _card(manifest: Manifest) -> Facts:
    facts = [("Title", manifest.title), ("Architecture", manifest.network.architecture)]
    if manifest.provenance.training_data:
        facts.append(("Trained on", "; ".join(manifest.provenance.training_data)))
    if manifest.provenance.scores_note:
        facts.append(("About its Dice", manifest.provenance.scores_note))
    return facts


def _software(told: dict[str, Any]) -> Facts:
    facts: Facts = []
    if told.get("created"):
        facts.append(("Segmented", str(told["created"])))
        facts.append(("By", f"segmate {told.get('segmate_version', '?')}"))
    if told.get("engine_description"):
        facts.append(("Engine", str(told["engine_description"])))
    options = told.get("options")
    if isinstance(options, dict):
        given = ", ".join(f"{key}={value}" for key, value in options.items() if value is not None)
        facts.append(("Options", given))
    seconds = told.get("seconds")
    in_network = seconds.get("network") if isinstance(seconds, dict) else None
    if isinstance(in_network, int | float):
        facts.append(("Time in the network", f"{in_network:.1f} s, all threads together"))
    packages = told.get("packages")
    if isinstance(packages, dict):
        facts.append(("Packages", ", ".join(f"{key} {value}" for key, value in packages.items())))
    if told.get("platform"):
        facts.append(("Platform", f"Python {told.get('python', '?')}, {told['platform']}"))
    facts.append(("This page", f"segmate {__version__}"))
    return facts
