"""A disk that loses power. Owns: what of the steps so far is on it, whatever the hardware chose. Never: opens a data directory.

What an fsync forced out stays. Of the rest, each mode keeps something else:

- `none`: nothing at all.
- `all`: everything, as after a kill of the process alone.
- `random`: writes reach the disk in any order or not at all, by whole writes, by pages or by sectors; so do sizes and names.
- `torn`: everything, but of the last write some sectors only; at the end of a file it may be cut anywhere.

A sector is written whole or not at all: what is shorter and within one is never torn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from attrs import define, field
from fault_trace import Step

SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4_096
Mode = Literal["none", "all", "random", "torn"]
MODES: Final[tuple[Mode, ...]] = ("none", "all", "random", "torn")
Image = dict[str, bytes]
"""The files of a data directory."""


@define(eq=False)
class Node:
    """A file, whatever its name."""

    durable: bytearray = field(factory=bytearray)
    current: bytearray = field(factory=bytearray)
    pending: list[tuple[int, Step]] = field(factory=list)
    """Writes and truncations that no fsync forced out, with the number of the step."""

    def take(self, number: int, step: Step) -> None:
        self.pending.append((number, step))
        _apply(self.current, step)

    def sync(self, until: int) -> None:
        forced = [step for number, step in self.pending if number < until]
        for step in forced:
            _apply(self.durable, step)
        self.pending = self.pending[len(forced) :]


def _apply(content: bytearray, step: Step) -> None:
    if step.kind == "truncate":
        _resize(content, step.offset)
        return
    end = step.offset + len(step.data)
    if len(content) < step.offset:
        _resize(content, step.offset)
    content[step.offset : end] = step.data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


Change = list[tuple[str, Node | None]]
"""Names that appear (with their file) or vanish together."""


class Disk:
    """One data directory."""

    def __init__(self) -> None:
        self._durable: dict[str, Node] = {}
        self._current: dict[str, Node] = {}
        self._changes: list[tuple[int, Change]] = []
        """Of names, that no fsync of their directory forced out."""
        self._last: tuple[Node, Step] | None = None
        """The newest step, if it is a write."""
        self.number = 0

    def take(self, step: Step) -> None:
        """One step on."""
        number, self.number = self.number, self.number + 1
        if step.kind == "mark":
            return  # it changes nothing: what was written last can still be torn
        self._last = None
        match step.kind:
            case "create":
                self._change(number, [(step.path, Node())])
            case "write" | "truncate":
                node = self._current.get(step.path)
                if node is None:
                    return  # it was removed, and is still written by who has it open
                node.take(number, step)
                if step.kind == "write":
                    self._last = node, step
            case "sync":
                if step.path in self._current:
                    self._current[step.path].sync(step.began)
            case "sync_directory":
                self._sync_names(step.path, step.began)
            case "rename":
                self._change(number, [(step.path, None), (step.to, self._current[step.path])])
            case "link":
                self._change(number, [(step.to, self._current[step.path])])
            case "unlink":
                if step.path in self._current:
                    self._change(number, [(step.path, None)])
            case "mkdir":
                pass

    def _change(self, number: int, change: Change) -> None:
        self._changes.append((number, change))
        _rename(self._current, change)

    def _sync_names(self, directory: str, until: int) -> None:
        kept = []
        for number, change in self._changes:
            if number < until and any(_directory_of(name) == directory for name, _ in change):
                _rename(self._durable, change)
            else:
                kept.append((number, change))
        self._changes = kept

    @property
    def unsynced(self) -> bool:
        return bool(self._changes) or any(node.pending for node in self._current.values())

    def image(self, mode: Mode, chance: random.Random) -> Image:
        """What is found after the power came back."""
        if mode == "none":
            return {name: bytes(node.durable) for name, node in self._durable.items()}
        if mode == "random":
            names = self._random_names(chance)
            contents = {id(node): _random_content(node, chance) for node in names.values()}
            return {name: contents[id(node)] for name, node in names.items()}
        torn = self._last if mode == "torn" else None
        return {
            name: _torn(node, torn[1], chance) if torn is not None and node is torn[0] else bytes(node.current)
            for name, node in self._current.items()
        }

    @property
    def can_tear(self) -> bool:
        """Whether the newest step is a write that may be cut."""
        if self._last is None:
            return False
        node, step = self._last
        return bool(node.pending) and len(step.data) > 0

    def _random_names(self, chance: random.Random) -> dict[str, Node]:
        names = dict(self._durable)
        if chance.random() < 0.5:  # a journal of names keeps their order
            changes: Sequence[tuple[int, Change]] = self._changes[: chance.randint(0, len(self._changes))]
        else:
            changes = [each for each in self._changes if chance.random() < 0.7]
        for _, change in changes:
            _rename(names, change)
        return names


def _directory_of(name: str) -> str:
    return name.rpartition("/")[0]


def _rename(names: dict[str, Node], change: Change) -> None:
    for name, node in change:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _random_content(node: Node, chance: random.Random) -> bytes:
    content = bytearray(node.durable)
    steps = [step for _, step in node.pending]
    if not steps:
        return bytes(content)
    grain = chance.choice((0, PAGE_BYTES, SECTOR_BYTES))
    if grain == 0:
        share = chance.choice((0.2, 0.5, 0.9))
        for step in steps:
            if chance.random() < share:
                _apply(content, step)
        return bytes(content)
    # Each grain is as it was at some moment since it was forced out, and so is the size.
    moments: dict[int, int] = {}
    sizes = [len(node.durable)]
    for position, step in enumerate(steps):
        if step.kind == "truncate":
            sizes.append(step.offset)
            continue  # it happens or not: file systems write a size and what is freed by it together
        sizes.append(max(sizes[-1], step.offset + len(step.data)))
        for at, (begin, part) in _grains(step, grain):
            if at not in moments:
                moments[at] = _moment(chance, len(steps))
            if position >= moments[at]:
                continue
            if len(content) < at * grain + grain:
                _resize(content, at * grain + grain)
            content[begin : begin + len(part)] = part
    _resize(content, sizes[_moment(chance, len(steps))])
    return bytes(content)


def _moment(chance: random.Random, last: int) -> int:
    choice = chance.random()
    return last if choice < 0.5 else 0 if choice < 0.7 else chance.randint(0, last)


def _grains(write: Step, grain: int) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """The parts of a write that are in one grain each: its number, where it begins, its bytes."""
    begin, end = write.offset, write.offset + len(write.data)
    while begin < end:
        at = begin // grain
        stop = min(end, (at + 1) * grain)
        yield at, (begin, write.data[begin - write.offset : stop - write.offset])
        begin = stop


def _torn(node: Node, last: Step, chance: random.Random) -> bytes:
    """With all but the end, the beginning, or some sectors of the last write."""
    content = bytearray(node.durable)
    for _, step in node.pending[:-1]:
        _apply(content, step)
    end = last.offset + len(last.data)
    if len(content) <= last.offset and chance.random() < 0.5:
        cut = chance.randrange(len(last.data))
        _apply(content, Step("write", last.path, offset=last.offset, data=last.data[:cut]))
        return bytes(content)
    sectors = range(last.offset // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1)
    cut = chance.randrange(len(sectors))
    how = chance.randrange(3)
    for index, sector in enumerate(sectors):
        kept = (index < cut, index > cut, chance.random() < 0.5)[how]
        if kept:
            begin, stop = max(last.offset, sector * SECTOR_BYTES), min(end, (sector + 1) * SECTOR_BYTES)
            part = last.data[begin - last.offset : stop - last.offset]
            _apply(content, Step("write", last.path, offset=begin, data=part))
    return bytes(content)
