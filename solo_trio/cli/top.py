"""`solo top`. Owns: which services are looked at and how they are shown, once or again and again. Never: changes anything."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from solo_trio.cli.showing import STYLES, show_json, show_table
from solo_trio.cli.texts import printable
from solo_trio.errors import Faulted, Rejected, SoloError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from solo_trio.client import SoloClient

ROWS_MAX: Final = 1_000
"""Services looked at, of however many there are."""
TENANTS_MAX: Final = 1_000
DETAILS_MAX: Final = 100
"""Services asked for what they use; of the others it is not shown."""
FAILURES_MAX: Final = 30
"""Looks in a row that found no server, before it gives up."""
FRAME_ROWS: Final = 4
"""Lines beside the services."""
HEADER: Final = ("TENANT", "SERVICE", "STATUS", "RESTARTS", "RSS MiB", "CPU %", "CPU s", "UPTIME")
LEAVE: Final = (b"q", b"Q", b"\x03", b"")
BUSY_FIRST: Final = ("given_up", "restarting", "starting", "stopping", "ready")

Row = dict[str, Any]


@define
class Looks:
    """Looks at the services, one after the other: what they used in between is their share of the processor."""

    client: SoloClient
    everything: bool
    more: int = 0
    """Services that were not looked at in the last look."""
    _cpu: dict[tuple[str, str], tuple[float, float]] = field(factory=dict)

    def look(self, details: int = DETAILS_MAX) -> list[Row]:
        tenant = self.client.tenant
        try:
            rows = list(self._listed())
            for row in rows[:details]:
                self._detail(row)
        finally:
            self.client.tenant = tenant
        return rows

    def _listed(self) -> Iterator[Row]:
        self.more, left = 0, ROWS_MAX
        for tenant in self._tenants():
            self.client.tenant = tenant
            try:
                page = self.client.services(limit=ROWS_MAX)
            except Rejected as error:
                if self.everything and error.code == "tenant_not_found":
                    continue  # it went meanwhile
                raise
            found = page["services"]
            order = {status: place for place, status in enumerate(BUSY_FIRST)}
            found.sort(key=lambda each: order.get(each["status"], len(order)))
            self.more += max(0, len(found) - left) + (page["next"] is not None)
            for each in found[:left]:
                yield {
                    "tenant_id": each.get("tenant_id", tenant),
                    **{name: each[name] for name in ("service_id", "status", "version", "restarts")},
                    **{name: each[name] for name in ("held", "waiting_for") if each.get(name)},
                    "rss_bytes": None,
                    "cpu_percent": None,
                    "cpu_s": None,
                    "uptime_s": None,
                }
            left -= min(left, len(found))

    def _tenants(self) -> list[str | None]:
        if not self.everything:
            return [self.client.tenant]
        return [each["tenant_id"] for each in self.client.tenants(limit=TENANTS_MAX)["tenants"]]

    def _detail(self, row: Row) -> None:
        self.client.tenant = row["tenant_id"]
        try:
            seen = self.client.status(row["service_id"])
        except Rejected as error:
            if error.code not in ("service_not_found", "tenant_not_found"):
                raise
            row["status"] = "gone"
            return
        usage, now = seen["usage"] or {}, time.monotonic()
        row["tenant_id"] = seen["tenant_id"]
        row["rss_bytes"], row["cpu_s"] = usage.get("rss_bytes"), usage.get("cpu_s")
        row["uptime_s"] = seen["uptime_s"] if seen["ready_since"] else None
        key = (seen["tenant_id"], seen["service_id"])
        if row["cpu_s"] is not None:
            before, then = self._cpu.get(key, (row["cpu_s"], now))
            if now > then and row["cpu_s"] >= before:
                row["cpu_percent"] = 100 * (row["cpu_s"] - before) / (now - then)
            self._cpu[key] = (row["cpu_s"], now)


def cells(row: Row) -> tuple[str, ...]:
    """A service as text, in the columns of `HEADER`."""

    def shown(value: float | None, form: str = ".1f", divided_by: float = 1) -> str:
        return "" if value is None else format(value / divided_by, form)

    status = f"{row['status']} (held)" if row.get("held") else row["status"]
    return (
        printable(row["tenant_id"] or ""),
        printable(row["service_id"]),
        printable(status),
        str(row["restarts"]),
        shown(row["rss_bytes"], divided_by=1 << 20),
        shown(row["cpu_percent"]),
        shown(row["cpu_s"], ".2f"),
        duration(row["uptime_s"]),
    )


def duration(seconds: float | None) -> str:
    """Like 12 s, 3:07, 5:03:07, 2 d 5:03."""
    if seconds is None:
        return ""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours}:{minutes:02}"
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


def show_once(client: SoloClient, *, everything: bool, as_json: bool) -> None:
    """One look."""
    looks = Looks(client, everything)
    rows = looks.look()
    if as_json:
        show_json({"services": rows, "more": looks.more > 0})
    else:
        show_table(HEADER, [cells(row) for row in rows])


def show_live(client: SoloClient, *, everything: bool, interval_s: float) -> None:
    """Look again and again, until a key says to leave; a server that is away for a while is waited for."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    looks = Looks(client, everything)
    rows: list[Row] = []
    failures = 0
    trouble = ""
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            room = max(1, console.height - FRAME_ROWS)
            try:
                rows = looks.look(min(room, DETAILS_MAX))
                failures, trouble = 0, ""
            except SoloError as error:
                failures += 1
                if failures > FAILURES_MAX or not isinstance(error, Faulted):
                    raise
                trouble = printable(f"{error.code}: {error.detail}")
            live.update(_screen(rows, room, looks.more, trouble), refresh=True)
            if pressed(interval_s):
                return


def _screen(rows: list[Row], room: int, more: int, trouble: str) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in HEADER:
        right = name in ("RESTARTS", "RSS MiB", "CPU %", "CPU s", "UPTIME")
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in rows[:room]:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells(row)))
    hidden = max(0, len(rows) - room)
    counts = f"{len(rows)} services" + (f", {hidden} not shown" if hidden else "") + (", and more" if more else "")
    last = Text(trouble, style="bold red", no_wrap=True) if trouble else Text("q leaves", style="dim")
    return Group(Text(f"{time.strftime('%H:%M:%S')}  {counts}", style="bold"), table, last)


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for so many seconds, or for a key, and says whether that means to leave."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([terminal], [], [], left)
            if readable and os.read(terminal, 1) in LEAVE:
                return True
        return False

    tty.setcbreak(terminal)
    try:
        yield pressed
    except KeyboardInterrupt:
        return
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
