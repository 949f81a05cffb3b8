"""Rule `native_loading`. Owns: calling into native code by hand. Never: packages that have native parts of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.hardening.finding import Found, Rule
from solo_trio.hardening.module import Module
from solo_trio.hardening.rules.mentions import errors, mentions

_NAMES: Final = errors(
    "ctypes _ctypes cffi _cffi_backend cppyy numpy.ctypeslib imp.load_dynamic _imp.create_dynamic _imp.exec_dynamic"
    " importlib.machinery.ExtensionFileLoader sys.setdlopenflags mmap.PROT_EXEC"
)


def _look(module: Module) -> Iterable[Found]:
    return mentions(module, _NAMES, "{name} reaches into native code")


NATIVE_LOADING: Final = Rule(
    id="native_loading",
    levels=("error",),
    title="Native code is loaded or called by hand",
    why="A wrong pointer ends the whole service at once; the sandbox refuses libraries of one's own and executable memory.",
    remedy="Use a package that wraps the library and is installed beside Solo, or the standard library.",
    example='import ctypes\n\nlibc = ctypes.CDLL("libc.so.6")\n\n\ndef pid():\n    return libc.getpid()\n',
    better="import os\n\n\ndef pid():\n    return os.getpid()\n",
    look=_look,
)
