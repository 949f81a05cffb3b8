"""Network access of services, in the kernel. Owns: who may connect where, at this moment, and the bounds of it. Never: patches.

A service has no sockets of its own: it asks by host and port (`wire.Connect`). What it may reach is looked up when it asks,
again when the connection is there, and whenever it changes. A name is looked up here, and the very address that was checked is
connected to: a second answer of the name's server changes nothing. What the service gets is one end of a pair of Unix sockets,
never the connection itself, which it could turn to another address; `egress_pump` carries the bytes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import resource
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from solo_trio.policy.addresses import Address, is_public, parse_address
from solo_trio.policy.bucket import Bucket
from solo_trio.policy.egress import PORT_MAX, host_name
from solo_trio.ports import Launch
from solo_trio.runtimes.egress_pump import Pump

CONNECTIONS_PER_SERVICE_MAX: Final = 64
"""Those that are being made among them."""
CONNECTIONS_PER_TENANT_MAX: Final = 512
CONNECTIONS_MAX: Final = 2_048
"""In all; each takes two descriptors of the kernel, which keeps most of those that it may have for other things."""
DESCRIPTORS_SHARE: Final = 8
LOOKUPS_MAX: Final = 16
LOOKUPS_PER_TENANT_MAX: Final = 4
"""Names that are looked up at a time. Each takes a thread, until the resolver answers, whoever still waits for it."""
CONNECT_S_MAX: Final = 30.0
"""From asking to being connected."""
ATTEMPT_S_MAX: Final = 5.0
"""For one address of a name that has more of them."""
ADDRESSES_MAX: Final = 8
"""Addresses of one name that are tried."""
BYTES_PER_S: Final = 64 * 1024 * 1024
BURST_BYTES: Final = 16 * 1024 * 1024
"""What is carried for one service, both ways: the kernel's other work has its turn beside it."""
IDLE_S_MAX: Final = 900.0
"""A connection over which nothing goes for so long is cut."""
SWEEP_S: Final = 1.0
"""Between looks at what is idle, and at what the service has closed."""
REFUSALS_EVERY_S: Final = 10.0
"""Refused connections are one line of the service's log, and then one line for all of so long a time."""

Resolve = Callable[[str, int], Sequence[str]]
"""(name, port) -> addresses; blocks, raises OSError (`socket.gaierror`)."""


class Refused(Exception):
    """No connection: `error` and `detail` as in `wire.Connected`."""

    def __init__(self, error: int, detail: str, *, by_policy: bool = False) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.by_policy = by_policy


def look_up(name: str, port: int) -> list[str]:
    """The addresses of a name, as the machine's resolver gives them."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Egress:
    """What all services share: places for connections and lookups, and the resolver."""

    def __init__(self, resolve: Resolve = look_up) -> None:
        self.resolve = resolve
        self.connections: Counter[str] = Counter()
        """Of each tenant's incarnation."""
        self._own_lookups: dict[str, trio.CapacityLimiter] = {}
        self.lookups: trio.CapacityLimiter | None = None

    def limiter(self) -> trio.CapacityLimiter:
        if self.lookups is None:
            self.lookups = trio.CapacityLimiter(LOOKUPS_MAX)
        return self.lookups

    def places(self, incarnation: str) -> Any:
        """A limiter for a lookup: a place of the tenant's and one of all."""
        own = self._own_lookups.setdefault(incarnation, trio.CapacityLimiter(LOOKUPS_PER_TENANT_MAX))
        return _Lookups(own, self.limiter())

    def is_full(self, incarnation: str) -> bool:
        """Whether the tenant, or all of them, have as many connections as they may."""
        most = min(CONNECTIONS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // DESCRIPTORS_SHARE)
        return self.connections[incarnation] >= CONNECTIONS_PER_TENANT_MAX or self.connections.total() >= most


class _Lookups:
    """A place of the tenant's and one of all: as a limiter for a thread, which keeps both until it has ended."""

    def __init__(self, own: trio.CapacityLimiter, shared: trio.CapacityLimiter) -> None:
        self._own = own
        self._shared = shared

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._own.acquire_on_behalf_of(borrower)
        try:
            await self._shared.acquire_on_behalf_of(borrower)
        except BaseException:
            self._own.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._shared.release_on_behalf_of(borrower)
        self._own.release_on_behalf_of(borrower)


class Door:
    """The network access of one service. All but `connect` and `sweep` is done at once."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._shared = Egress()
        self._making = 0
        self._pumps: set[Pump] = set()
        self._bytes = {"in": 0, "out": 0}
        self._bucket = Bucket(BYTES_PER_S, BURST_BYTES, BURST_BYTES, -math.inf)
        self._refused = 0
        self._last_refusal: dict[str, Any] = {}
        self._silent_until = -math.inf

    def share(self, shared: Egress) -> None:
        """Before the first connection: count with all others."""
        self._shared = shared

    def usage(self) -> dict[str, float]:
        return {
            "egress_bytes_in": self._bytes["in"],
            "egress_bytes_out": self._bytes["out"],
            "egress_connections": len(self._pumps),
        }

    def reconsider(self) -> None:
        """What it may reach has changed: cut what it no longer may. What is being made is looked at when it is there."""
        reach = self._launch.egress()
        for pump in self._pumps:
            if not reach.admits(pump.host, pump.address, pump.port):
                pump.cut()

    def check(self, host: str, port: int) -> str:
        """The host as lists compare it. Raises `Refused` at once for whatever needs no lookup to be refused."""
        name = host_name(host)
        if name is None or not 0 < port <= PORT_MAX:
            raise self._refusal(host[:255], port, f"{host[:255]!r} port {port} is no host and port to connect to")
        address = parse_address(name)
        reach = self._launch.egress()
        shown = _shown(name, port)
        own = reach.own.admits_name(name, port) if address is None else None
        if own is None and address is not None:
            own = reach.own.admits_address(address, port, named=False)
        if not own:
            raise self._refusal(
                name,
                port,
                f"{shown} is not in the egress list of this service: deploy it with egress=[{shown!r}] among its entries,"
                f' or PATCH /services/{self._launch.service_id} with {{"egress": [...]}}',
            )
        if not (reach.admits_name(name, port) if address is None else reach.admits(name, address, port)):
            raise self._refusal(name, port, f"the operator's setting egress_allowed does not cover {shown}")
        if len(self._pumps) + self._making >= CONNECTIONS_PER_SERVICE_MAX:
            raise Refused(errno.EMFILE, f"overloaded: {CONNECTIONS_PER_SERVICE_MAX} connections are open: close some")
        if self._shared.is_full(self._launch.incarnation):
            raise Refused(errno.EAGAIN, "overloaded: all services together have too many connections: try again later")
        return name

    async def connect(self, name: str, port: int, timeout_s: float) -> tuple[Pump, socket.socket]:
        """A pump that is to be `run`, and the end for the service. `name`: from `check`, just before. Raises `Refused`."""
        self._making += 1
        self._shared.connections[self._launch.incarnation] += 1
        kept = False
        try:
            with trio.move_on_after(timeout_s if 0 <= timeout_s <= CONNECT_S_MAX else CONNECT_S_MAX):
                found = await self._connect(name, port)
                kept = True
                return found
            raise Refused(errno.ETIMEDOUT, f"{_shown(name, port)} could not be connected to in time")
        finally:
            self._making -= 1
            self._shared.connections[self._launch.incarnation] -= not kept

    async def run(self, pump: Pump) -> None:
        """Carry its bytes until both sides are through or it is cut."""
        try:
            await pump.run()
        finally:
            self.drop(pump)

    def drop(self, pump: Pump) -> None:
        """It is over, or never began."""
        pump.close()
        if pump in self._pumps:
            self._pumps.discard(pump)
            self._shared.connections[self._launch.incarnation] -= 1

    async def sweep(self) -> None:
        """Cut what is idle or was closed by the service, and log what was refused; for ever."""
        while True:
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            for pump in self._pumps:
                if now - pump.moved_at >= IDLE_S_MAX or pump.is_abandoned():
                    pump.cut()
            if now >= self._silent_until:
                self.tell_refusals()

    def tell_refusals(self) -> None:
        """Log what was refused and not yet logged, as one line."""
        if self._refused:
            fields = {**self._last_refusal, "refused": self._refused}
            self._refused = 0
            self._silent_until = trio.current_time() + REFUSALS_EVERY_S
            self._launch.log("log", "warning", "network access refused", fields)

    # -- making one

    async def _connect(self, name: str, port: int) -> tuple[Pump, socket.socket]:
        literal = parse_address(name)
        addresses = [literal] if literal is not None else await self._addresses(name, port)
        reach = self._launch.egress()
        refusal, admitted = None, []
        for address in addresses:
            if not reach.admits(name, address, port):
                refusal = self._not_public(name, address, port)
            elif not reach.lists_address(address, port) and _is_own(address, port):
                refusal = self._refusal(
                    name, port, f"{name} leads to {address}, which is this machine itself: list the address in egress"
                )
            else:
                admitted.append(address)
        if not admitted:
            raise refusal or Refused(errno.EHOSTUNREACH, f"{name} has no address")
        tcp = await self._first(admitted[:ADDRESSES_MAX], name, port)
        try:
            peer = parse_address(str(tcp.getpeername()[0]))
            if peer is None or not self._launch.egress().admits(name, peer, port):  # it was changed meanwhile
                raise self._refusal(
                    name, port, f"{_shown(name, port)} was taken out of the egress list of this service"
                )
            ours, theirs = socket.socketpair()
        except OSError as error:
            tcp.close()
            raise Refused(error.errno or errno.EIO, f"{_shown(name, port)}: {error.strerror}") from None
        except Refused:
            tcp.close()
            raise
        pump = Pump(trio.socket.from_stdlib_socket(ours), tcp, name, peer, port, self._account)
        self._pumps.add(pump)
        return pump, theirs

    def _not_public(self, name: str, address: Address, port: int) -> Refused:
        own = self._launch.egress().own.admits_address(address, port, named=True)
        if own or is_public(address):
            why = "which the operator's setting egress_allowed does not cover"
        else:
            why = f"which is no public address: list {_shown(str(address), port)} beside the name in egress"
        return self._refusal(name, port, f"{name} leads to {address}, {why}")

    async def _addresses(self, name: str, port: int) -> list[Address]:
        limiter = self._shared.places(self._launch.incarnation)
        look = functools.partial(self._shared.resolve, name, port)
        try:
            found = await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
        except socket.gaierror as error:
            # Below 0 where this is Linux, as `wire.Connected` has it.
            raise Refused(-abs(error.errno or socket.EAI_FAIL), f"{name}: {error.strerror}") from None
        except (OSError, UnicodeError) as error:
            raise Refused(-abs(socket.EAI_FAIL), f"{name}: {error}") from None
        addresses = (parse_address(text) for text in found)
        return list(dict.fromkeys(address for address in addresses if address is not None))

    async def _first(self, addresses: Sequence[Address], name: str, port: int) -> trio.socket.SocketType:
        """Connected to the first of `addresses` that answers."""
        failure = Refused(errno.EHOSTUNREACH, f"{_shown(name, port)} cannot be reached")
        for number, address in enumerate(addresses, 1):
            last = number == len(addresses)
            with trio.move_on_after(math.inf if last else ATTEMPT_S_MAX):
                try:
                    return await _connected(address, port)
                except OSError as error:
                    failure = Refused(error.errno or errno.EIO, f"{_shown(name, port)}: {error.strerror}")
        raise failure

    def _refusal(self, host: str, port: int, why: str) -> Refused:
        """Refused by a list: counted for the service's log."""
        self._refused += 1
        self._last_refusal = {"host": host, "port": port, "reason": why}
        if trio.current_time() >= self._silent_until:
            self.tell_refusals()
        return Refused(errno.EACCES, f"egress_refused: {why}", by_policy=True)

    async def _account(self, way: str, size: int) -> None:
        """`size` bytes went `way`; waits while there were too many."""
        self._bytes[way] += size
        while not (taken := self._bucket.take(size, trio.current_time()))[1]:
            self._bucket = taken[0]
            await trio.sleep(max(0.0, size - self._bucket.tokens) / self._bucket.rate)
        self._bucket = taken[0]


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_own(address: Address, port: int) -> bool:
    """Whether it is an address of this machine; nothing is sent to find out."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((str(address), port))
            return parse_address(str(probe.getsockname()[0])) == address
    except OSError:
        return False


async def _connected(address: Address, port: int) -> trio.socket.SocketType:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    tcp = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await tcp.connect((str(address), port))
        for level, option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)):
            with contextlib.suppress(OSError):
                tcp.setsockopt(level, option, 1)
    except BaseException:
        tcp.close()
        raise
    return tcp
