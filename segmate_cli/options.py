"""The options of each command: one function a command, without importing anything heavy."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from segmate_cli import __version__
from segmate_cli.errors import ExitCode
from segmate_cli.option_groups import (
    add_engine,
    add_gates,
    add_gpu,
    add_month,
    add_output,
    add_progress,
    add_scan,
    add_seg,
    at_least_one,
    at_least_zero,
    duration,
    some_path,
    words,
)

_SCAN = "a NIfTI file; a folder, file, .zip or .tar of DICOM; - for a list of files on stdin"
# report.FORMATS and schemas.SCHEMAS, without importing numpy for --help.
FORMATS = ("table", "csv", "tsv", "json")
SCHEMAS = ("report", "comparison", "cohort", "sidecar", "evaluate")
_LOOKS = ("html", "png", "glb", "stl")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    codes = "\n".join(f"  {int(code):2d}  {code.meaning}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="segmate",
        description="Segment organs in clinical CT and report their volumes. Not for diagnosis.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"segmate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    for add in _COMMANDS:
        add(commands, common)
    return parser


# argparse has no public name for it.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _predict(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "predict", parents=[common], help="segment a scan; prints the paths of what it wrote"
    )
    add.add_argument("scan", type=some_path, help=_SCAN)
    add.add_argument(
        *("-o", "--output"),
        action="append",
        type=some_path,
        required=True,
        help="label map: .nii.gz, .nii, or .dcm for a DICOM SEG, an RTSTRUCT where the name "
        "contains rtstruct or rtss; more than one with -o again",
    )
    add.add_argument(
        "--format", choices=("nifti", "seg", "rtstruct"), help="of one output, whatever its name"
    )
    add.add_argument("--organs", type=words, help="only these, such as liver,heart")
    add_engine(add)
    add_gpu(add)
    add_scan(add)
    add.add_argument(
        "--all-series",
        action="store_true",
        help="DICOM: each CT series; -o is a folder, or a name with {series} in it",
    )
    add.add_argument("--fast", action="store_true", help="every second slice, interpolated")
    add.add_argument(
        "--uncertainty",
        action="store_true",
        help="show the scan in three more ways, and give each volume an interval",
    )
    add.add_argument("--no-hu-check", action="store_true", help="take values that look unlike HU")
    add_gates(add)
    add_month(add)
    add.add_argument("--itksnap", action="store_true", help="also write ITK-SNAP's label file")
    add.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_seg(add)
    add_progress(add)


def _plan(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "plan", parents=[common], help="memory that predict will need for a scan; reads no voxel"
    )
    add.add_argument("scan", type=some_path, help=_SCAN)
    add_engine(add)
    add_gpu(add)
    add_scan(add)
    add.add_argument("--format", choices=("table", "json"), default="table")


def _batch(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "batch", parents=[common], help="segment many scans; loses none, repeats none"
    )
    add.add_argument(
        "inputs",
        nargs="*",
        type=some_path,
        help="folders of NIfTI, DICOM, .zip, .tar; files; .csv manifests; - is stdin",
    )
    add.add_argument(
        *("-o", "--output"), type=some_path, required=True, help="folder for results and state"
    )
    add.add_argument("--format", type=words, default=("nifti",), help="nifti,seg,sr,rtstruct,html")
    add.add_argument("--report", action="store_true", help="report.json for each case")
    add.add_argument("--parquet", action="store_true", help="cohort.parquet (needs [parquet])")
    add.add_argument("--jobs", type=at_least_one, default=1, help="worker processes")
    add.add_argument("--timeout", type=duration, default=1200.0, help="a case's, such as 20m")
    add.add_argument("--retries", type=at_least_zero, default=1, help="of crashes and the like")
    add.add_argument("--shard", metavar="I/N", help="only this part of the cases")
    add.add_argument(
        "--dask",
        metavar="WHERE",
        help="on a Dask cluster (needs [dask]): its address, local:N, or slurm:FILE (pbs:, sge:) "
        "with dask-jobqueue's options",
    )
    add.add_argument("--watch", action="store_true", help="go on: take scans as they come in")
    add.add_argument(
        "--quiet-for",
        type=duration,
        default=60.0,
        metavar="TIME",
        help="--watch: a scan is whole when nothing changed for so long; default 60s",
    )
    add.add_argument("--set-aside", metavar="FOLDER", help="--watch: move scans that failed here")
    add.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    add.add_argument("--merge", nargs="+", metavar="OUT", help="only join tables of these folders")
    add.add_argument("--mix", action="store_true", help="let other configurations' results stay")
    add.add_argument("--paranoid", action="store_true", help="read all inputs and outputs again")
    add.add_argument("--seg-type", choices=("binary", "labelmap"), help="of a DICOM SEG")
    add.add_argument("--seg-compress", action="store_true", help="deflate the DICOM SEG")
    add.add_argument("--uid-root", help="root of its UIDs; default 2.25")
    add.add_argument("--organs", type=words, help="only these, such as liver,heart")
    add.add_argument("--gates", metavar="FILE.toml", help="limits of one's own; see 'gates list'")
    add_month(add)
    add_engine(add)
    add.add_argument("--assume-ras", action="store_true", help="NIfTI without orientation is RAS")
    add.add_argument("--no-hu-check", action="store_true", help="take values that look unlike HU")
    styles = ("auto", "bar", "lines", "json", "none")
    add.add_argument("--progress", choices=styles, default="auto")
    add.add_argument("--quiet", action="store_true", help="no progress, no messages")


def _report(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "report", parents=[common], help="volumes of the organs in label maps"
    )
    add.add_argument(
        "labels",
        nargs="*",
        type=some_path,
        help="label maps; none or -: their paths come in by stdin",
    )
    add.add_argument("--organs", type=words, help="only these, such as 'left kidney,liver'")
    add.add_argument("--format", choices=(*FORMATS, "fhir", "dicom-sr", *_LOOKS))
    add_output(add, "; .html is a page, .png its pictures, .glb and .stl are meshes")
    add.add_argument("--ct", help="the scan that was segmented; adds mean and SD of HU")
    add.add_argument("--series", help="which series of --ct; default: the one a DICOM SEG names")
    add.add_argument(
        "--reference-dicom",
        metavar="PATH",
        help="DICOM SR of a NIfTI label map: the series that it lies on; default: --ct, or the "
        "one that the sidecar names",
    )
    add.add_argument("--uid-root", help="root of a DICOM SR's UIDs; default 2.25")
    add.add_argument("--with-identity", action="store_true", help="name the patient on a page")
    add.add_argument("--viewer", action="store_true", help="a viewer on a page; needs --ct")
    add.add_argument("--labels", dest="table", help="table of label values, .csv, .tsv or .json")
    add_gates(add)


def _evaluate(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "evaluate", parents=[common], help="score label maps against references (needs [evaluate])"
    )
    add.add_argument("predictions", type=some_path, help="a label map, or a folder of them")
    add.add_argument(
        "references", type=some_path, help="the references; matched by file name, organs by name"
    )
    add.add_argument(
        "--labels",
        dest="table",
        help="what the references' values mean, and those of predictions that do not say so; see "
        "docs/evaluate.md",
    )
    add.add_argument("--organs", type=words, help="only these")
    add.add_argument(
        "--count-absent",
        action="store_true",
        help="an organ without voxels in a reference is absent, not unlabelled",
    )
    add.add_argument("--format", choices=FORMATS)
    add_output(add)
    add_progress(add)


def _compare(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "compare", parents=[common], help="what changed between two label maps, or two runs"
    )
    add.add_argument(
        "a", type=some_path, help="a label map, or a folder of them, such as a batch's output"
    )
    add.add_argument("b", type=some_path, help="the other; in folders matched by name")
    add.add_argument(
        "--labels",
        dest="table",
        help="what the values of B mean, and of A where it does not say so; see docs/evaluate.md",
    )
    add.add_argument("--organs", type=words, help="only these")
    add.add_argument("--format", choices=FORMATS)
    add_output(add)
    add_progress(add)


def _cohort(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "cohort", parents=[common], help="a batch as a whole: distributions, outliers, drift"
    )
    add.add_argument("out", type=some_path, help="the output folder of segmate batch")
    add.add_argument("--reference", metavar="OUT", help="another batch's, to tell drift from")
    add.add_argument("--format", choices=(*FORMATS, "html"))
    add_output(add, "; .html is a page")


def _inspect(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "inspect", parents=[common], help="what segmate sees in a file or folder, before it runs"
    )
    add.add_argument("path", type=some_path, help=_SCAN)
    add.add_argument("--format", choices=("table", "json"), default="table")


def _dicom(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "dicom", parents=[common], help="check a DICOM SEG, SR or RTSTRUCT, of whomever"
    )
    add.add_argument("action", choices=("check",))
    add.add_argument("files", nargs="+", type=some_path, help="DICOM SEG, SR or RTSTRUCT")
    add.add_argument(
        "--reference-dicom", metavar="PATH", help="the series that they lie on, to compare places"
    )
    add.add_argument("--format", choices=("table", "json"), default="table")


def _gates(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "gates", parents=[common], help="rules that ask for a review: limits, sources, reasons"
    )
    add.add_argument("action", choices=("list", "explain"), nargs="?", default="list")
    add.add_argument("rule", nargs="?", help="of explain: the rule's id")
    add.add_argument("--gates", metavar="FILE.toml", help="with the limits of this file")
    add.add_argument("--format", choices=("table", "json"), default="table")


def _models(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "models", parents=[common], help="installed models: origin, organs, licence, hashes"
    )
    actions = ("list", "show", "verify")
    add.add_argument("action", choices=actions, nargs="?", default="list")
    add.add_argument("model", nargs="?", help="name or path; by default the default model")


def _convert(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "convert", parents=[common], help="turn a SegMate checkpoint into a bundle (needs [torch])"
    )
    add.add_argument("checkpoint", type=some_path, help="a .pth file of the published layout")
    add.add_argument(
        *("-o", "--output"), type=some_path, required=True, help="the bundle's folder, made anew"
    )
    add.add_argument("--to", type=words, default=("onnx",), help="onnx,torchscript,pt2")
    add.add_argument("--recipe", help="JSON: organs, preprocessing and licence of the model")
    add.add_argument("--encoder", help="timm name; by default recognised from the tensors")
    add.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of storage")
    add.add_argument("--name", help="the bundle's name; by default the recipe's")
    add.add_argument("--overwrite", action="store_true", help="replace a bundle that exists")
    add.add_argument("--quiet", action="store_true", help="no messages")


def _schema(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "schema", parents=[common], help="print the JSON schema of what a command writes"
    )
    add.add_argument("name", choices=SCHEMAS)


def _doctor(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    commands.add_parser(
        "doctor", parents=[common], help="engines, devices, memory, versions: for bug reports"
    )


def _completion(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    add = commands.add_parser(
        "completion", parents=[common], help="print a shell's completion script"
    )
    add.add_argument("shell", choices=("bash", "zsh", "tcsh"))


_COMMANDS = (
    *(_predict, _plan, _batch, _report, _evaluate, _compare, _inspect, _dicom, _gates, _models),
    *(_convert, _cohort, _schema, _doctor, _completion),
)
