"""Network access of a service, in its process. Owns: sockets that ask the kernel for what they connect to. Never: a real one.

A service cannot make a socket. What Python and Trio offer for connecting is replaced, once, in its own process: a TCP socket is
at first one end of a dead pair, and when it connects, the descriptor that the kernel grants takes its place. Names are looked
up by the kernel: `getaddrinfo` answers with an address of 240.0.0.0/4 (or 100::/64) that stands for the name, for libraries
that resolve first. So whatever connects with `socket`, `http.client`, `urllib`, `httpx` (both kinds), `anyio` and Trio works,
in any thread, and TLS goes from the service to the other side. A connect that does not block blocks here, except for Trio's.
"""

from __future__ import annotations

import _socket
import errno
import ipaddress
import itertools
import os
import socket
import threading
from collections import OrderedDict
from typing import Any, Final

import trio
from attrs import define, field

from solo_trio.runtimes.egress_broker import Broker

NAMES_MAX: Final = 4_096
"""Names that an address stands for; the oldest is forgotten."""
INET: Final = (socket.AF_INET, socket.AF_INET6)
_INET_LEVELS: Final = (socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6)
_V4: Final = int(ipaddress.IPv4Address("240.0.0.0"))
_V6: Final = int(ipaddress.IPv6Address("100::"))
_PORTS: Final = {"http": 80, "https": 443}
"""There may be no /etc/services."""
_SERVES: Final = "egress_refused: a service cannot listen; others call its exports"
_TCP_ONLY: Final = "egress_refused: a service has TCP connections only, to what its egress lists"


@define
class _Names:
    """The addresses that stand for names."""

    _numbers: OrderedDict[str, int] = field(factory=OrderedDict)
    _names: dict[int, str] = field(factory=dict)
    _count: Any = field(factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(factory=threading.Lock)

    def stand_in(self, name: str, family: int) -> str:
        with self._lock:
            number = self._numbers.pop(name, None)
            if number is None:
                number = next(self._count) % 2**28
                if len(self._numbers) >= NAMES_MAX:
                    self._names.pop(self._numbers.popitem(last=False)[1], None)
            self._numbers[name] = number  # newest at the end
            self._names[number] = name
        if family == socket.AF_INET6:
            return str(ipaddress.IPv6Address(_V6 + number))
        return str(ipaddress.IPv4Address(_V4 + number))

    def host(self, text: str) -> str:
        """The name that an address stands for; anything else as it is."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text
        number = int(address) - (_V6 if address.version == 6 else _V4)
        return self._names.get(number, text)


def install(broker: Broker) -> None:
    """Replace what connects, in this process, for good."""
    names = _Names()
    peers: dict[int, tuple[Any, ...] | None] = {}
    """By descriptor: what a TCP socket is connected to. Only sockets of these families are looked up, and all are ours."""
    _replace_lookups(names)
    _replace_sockets(broker, names, peers)
    _replace_trio(broker, names, peers)


def _text(host: str | bytes) -> str:
    try:
        return host.decode("ascii") if isinstance(host, bytes) else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no name of a host") from None


def _replace_lookups(names: _Names) -> None:
    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        number = _port_number(port)
        if host is None or host in ("", b""):
            text = ("::" if flags & socket.AI_PASSIVE else "::1") if family == socket.AF_INET6 else "127.0.0.1"
        else:
            text = _text(host)
        canonical = text if flags & socket.AI_CANONNAME else ""
        found = _literal_family(text)
        if found is None:
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            found = socket.AF_INET6 if family == socket.AF_INET6 else socket.AF_INET
            text = names.stand_in(text, found)
        if family not in (0, found):
            raise socket.gaierror(socket.EAI_NONAME, f"{text} is of another address family")
        kind = socket.SocketKind(type or socket.SOCK_STREAM)
        address = (text, number) if found == socket.AF_INET else (text, number, 0, 0)
        return [(found, kind, proto or (6 if kind == socket.SOCK_STREAM else 0), canonical, address)]

    def gethostbyname(hostname: str) -> str:
        address: str = getaddrinfo(hostname, 0, socket.AF_INET)[0][4][0]
        return address

    def gethostbyname_ex(hostname: str) -> tuple[str, list[str], list[str]]:
        return hostname, [], [gethostbyname(hostname)]

    for function in (getaddrinfo, gethostbyname, gethostbyname_ex):
        setattr(socket, function.__name__, function)


def _port_number(port: Any) -> int:
    if port is None or isinstance(port, int):
        return port or 0
    text = port.decode("ascii", "replace") if isinstance(port, bytes) else str(port)
    if text.isascii() and text.isdigit():
        return int(text)
    if text in _PORTS:
        return _PORTS[text]
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        raise socket.gaierror(socket.EAI_SERVICE, f"{text!r} is no port") from None


def _literal_family(text: str) -> socket.AddressFamily | None:
    try:
        version = ipaddress.ip_address(text).version
    except ValueError:
        return None
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _adopt(sock: socket.socket, descriptor: int) -> None:
    """Put a granted connection in the place of the dead pair."""
    try:
        os.dup2(descriptor, sock.fileno(), inheritable=False)
    finally:
        os.close(descriptor)
    sock.settimeout(sock.gettimeout())  # whether it blocks belongs to what was replaced


def _replace_sockets(broker: Broker, names: _Names, peers: dict[int, tuple[Any, ...] | None]) -> None:
    kind: Any = socket.socket  # changed in place: code that imported the class earlier has the same one
    was = {name: getattr(kind, name) for name in ("__init__", "connect", "bind", "setsockopt", "getsockopt")}
    was |= {name: getattr(kind, name) for name in ("getpeername", "getsockname")}

    def make(self: Any, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
        if fileno is not None or family not in (-1, *INET):
            was["__init__"](self, family, type, proto, fileno)
            return
        flags = 0 if type == -1 else type & (socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if type != -1 and type & ~flags != socket.SOCK_STREAM:
            raise PermissionError(errno.EACCES, _TCP_ONLY)
        ours, theirs = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.close()
        family = socket.AF_INET if family == -1 else family
        was["__init__"](self, family, socket.SOCK_STREAM, socket.IPPROTO_TCP, ours.detach())
        if flags & socket.SOCK_NONBLOCK:
            self.setblocking(False)
        peers[self.fileno()] = None

    def connect(self: Any, address: Any) -> None:
        if self.family not in INET:
            was["connect"](self, address)
            return
        if peers.get(self.fileno()) is not None:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        host, port = _host_and_port(address, names)
        _adopt(self, broker.connect(host, port, self.gettimeout() or None))
        peers[self.fileno()] = tuple(address)

    def connect_ex(self: Any, address: Any) -> int:
        try:
            self.connect(address)
        except socket.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.ETIMEDOUT
        return 0

    def bind(self: Any, address: Any) -> None:
        if self.family in INET:
            raise PermissionError(errno.EACCES, _SERVES)
        was["bind"](self, address)

    def setsockopt(self: Any, level: int, *option: Any) -> None:
        if level not in _INET_LEVELS:  # those mean nothing to what we have; who sets them seldom forgives an error
            was["setsockopt"](self, level, *option)

    def getsockopt(self: Any, level: int, option: int, size: int = 0) -> Any:
        if level not in _INET_LEVELS:
            return was["getsockopt"](self, level, option, size) if size else was["getsockopt"](self, level, option)
        return bytes(size) if size else 0

    def getpeername(self: Any) -> Any:
        if self.family not in INET:
            return was["getpeername"](self)
        was["getpeername"](self)  # raises if it is closed
        peer = peers.get(self.fileno())
        if peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return peer

    def getsockname(self: Any) -> Any:
        if self.family not in INET:
            return was["getsockname"](self)
        return ("::", 0, 0, 0) if self.family == socket.AF_INET6 else ("0.0.0.0", 0)

    kind.__init__ = make
    for function in (connect, connect_ex, bind, setsockopt, getsockopt, getpeername, getsockname):
        setattr(kind, function.__name__, function)


def _host_and_port(address: Any, names: _Names) -> tuple[str, int]:
    if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], str | bytes):
        raise TypeError("an address is a host and a port")
    return names.host(_text(address[0])), address[1]


def _replace_trio(broker: Broker, names: _Names, peers: dict[int, tuple[Any, ...] | None]) -> None:
    ours, theirs = socket.socketpair()
    with trio.socket.from_stdlib_socket(ours) as one, theirs:
        kind: Any = type(one)
    was_connect = kind.connect

    async def connect(self: Any, address: Any) -> None:
        sock: socket.socket = self._sock  # `tests/runtimes/test_egress_services.py` would see it gone
        if sock.family not in INET:
            await was_connect(self, address)
            return
        if peers.get(sock.fileno()) is not None:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        host, port = _host_and_port(address, names)
        descriptor = await broker.connect_async(host, port)
        _adopt(sock, descriptor)
        peers[sock.fileno()] = tuple(address)

    async def open_tcp_stream(
        host: str | bytes, port: int, *, happy_eyeballs_delay: float | None = None, local_address: str | None = None
    ) -> trio.SocketStream:
        """Trio's, through the kernel: which tries the addresses of a name one after another."""
        if local_address is not None:
            raise PermissionError(errno.EACCES, "egress_refused: a service has no address of its own to connect from")
        text = names.host(_text(host))
        descriptor = await broker.connect_async(text, port)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor)
        peers[descriptor] = (text, port)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    kind.connect = connect
    trio.open_tcp_stream = open_tcp_stream
