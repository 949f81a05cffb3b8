"""How one tenant's services are confined. Owns: the settings that the kernel hands down, and what a zygote prepares from them.

Never: takes a step itself.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Any, Final

from attrs import field, frozen

from solo_trio.runtimes.sandbox import landlock, numbers, policy, root, seccomp
from solo_trio.runtimes.sandbox.layers import LEVEL_FULL, Layers

_PID_MARK: Final = 0x5010C0DE
"""Stands for the pid in a program that was made before there is one."""


@frozen
class Plan:
    """`mount`: an existing directory that the new root may cover; `shown` and `hidden`: see `root.build`."""

    layers: Layers
    mount: str
    shown: tuple[str, ...]
    hidden: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Plan:
        """What `attrs.asdict` made, through JSON."""
        return cls(Layers(**given["layers"]), given["mount"], tuple(given["shown"]), tuple(given["hidden"]))


@frozen
class Prepared:
    """What every child of a zygote uses; made once."""

    layers: Layers
    rights: tuple[tuple[str, int], ...]
    _program: bytes = field(repr=False)

    @classmethod
    def of(cls, plan: Plan) -> Prepared:
        layers = plan.layers
        architecture = numbers.here()
        program = b""
        if layers.seccomp and architecture is not None:
            rules = policy.rules(own_files=layers.namespaces, pid=_PID_MARK)
            program = seccomp.program(rules, architecture)
        return cls(layers, _rights(plan), program)

    def program(self, pid: int) -> bytes:
        """The filter for a process that calls itself `pid`; empty: none."""
        return self._program.replace(struct.pack("=I", _PID_MARK), struct.pack("=I", pid))


def _rights(plan: Plan) -> tuple[tuple[str, int], ...]:
    if not plan.layers.landlock:
        return ()
    devices = [("/dev/null", landlock.USE)]
    if plan.layers.level == LEVEL_FULL or plan.layers.namespaces:
        return (("/", landlock.READ), (root.SCRATCH, landlock.OWN), *devices)
    return (
        *(
            (path, landlock.READ)
            for path in _without(plan.shown, root.places_of(plan.hidden, plan.shown))
            if path != "/dev/null"
        ),
        *devices,
    )


def _without(shown: Iterable[str], hidden: Iterable[str]) -> list[str]:
    """Landlock takes nothing back: a directory with something hidden in it becomes what else is in it."""
    found: list[str] = []
    for path in shown:
        inside = [each for each in hidden if root.is_within(each, path)]
        if not inside:
            found.append(path)
        elif path not in inside:
            found += _without((os.path.join(path, name) for name in sorted(os.listdir(path))), inside)
    return found
