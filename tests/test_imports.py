"""The shape of the code: who may import whom, what --help costs, how long a function may be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "segmate_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a module imports from the rows above its own, never from its own or below.
LAYERS = (
    ("components", "errors", "flow", "interrupts", "layers", "masks", "onnx_padding", "planes"),
    ("dicom.contours", "dicom.malformed", "dicom.walk"),
    ("doubt", "doubt.anatomy", "doubt.words"),
    ("bundle_files", "dicom.archives", "files"),
    ("console", "geometry", "memory", "network", "organs", "dicom.files", "dicom.uids"),
    ("doubt.survey", "doubt.score_evidence"),
    ("doubt.status", "doubt.scan_evidence"),
    ("doubt.case",),
    ("doubt.handed", "doubt.sizes", "doubt.tissue"),
    ("doubt.rules",),
    ("doubt.verdict",),
    ("doubt.record", "doubt.gates_file"),
    ("bundle", "label_table", "volume", "dicom.decode"),
    ("dicom.data_set", "gpu", "gzipped", "placement", "runners", "sheets", "upright"),
    ("sessions",),
    ("clean_up", "engines", "export", "hounsfield", "measurement", "nifti", "resample", "spool"),
    ("dicom.attributes", "nifti_labels", "report", "sidecar", "convert", "plan", "guard"),
    ("between", "dicom.header", "finishing", "inputs", "variants"),
    ("segmenter", "judging", "dicom.inflate"),
    ("dicom.multiframe", "dicom.stack", "pipeline"),
    ("dicom.series",),
    ("dicom.finding", "dicom.pixels", "dicom.scoring"),
    ("dicom.choice",),
    ("dicom",),
    ("dicom.reference",),
    ("dicom.objects", "dicom.rtstruct_slices", "dicom.same_voxels", "dicom.seg_grid"),
    ("dicom.check_common", "dicom.subject"),
    ("dicom.check_rtstruct", "dicom.check_seg", "dicom.check_sr"),
    ("dicom.check",),
    ("dicom.rtstruct", "dicom.rtstruct_read", "dicom.seg", "dicom.seg_read", "dicom.sr"),
    ("dicom.rtstruct_sheets",),
    ("scans",),
    ("saving", "inspection", "examining"),
    (
        "every_series",
        "gate_list",
        "structured_report",
        "look",
        "look.whereabouts",
        "look.templates",
    ),
    ("outputs", "sidecar_schema"),
    ("look.terminal", "schemas", "fhir"),
    ("gate_options",),
    ("gating",),
    ("look.solid", "look.charts"),
    ("look.views",),
    ("look.content", "look.tiles", "look.meshes"),
    ("look.provenance", "look.viewer"),
    ("volume_change",),
    ("look.page", "look.montage"),
    ("evaluation", "batch.settings", "batch.ids", "batch.locks", "batch.peak", "batch.stopping"),
    ("batch", "batch.records", "batch.series_index", "batch.events"),
    ("batch.sources", "batch.cases", "batch.output_folder"),
    ("batch.jobs",),
    ("batch.making",),
    ("batch.judging",),
    ("batch.work",),
    ("batch.worker", "batch.slots", "batch.finish"),
    ("batch.crew",),
    ("batch.driver",),
    ("batch.view", "batch.run_file", "batch.outlook", "batch.plans"),
    ("batch.rounds", "batch.dry_run", "batch.dask_task"),
    ("batch.inbox", "batch.dask_crew"),
    ("batch.command",),
    ("score_report", "comparison", "cohort"),
    ("comparison_report", "cohort_report"),
    ("look.cohort_page",),
    ("look.command",),
    ("starting", "given", "option_groups", "streams"),
    ("options", "predicting"),
    ("commands",),
    ("cli",),
    ("__main__", "__init__"),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
# Who catches broadly beside cli.py, and what.
BROAD = {
    "inspection": {"SegmateError"},  # says what predict would refuse
    "every_series": {"SegmateError"},  # one series' failure ends no other series
    "batch.worker": {"SegmateError", "Exception"},  # one case's failure ends no other case
}
HEAVY = ("numpy", "nibabel", "pydicom", "pydantic", "onnxruntime", "torch", "rich", "cc3d", "timm")


def name_of(path: Path) -> str:
    """``dicom.files`` for ``segmate_cli/dicom/files.py``, ``dicom`` for that package itself."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            head, _, rest = (node.module or "").partition(".")
            if head == "segmate_cli":
                full = [f"{rest}.{a.name}".lstrip(".") for a in node.names]
                found.update(name if name in NAMES else rest for name in full)
        elif isinstance(node, ast.Import):
            names = [alias.name.removeprefix("segmate_cli.") for alias in node.names]
            found.update(name for name in names if name in NAMES)
    return found - {""}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


@each_module
def test_lower_layers_never_import_higher_ones(path):
    own = name_of(path)
    assert own in LEVEL, f"give {own} its place in LAYERS"
    for name in imported(path):
        assert name in LEVEL, f"give {name} its place in LAYERS"
        assert LEVEL[name] < LEVEL[own], f"{own} may not import {name}"


def test_no_module_is_in_two_layers():
    assert len(LEVEL) == sum(map(len, LAYERS))


@each_module
def test_only_the_command_line_catches_broadly(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler) and path.name != "cli.py":
            caught = "everything" if node.type is None else ast.unparse(node.type)
            names = set(caught.replace("(", " ").replace(")", " ").replace(",", " ").split())
            broad = names & {"everything", "Exception", "BaseException", "SegmateError"}
            told = broad - BROAD.get(name_of(path), set())
            assert not told, f"{path.name}:{node.lineno} catches {caught}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            assert "Exception" not in map(ast.unparse, node.args), f"{path.name}:{node.lineno}"


@each_module
def test_input_is_never_checked_by_assert(path):
    found = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
    assert found == [], f"{path.name}: python -O drops these"


@each_module
def test_functions_are_annotated_and_fit_a_screen(path):
    for function in functions(path):
        where = f"{path.name}:{function.lineno} {function.name}"
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        arguments += [a for a in (function.args.vararg, function.args.kwarg) if a]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert bare == [], f"{where} leaves {bare} without a type"
        assert function.returns is not None, f"{where} does not say what it returns"
        body = function.body
        if ast.get_docstring(function) is not None:
            body = body[1:]
        first = function.lineno
        docstring = function.body[0].end_lineno - function.body[0].lineno + 1
        lines = function.end_lineno - first + 1 - (docstring if body != function.body else 0)
        assert lines <= 60, f"{where} has {lines} lines"


def test_the_map_of_the_code_names_every_module():
    named = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    top = [path for path in MODULES if path.parent == PACKAGE and not path.stem.startswith("__")]
    assert [path.name for path in top if f"`{path.name}`" not in named] == []
    folders = {path.parent.name for path in MODULES if path.parent != PACKAGE}
    assert [name for name in folders if f"`{name}/`" not in named] == []


@each_module
def test_modules_can_be_read_in_one_go(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 500


def loaded_after(code: str) -> list[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


PARSER = "import segmate_cli.cli\nsegmate_cli.cli.build_parser().format_help()"


@pytest.mark.parametrize("code", ["import segmate_cli", PARSER])
def test_help_loads_nothing_heavy(code):
    loaded = loaded_after(code)
    assert "segmate_cli" in loaded
    assert [name for name in HEAVY if name in loaded] == []
    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []


def test_the_heavy_are_seen_where_they_are_loaded():
    assert "numpy" in loaded_after("import segmate_cli\nsegmate_cli.Volume")


@pytest.mark.parametrize(
    "module", ["pipeline", "scans", "nifti", "measurement", "engines", "report"]
)
def test_what_reads_a_nifti_loads_no_engine_and_no_dicom(module):
    loaded = loaded_after(f"import segmate_cli.{module}")
    assert not {"onnxruntime", "torch", "pydicom", "nibabel", "rich", "timm"} & set(loaded)
