"""The modules of an archive, imported from memory. Owns: finding and loading them, for one service in its process. Never:
writes a file, or lets one of them stand in for what the host has imported or Python brings.

They are where a program's own directory would be: first in `sys.path`, under a name that no directory has, so that
packages, relative imports, `pkgutil.get_data`, `importlib.resources` and source lines in tracebacks work as ever.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import linecache
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import IO, Any, Final

from attrs import frozen

from solo_trio.model.archive import Archive, ArchiveError

NAMES_SHOWN: Final = 5
_NEVER_IMPORTED: Final = "__main__"
"""What `python -m` runs: a service may have one to be tried out with, and nothing here imports it."""


def load(data: bytes, place: str) -> dict[str, Any]:
    """Import the service that is in an archive; `place` is what its files are said to be in. Returns the module's globals.

    Raises `ImportError` for an archive that cannot be one, and whatever its modules raise.
    """
    try:
        archive = Archive(data)
        entry = archive.entry()
    except ArchiveError as error:
        raise ImportError(str(error)) from None
    taken = sys.stdlib_module_names | sys.modules.keys()
    hiding = [name for name in archive.top_level() if name in taken and name != _NEVER_IMPORTED]
    if hiding:
        names = ", ".join(hiding[:NAMES_SHOWN])
        raise ImportError(f"rename these modules, whose names Python or Solo itself uses: {names}")
    tree = _Tree(archive, place)
    sys.path_hooks.insert(0, tree.finder)
    sys.path_importer_cache.pop(place, None)
    sys.path.insert(0, place)
    __import__(entry)
    return sys.modules[entry].__dict__


class _Tree:
    """The archive as directories: "" is the one at the top."""

    def __init__(self, archive: Archive, place: str) -> None:
        self.archive = archive
        self.place = place
        self._children: dict[str, set[str]] = {"": set()}
        """Names in each directory."""
        self._with_modules: set[str] = set()
        """Directories that have a module somewhere below."""
        for path in archive.paths:
            below = path
            while below:
                above, _, name = below.rpartition("/")
                self._children.setdefault(above, set()).add(name)
                if path.endswith(".py"):
                    self._with_modules.add(above)
                below = above

    def finder(self, entry: str) -> _Finder:
        """A hook for `sys.path_hooks`."""
        if entry != self.place and not entry.startswith(f"{self.place}/"):
            raise ImportError(f"{entry} is not in the archive")
        folder = entry[len(self.place) + 1 :]
        if folder not in self._children:
            raise ImportError(f"{entry} is no directory of the archive")
        return _Finder(self, folder)

    def is_folder(self, path: str) -> bool:
        return path in self._children

    def is_package(self, path: str) -> bool:
        """With or without an `__init__.py`. One at the top needs a module in it: data is nobody's import."""
        return path in self._children and ("/" in path or path in self._with_modules)

    def names(self, folder: str) -> list[str]:
        return sorted(self._children[folder])


class _Finder(importlib.abc.PathEntryFinder):
    """What is in one directory."""

    def __init__(self, tree: _Tree, folder: str) -> None:
        self._tree = tree
        self._folder = folder

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        tree, name = self._tree, fullname.rpartition(".")[2]
        base = f"{self._folder}/{name}" if self._folder else name
        for path, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
            if path in tree.archive:
                return self._spec(fullname, _Loader(tree, path, base if is_package else None))
        return self._spec(fullname, _Loader(tree, None, base)) if tree.is_package(base) else None

    def _spec(self, fullname: str, loader: _Loader) -> importlib.machinery.ModuleSpec:
        spec = importlib.machinery.ModuleSpec(fullname, loader, is_package=loader.folder is not None)
        if loader.folder is not None:
            spec.submodule_search_locations = [f"{self._tree.place}/{loader.folder}"]
        if loader.path is not None:
            spec.origin = f"{self._tree.place}/{loader.path}"
            spec.has_location = True  # so the module has its `__file__`
        return spec

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """For `pkgutil.iter_modules`."""
        for name in self._tree.names(self._folder):
            path = f"{self._folder}/{name}" if self._folder else name
            if self._tree.is_package(path) and name.isidentifier():
                yield prefix + name, True
            elif name.endswith(".py") and name != "__init__.py" and name.removesuffix(".py").isidentifier():
                yield prefix + name.removesuffix(".py"), False


class _Loader(importlib.abc.InspectLoader):
    """One module: the file `path`, the package `folder`, or both."""

    def __init__(self, tree: _Tree, path: str | None, folder: str | None) -> None:
        self._tree = tree
        self.path = path
        self.folder = folder

    def is_package(self, fullname: str) -> bool:
        return self.folder is not None

    def get_filename(self, fullname: str) -> str:
        return f"{self._tree.place}/{self.path or self.folder}"

    def get_source(self, fullname: str) -> str:
        return "" if self.path is None else importlib.util.decode_source(self._read(self.path))

    def exec_module(self, module: ModuleType) -> None:
        if self.path is None:
            return
        filename, source = self.get_filename(module.__name__), self.get_source(module.__name__)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what this process is for

    def get_data(self, path: str) -> bytes:
        """For `pkgutil.get_data`. Raises OSError."""
        inside = path.removeprefix(f"{self._tree.place}/")
        if inside == path or inside not in self._tree.archive:
            raise FileNotFoundError(f"the archive has no file '{inside}'")
        return self._read(inside)

    def get_resource_reader(self, fullname: str) -> _Resources | None:
        """For `importlib.resources`."""
        return None if self.folder is None else _Resources(_Resource(self._tree, self.folder))

    def _read(self, path: str) -> bytes:
        try:
            return self._tree.archive.read(path)
        except ArchiveError as error:
            raise ImportError(str(error)) from None


@frozen
class _Resources:
    """What `importlib.resources` asks for a package's files."""

    folder: _Resource

    def files(self) -> _Resource:
        return self.folder


@frozen
class _Resource:
    """A file or directory of the archive, as `importlib.resources.abc.Traversable`."""

    _tree: _Tree
    _path: str

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    def is_dir(self) -> bool:
        return self._tree.is_folder(self._path)

    def is_file(self) -> bool:
        return self._path in self._tree.archive

    def iterdir(self) -> Iterator[_Resource]:
        if not self.is_dir():
            raise NotADirectoryError(f"{self} is no directory")
        for name in self._tree.names(self._path):
            yield self.joinpath(name)

    def joinpath(self, *descendants: str) -> _Resource:
        parts = [part for each in descendants for part in str(each).split("/") if part not in ("", ".")]
        return _Resource(self._tree, "/".join([self._path, *parts]))

    def __truediv__(self, child: str) -> _Resource:
        return self.joinpath(child)

    def __str__(self) -> str:
        return f"{self._tree.place}/{self._path}"

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        if mode not in ("r", "rb"):
            raise ValueError(f"the archive is read only: 'r' or 'rb', not {mode!r}")
        stream = io.BytesIO(self.read_bytes())
        return stream if mode == "rb" else io.TextIOWrapper(stream, *args, **kwargs)

    def read_bytes(self) -> bytes:
        if self.is_dir():
            raise IsADirectoryError(f"{self} is a directory")
        if not self.is_file():
            raise FileNotFoundError(f"the archive has no file '{self._path}'")
        return self._tree.archive.read(self._path)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")
