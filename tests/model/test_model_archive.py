"""Archives of several modules: what is read, what is refused, and that nothing makes the reader crash or expand too much."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.model import archive as module
from solo_trio.model.archive import Archive, ArchiveError, ArchiveTooLarge

SERVICE = {"service.py": b"from solo_trio import service\n"}


def packed(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.comment = comment
    return buffer.getvalue()


def of(*infos: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for info, content in infos:
            archive.writestr(info, content)
    return buffer.getvalue()


def renamed(path: str, other: bytes) -> bytes:
    """An archive with `path`, whose name in the bytes is `other`, as long as it."""
    assert len(path) == len(other)
    return packed({**SERVICE, path: b"x"}).replace(path.encode(), other)


def refusal(data: bytes) -> str:
    with pytest.raises(ArchiveError) as refused:
        Archive(data).check()
    return str(refused.value)


paths = st.lists(st.from_regex(r"[a-zA-Zäß_][a-z0-9_ü.-]{0,9}", fullmatch=True), min_size=1, max_size=4).map("/".join)


@settings(deadline=None)
@given(
    st.dictionaries(paths, st.binary(max_size=2_000), max_size=8),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.sampled_from([b"", b"a comment"]),
)
def test_it_reads_what_zipfile_wrote(files: dict[str, bytes], method: int, comment: bytes) -> None:
    names = sorted(files)
    if any(other.startswith(f"{name}/") for name in names for other in names):
        return
    if any(module._COMPILED.search(name) for name in names):
        return
    archive = Archive(packed(files, method, comment))
    assert list(archive.paths) == names
    assert {path: archive.read(path) for path in archive.paths} == files
    assert all(archive.size(path) == len(files[path]) and path in archive for path in names)


def test_sizes_after_the_data_as_streams_have_them() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.written += bytes(data)  # type: ignore[call-overload]
            return len(data)  # type: ignore[arg-type]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.writestr("service.py", b"x = 1\n" * 50)
        archive.mkdir("data")
        archive.writestr("data/a.json", b"{}")
    read = Archive(pipe.written)
    assert read.paths == ("data/a.json", "service.py") and read.read("service.py") == b"x = 1\n" * 50


@pytest.mark.parametrize(
    ("paths", "entry"),
    [
        (["service.py", "shop/service.py"], "service"),
        (["service/__init__.py"], "service"),
        (["shop/service.py", "shop/__init__.py", "other/__init__.py", "data/x.txt"], "shop.service"),
        (["a/service.py", "b/service.py"], None),
        (["main.py"], None),
        (["project-main/service.py"], None),
        ([], None),
    ],
)
def test_which_module_is_the_service(paths: list[str], entry: str | None) -> None:
    archive = Archive(packed(dict.fromkeys(paths, b"")))
    if entry is not None:
        assert archive.entry() == entry
    else:
        with pytest.raises(ArchiveError, match=r"service\.py"):
            archive.check()


def test_names_and_modules() -> None:
    archive = Archive(packed({**SERVICE, "a/b/c.py": b"", "data/x.json": b"{}", "not-one.py": b"", "a/y.txt": b""}))
    assert archive.top_level() == ["a", "service"]
    assert [path for path, _ in archive.modules()] == ["a/b/c.py", "not-one.py", "service.py"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("../x.py", "relative"),
        ("a/../../x.py", "relative"),
        ("/etc/x.py", "relative"),
        ("a//x.py", "relative"),
        ("./x.py", "relative"),
        ("a/./x.py", "relative"),
        ("a\nb.py", "control"),
        ("a\x7f.py", "control"),
        ("/".join("abcdefghijklmnopq") + ".py", "too long"),
        ("x" * 250, "too long"),
        ("native.so", "compiled"),
        ("a/native.cpython-311-x86_64-linux-gnu.so", "compiled"),
        ("libx.so.1.2", "compiled"),
        ("x.PYD", "compiled"),
        ("x.dll", "compiled"),
        ("x.dylib", "compiled"),
        ("__pycache__/x.cpython-311.pyc", "compiled"),
    ],
)
def test_a_path_that_is_refused(path: str, says: str) -> None:
    assert says in refusal(packed({**SERVICE, path: b""}))


def test_names_that_zipfile_would_not_write() -> None:
    assert "control" in refusal(renamed("aXb.py", b"a\0b.py"))
    assert "backslash" in refusal(renamed("aXb.py", b"a\\b.py"))
    assert "UTF-8" in refusal(renamed("aXb.py", b"a\xffb.py"))
    assert "twice" in refusal(renamed("servicf.py", b"service.py"))


def test_a_file_that_is_a_directory() -> None:
    assert "directory" in refusal(packed({**SERVICE, "a": b"", "a/b.py": b""}))
    assert "directory" in refusal(packed({**SERVICE, "a/b.py": b"", "a": b""}))
    assert "directory" in refusal(of((zipfile.ZipInfo("service.py"), b""), (zipfile.ZipInfo("a/"), b"contents")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices(kind: int) -> None:
    link = zipfile.ZipInfo("link.py")
    link.external_attr = (kind | 0o777) << 16
    assert "link" in refusal(of((zipfile.ZipInfo("service.py"), b""), (link, b"/etc/passwd")))


def test_encrypted_members_and_other_methods() -> None:
    plain = packed(SERVICE)
    at = plain.index(b"PK\1\2")
    assert "password" in refusal(plain[: at + 8] + b"\1" + plain[at + 9 :])
    assert "disagree" in refusal(plain[:6] + b"\1" + plain[7:])
    assert "not known" in refusal(packed(SERVICE, zipfile.ZIP_BZIP2))
    assert "not known" in refusal(packed(SERVICE, zipfile.ZIP_LZMA))


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {**SERVICE, **{f"m{number}.py": b"" for number in range(module.MEMBERS_MAX)}}
    with pytest.raises(ArchiveTooLarge, match="members"):
        Archive(packed(many))
    Archive(packed(dict(list(many.items())[:-1])))
    with pytest.raises(ArchiveTooLarge, match="bytes, and may have"):
        Archive(packed({**SERVICE, "x": bytes(module.ARCHIVE_BYTES_MAX)}, zipfile.ZIP_STORED))
    with pytest.raises(ArchiveTooLarge, match="packed size"):
        Archive(packed({**SERVICE, "zeros.bin": bytes(1_000_000)}))
    Archive(packed({**SERVICE, "zeros.bin": bytes(module.RATIO_FREE_BYTES)})).check()
    monkeypatch.setattr(module, "RATIO_MAX", 2_000)
    with pytest.raises(ArchiveTooLarge, match="expands to more"):
        Archive(packed({**SERVICE, "a.bin": bytes(5_000_000), "b.bin": bytes(5_000_000)}))


def test_a_member_that_says_less_than_it_is_expands_no_further() -> None:
    """The sizes in the directory are claims: what comes out is cut off one byte above them."""
    bomb = packed({**SERVICE, "bomb.bin": bytes(50_000_000)})
    small = bomb.replace(struct.pack("<L", 50_000_000), struct.pack("<L", 1_000))
    archive = Archive(small)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="damaged"):
        archive.check()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_members_that_overlap() -> None:
    """Many entries of one member: a bomb without any nesting."""
    whole = packed({"service.py": b"x = 1\n", "servicf.py": b"x = 1\n"}, zipfile.ZIP_STORED)
    first, second = whole.index(b"PK\1\2"), whole.rindex(b"PK\1\2")
    entry = whole[first:second]
    assert "twice" in refusal(whole[:second] + entry + whole[whole.index(b"PK\5\6") :])
    quoted = bytearray(whole)
    quoted[second + 42 : second + 46] = struct.pack("<L", 0)
    assert "disagree" in refusal(bytes(quoted))
    longer = bytearray(whole)  # the first member reaches into the second one
    longer[first + 20 : first + 28] = struct.pack("<LL", 40, 40)
    assert "overlap" in refusal(bytes(longer))


def test_what_is_before_and_after_it() -> None:
    whole = packed(SERVICE)
    for data in (b"", b"PK", b"#!/usr/bin/python\n" + whole, whole + b"x", whole[:-1], whole[5:], b"x" * 100):
        assert refusal(data)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_damaged_archive_is_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(packed({**SERVICE, "a/b.py": b"y = 2\n" * 30, "a/c.txt": b"data"}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for each in (bytes(whole), bytes(whole[:cut])):
        try:
            Archive(each).check()
        except ArchiveError as error:
            assert str(error)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_crash(content: bytes) -> None:
    with pytest.raises(ArchiveError):
        Archive(content)
    with pytest.raises(ArchiveError):
        Archive(content + packed({})).check()
