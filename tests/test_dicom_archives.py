"""Series out of .tar, .tar.gz and lists of files, in place; what could harm is refused."""

from __future__ import annotations

import gzip
import io
import random
import sys
import tarfile
import time
from pathlib import Path

import pytest
from dicom_maker import PATIENT, Recipe, make_series
from test_dicom import assert_equals, load, refusal

from segmate_cli.dicom import FileList, archives, choose_series, find_series, read_series
from segmate_cli.dicom.files import open_store
from segmate_cli.errors import InputError, UnreadableError

MODES = ["w", "w:gz"]


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w", **extra: int) -> Path:
    with tarfile.open(path, mode, **({"compresslevel": 1} if "gz" in mode else {})) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {f"deep/{p.name}": p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("mode", MODES)
def test_a_tar_is_read_in_place(tmp_path, mode):
    made = make_series(tmp_path / "ct")
    members = {"readme": b"hello" * 50, "nil": b"", "a" * 150: b"text", **files_of(made.folder)}
    path = tar_of(tmp_path / "any.name", members, mode)
    before = sorted(tmp_path.rglob("*"))
    finding = find_series(path)
    assert (finding.not_dicom, finding.skipped) == (("readme", "a" * 150), (("nil", "empty"),))
    assert_equals(read_series(finding, choose_series(finding)), made)
    assert sorted(tmp_path.rglob("*")) == before


def test_gzip_gives_any_place_of_its_content_at_any_time(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_CHECKPOINT_BYTES", 5000)
    random_ = random.Random(1)
    content = b"".join(random_.randbytes(200) + bytes(300) for _ in range(400))
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(content[:90_000]) + gzip.compress(content[90_000:]) + bytes(70))
    with path.open("rb") as file:
        stream = archives._SeekableGzip(path, file)
        for _ in range(150):
            start, size = random_.randrange(len(content)), random_.randrange(1, 9000)
            assert (
                archives._Window(stream, archives.threading.Lock(), start, size).take(size)
                == (content[start : start + size])
            )
        assert len(stream._points) > 20


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "C:/evil", "..\\evil"])
def test_a_member_that_leads_out_is_refused(tmp_path, name, mode):
    path = tar_of(tmp_path / "a.tar", {"fine": b"x" * 300, name: b"x" * 300}, mode)
    assert "leads out of the archive" in refusal(path, InputError)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("it")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert "is a link, device or pipe" in refusal(tmp_path / "a.tar", InputError)


def test_bombs_are_refused_before_they_unpack(tmp_path, monkeypatch):
    member = tarfile.TarInfo("zeros")
    member.size = 400 << 20
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(member.tobuf())
        for _ in range(100):
            file.write(bytes(1 << 20))  # cut: the rest would never be read
    start = time.perf_counter()
    assert "times its size" in refusal(tmp_path / "bomb.tar.gz", InputError)
    assert time.perf_counter() - start < 5
    members = {f"{n}": random.randbytes(5000) for n in range(20)}
    for mode in MODES:
        small = tar_of(tmp_path / "small.tar", members, mode)
        with monkeypatch.context() as patch:
            patch.setattr(archives, "MAX_FILES", 19)
            assert "more than 19 members" in refusal(small, InputError)
        with monkeypatch.context() as patch:
            patch.setattr(archives, "MAX_FILE_BYTES", 4999)
            assert "unpacks to" in refusal(small, InputError)
        with monkeypatch.context() as patch:
            patch.setattr(archives, "MAX_UNPACKED_BYTES", 99_999)
            assert "pack one study alone" in refusal(small, InputError)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        header("back", -512),  # would be read for ever
        header("long", 8 << 30, tarfile.XHDTYPE),  # would be read into memory
        header("long", 8 << 30, tarfile.GNUTYPE_LONGNAME),
        header("a", 512, tarfile.XHDTYPE) + bytes(512) + header("a", 100),
        header("a", 600) + bytes(700),
    ],
    ids=["negative size", "huge pax header", "huge long name", "pax of nothing", "cut"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_headers_that_lie_do_no_harm(tmp_path, content, packed):
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(content) if packed else content)
    start = time.perf_counter()
    message = refusal(path, InputError)
    assert time.perf_counter() - start < 5
    assert "a.tar" in message


@pytest.mark.parametrize("mode", MODES)
def test_mutated_tars_end_in_one_sentence_or_are_read(tmp_path, mode):
    made = make_series(tmp_path / "ct", Recipe(shape=(3, 8, 8)))
    content = tar_of(tmp_path / "a.tar", files_of(made.folder), mode).read_bytes()
    random_ = random.Random(7)
    outcomes, told = set(), []
    for _ in range(60):
        changed = bytearray(content[: random_.choice((len(content), random_.randrange(600, 4000)))])
        for _ in range(random_.choice((0, 1, 5))):
            changed[random_.randrange(len(changed))] = random_.randrange(256)
        path = tmp_path / "b.tar"
        path.write_bytes(changed)
        try:
            load(path)
            outcomes.add("read")
        except InputError as error:
            outcomes.add("refused")
            told.append(str(error))
    assert outcomes == {"read", "refused"}
    assert PATIENT not in " ".join(told)


def test_a_gzip_file_that_holds_no_tar_is_no_dicom(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"just text" * 100))
    assert "not DICOM" in refusal(tmp_path / "a.gz", UnreadableError)


def test_a_list_of_files_is_taken_as_it_is(tmp_path):
    made = make_series(tmp_path / "ct")
    listed = [made.folder / name for name in made.files.values()]
    listed += [listed[0], tmp_path / "gone", tmp_path]
    finding = find_series(FileList(tuple(listed)))
    assert [reason for _, reason in finding.skipped] == [
        f"the same file as {listed[0]}",
        "cannot be opened: No such file or directory",
        "not a regular file",
    ]
    assert_equals(read_series(finding, choose_series(finding)), made)
    with open_store(FileList((tmp_path / "gone",))) as store:
        assert store.names == ()
    assert "list of files" in str(refusal_of_list(tmp_path / "gone"))


def refusal_of_list(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        choose_series(find_series(FileList((path, path))))
    return str(caught.value)


def test_a_list_comes_through_stdin(tmp_path, run, monkeypatch, tiny_bundle):
    made = make_series(tmp_path / "ct")
    lines = "".join(f"{made.folder / name}\n" for name in made.files.values())
    command = ("predict", "-", "-o", tmp_path / "o.nii.gz", "--model", tiny_bundle, "--no-hu-check")
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, err = run(*command)
    assert (code, out.strip()) == (0, str(tmp_path / "o.nii.gz")), err
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code, out, _ = run("inspect", "-")
    assert code == 0
    assert "path: the list of files on stdin" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{made.folder}\n"))
    assert run("inspect", "-")[0] == 0  # one line is as good as the path itself
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run(*command, "--overwrite")[0] == 2
