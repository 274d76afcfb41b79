"""A peer that breaks HTTP/2 calls as balancers, proxies and dying servers do, spoken by hand on a socket.

Each connection plays one trick on its first call and is then closed. When all tricks are played, further connections
are piped to the real server.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4
_OK = b"\x88"  # ":status: 200" in HPACK's static table
_GRPC = b"\x0f\x10\x10application/grpc"  # content-type, spelled out
_HTML = b"\x0f\x10\x09text/html"
_TORN = b"\0\0\0\0\x09h"  # one byte of a message of nine


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _status(code: int) -> bytes:
    """Writes a field ":status" that is spelled out."""
    return b"\x08\x03" + str(code).encode()


def _answer_nothing(stream: int) -> bytes:
    return _frame(_HEADERS, _END_HEADERS, stream, _OK + _GRPC)


def _reset(error: int) -> Callable[[int], bytes]:
    return lambda stream: _answer_nothing(stream) + _frame(_RST_STREAM, 0, stream, struct.pack(">I", error))


def _refuse(status: int) -> Callable[[int], bytes]:
    """Refuses as a proxy does that finds no server."""
    return lambda stream: (
        _frame(_HEADERS, _END_HEADERS, stream, _status(status) + _HTML) + _frame(_DATA, _END_STREAM, stream, b"<html>")
    )


TRICKS: dict[str, Callable[[int], bytes]] = {
    "data ends the stream": lambda stream: _answer_nothing(stream) + _frame(_DATA, _END_STREAM, stream),
    "data ends a message": lambda stream: _answer_nothing(stream) + _frame(_DATA, _END_STREAM, stream, _TORN),
    "headers end the stream": lambda stream: _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _OK + _GRPC),
    "reset, no error": _reset(0),
    "reset, internal": _reset(2),
    "reset, refused": _reset(7),
    "reset, cancelled": _reset(8),
    "going away": lambda stream: _answer_nothing(stream) + _frame(_GOAWAY, 0, 0, struct.pack(">II", stream, 0)),
    "going away in error": lambda stream: _frame(_GOAWAY, 0, 0, struct.pack(">II", 0, 2)),
    "hang up": lambda stream: b"",
    "hang up in a frame": lambda stream: _answer_nothing(stream) + _frame(_DATA, 0, stream, b"x" * 40)[:20],
    "garbage": lambda stream: b"\xff" * 64,
    "bad gateway": _refuse(502),
    "unavailable": _refuse(503),
}


class HostilePeer:
    """`played` are the tricks that calls have met."""

    def __init__(self, target: str, tricks: list[str]) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._tricks = tricks
        self.played: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """Serves until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._open.append(peer)
                if self._tricks:
                    self._start(self._play, self._tricks.pop(0), peer)
                else:
                    self._pipe(peer)

    def stop(self) -> None:
        """Takes no further connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes it once it has stopped."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _start(self, serve: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            with contextlib.suppress(OSError, EOFError):
                serve(*arguments)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def _play(self, trick: str, peer: socket.socket) -> None:
        """Plays the trick on the first call, then ends the connection, in order: what was sent arrives."""
        _read(peer, len(_PREFACE))
        peer.sendall(_frame(_SETTINGS, 0, 0))
        stream = next(_requests(peer))
        self.played.append(trick)
        peer.sendall(TRICKS[trick](stream))
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65_536):
            pass
        peer.close()

    def _pipe(self, peer: socket.socket) -> None:
        server = socket.create_connection(self._target)
        self._open.append(server)
        self._start(_copy, peer, server)
        self._start(_copy, server, peer)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65_536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def _requests(peer: socket.socket) -> Iterator[int]:
    """Yields the streams of the calls that have begun, each when its first message is here."""
    while True:
        head = _read(peer, 9)
        kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
        payload = _read(peer, int.from_bytes(head[:3], "big"))
        if kind == _SETTINGS and not flags & _ACK:
            peer.sendall(_frame(_SETTINGS, _ACK, 0))
        if kind == _PING and not flags & _ACK:
            peer.sendall(_frame(_PING, _ACK, 0, payload))
        if kind == _DATA:
            yield stream


def _read(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = peer.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def call_unread(address: str, method: bytes, metadata: Mapping[bytes, bytes] | None = None) -> socket.socket:
    """Makes a call with an empty message whose client leaves no room for an answer: a window of 0 bytes."""
    host, _, port = address.rpartition(":")
    known = {b":path": b"/" + method, b":authority": b"x", b"te": b"trailers", b"content-type": b"application/grpc"}
    fields = b"\x83\x86"  # POST, http
    for key, value in {**known, **(metadata or {})}.items():
        fields += b"\0" + bytes([len(key)]) + key + bytes([len(value)]) + value
    connection = socket.create_connection((host, int(port)))
    connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0)))
    connection.sendall(_frame(_HEADERS, _END_HEADERS, 1, fields) + _frame(_DATA, _END_STREAM, 1, b"\0" * 5))
    return connection


@contextlib.contextmanager
def serve_hostile(target: str, tricks: list[str]) -> Iterator[HostilePeer]:
    """Serves in front of the server at `target`."""
    peer = HostilePeer(target, tricks)
    listening = threading.Thread(target=peer.run)
    listening.start()
    try:
        yield peer
    finally:
        peer.stop()
        listening.join()
        peer.close()
