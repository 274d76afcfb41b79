"""Bytes on a port that are not a call: other protocols, broken HTTP/2 frames, huge headers, calls cut in the middle."""

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable, Sequence

from trials.fuzz.methods import METHODS
from trials.fuzz.mutations import hostile_text, mutate
from trials.fuzz.sound_requests import draw_request

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS = 1, 4
_MOST = 1 << 20


def draw_garbage(dice: random.Random) -> bytes:
    return dice.choice(_MAKERS)(dice)[:_MOST]


async def throw(address: str, content: bytes) -> None:
    """Sends, then reads until the server closes; it must, because nothing more comes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(content)
            reading = asyncio.create_task(_read_all(reader))  # or both sides would wait with full buffers
            try:
                await writer.drain()
                writer.write_eof()
                await reading
            finally:
                reading.cancel()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _read_all(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """RFC 9113, section 4.1; `length` may be wrong."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size % 2**24)[1:] + struct.pack(">BBI", kind, flags, stream % 2**32) + payload


def header(name: bytes, value: bytes) -> bytes:
    """RFC 7541, section 6.2.2: a literal, not indexed, not compressed."""
    return b"\0" + _text(name) + _text(value)


def _text(content: bytes) -> bytes:
    if len(content) < 127:
        return bytes([len(content)]) + content
    rest, prefix = len(content) - 127, bytearray([127])
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    return bytes((*prefix, rest)) + content


def _other_protocol(dice: random.Random) -> bytes:
    lines = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /carousel.v1.Sessions/GetSession HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + dice.randbytes(200),
        b"*1\r\n$4\r\nPING\r\n",
        b"\0" * 1000,
        b"GET /readyz HTTP/1.0\r\n" + b"X-A: b\r\n" * dice.choice((1, 50, 2000)) + b"\r\n",
        b"GET /" + b"a" * dice.choice((10, 100_000)) + b" HTTP/1.1\r\n\r\n",
    )
    line = dice.choice(lines)
    return mutate(line, dice) if dice.random() < 0.5 else line


def _noise(dice: random.Random) -> bytes:
    return (_PREFACE if dice.random() < 0.5 else b"") + dice.randbytes(dice.choice((1, 9, 100, 5000)))


def _call(dice: random.Random) -> list[bytes]:
    """Returns the frames of a nearly valid call."""
    method = METHODS[dice.choice([name for name, one in METHODS.items() if not one.is_endless])]
    content = draw_request(dice, method.name).SerializeToString()
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.path.encode()),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    if dice.random() < 0.3:
        headers.append(dice.choice(_STRANGE_HEADERS))
    if dice.random() < 0.2:
        del headers[dice.randrange(len(headers))]
    if dice.random() < 0.2:
        headers.append((b"x-huge", hostile_text(dice).encode() * dice.choice((1, 1000))))
    block = b"".join(header(*one) for one in headers)
    length = dice.choice((len(content),) * 6 + (0, len(content) + 1, 2**31, 2**32 - 1))
    body = struct.pack(">BI", dice.choice((0, 0, 0, 0, 1, 255)), length) + content
    return [frame(_HEADERS, _END_HEADERS, 1, block), frame(_DATA, _END_STREAM, 1, body)]


def _broken_call(dice: random.Random) -> bytes:
    frames = [frame(_SETTINGS, 0, 0, b""), *_call(dice)]
    for _ in range(dice.choice((0, 1, 1, 3))):
        frames.insert(dice.randrange(len(frames) + 1), _strange_frame(dice))
    if dice.random() < 0.2:
        dice.shuffle(frames)
    content = b"".join(frames)
    return _PREFACE + (mutate(content, dice) if dice.random() < 0.5 else content)


def _strange_frame(dice: random.Random) -> bytes:
    stream = dice.choice((0, 1, 1, 2, 3, 2**31 - 1, 2**31))
    match dice.randrange(8):
        case 0:
            return frame(_RESET, 0, stream, struct.pack(">I", dice.randrange(16)))
        case 1:
            return frame(_WINDOW, 0, stream, struct.pack(">I", dice.choice((0, 1, 2**31 - 1, 2**32 - 1))))
        case 2:
            return frame(_PING, dice.randrange(2), 0, b"\0" * dice.choice((0, 7, 8, 9)))
        case 3:
            setting = struct.pack(">HI", dice.randrange(9), dice.choice((0, 1, 2**31 - 1, 2**32 - 1)))
            return frame(_SETTINGS, 0, 0, setting * dice.choice((1, 3, 100)))
        case 4:
            return frame(_GOAWAY, 0, 0, struct.pack(">II", 0, dice.randrange(16)) + b"bye")
        case 5:
            return frame(_CONTINUATION, dice.choice((0, _END_HEADERS)), stream, header(b"x-a", b"b")) * 3
        case 6:
            return frame(dice.randrange(256), dice.randrange(256), stream, dice.randbytes(dice.choice((0, 5, 40))))
        case _:
            return frame(_DATA, 0, stream, b"x", length=dice.choice((0, 2, 2**14 + 1, 2**24 - 1)))


def _flood(dice: random.Random) -> bytes:
    """Returns many small frames, or many calls that are cancelled at once."""
    settings = frame(_SETTINGS, 0, 0, b"")
    if dice.random() < 0.5:
        return _PREFACE + settings + _strange_frame(dice) * dice.choice((10, 300))
    opened, _ = _call(dice)
    calls = []
    for number in range(dice.choice((5, 60))):
        stream = struct.pack(">I", 2 * number + 1)
        calls.append(opened[:5] + stream + opened[9:] + frame(_RESET, 0, 2 * number + 1, struct.pack(">I", 8)))
    return _PREFACE + settings + b"".join(calls)


_STRANGE_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"grpc-timeout", b"0n"),
    (b"grpc-timeout", b"99999999H"),
    (b"grpc-timeout", b"-1S"),
    (b"grpc-timeout", b"x"),
    (b"grpc-encoding", b"gzip"),
    (b"grpc-encoding", b"nothing"),
    (b"content-length", b"5"),
    (b"x-user", b"\xff\xfe"),
    (b"x-odd-bin", b"not base64 !"),
    (b"Upper", b"case"),
    (b":path", b"/again"),
    (b":path", b"/carousel.v1.Nothing/At/All"),
    (b"connection", b"close"),
    (b"", b""),
)
_MAKERS: Sequence[Callable[[random.Random], bytes]] = (
    _other_protocol,
    _noise,
    _broken_call,
    _broken_call,
    _broken_call,
    _broken_call,
    _flood,
)
