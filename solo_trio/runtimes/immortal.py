"""Objects that nobody counts. Owns: making all that the ancestor has made immortal. Never: runs in a service.

Whoever looks at an object writes into it, how many look at it; and the first write to a page after a fork copies the page, for
3 to 4 µs. From Python 3.12 on an object may be immortal, so that its count is never written (PEP 683 names this use of it).
What the ancestor has made lives as long as any service anyway. It takes 1 ms, 330 copied pages and 1.3 MiB off each service.

There is no call for it before Python 3.15, so the count is written where it is: the first four bytes of the object, all ones.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any, Final

KNOWN: Final = ((3, 12), (3, 13))
"""Versions of CPython with this form of count. Elsewhere objects stay as they are, and services start a little later."""
_NOT_COUNTED: Final = 0xFFFF_FFFF


def immortalise() -> bool:
    """All objects that the collector knows, or one of those leads to; whether it could be done. Takes some 60 ms, once.

    But for numbers: half of all objects are numbers in tables that nobody looks at, and the small ones are immortal anyway.
    """
    if not _is_known():
        return False
    waiting: list[Any] = gc.get_objects()
    found: dict[int, Any] = {}
    while waiting:
        new = {id(each): each for each in waiting if id(each) not in found and type(each) is not int}
        found |= new
        waiting = gc.get_referents(*new.values())
    count = ctypes.c_uint32.from_address
    for address in found:
        count(address).value = _NOT_COUNTED
    return True


def _is_known() -> bool:
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in KNOWN:
        return False
    tried = object()
    ctypes.c_uint32.from_address(id(tried)).value = _NOT_COUNTED
    return sys.getrefcount(tried) == _NOT_COUNTED
