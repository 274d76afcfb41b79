"""The comparison with other servers has golden answers, the client's conversations, and right figures."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bench.harness.child_process import free_ports
from bench.harness.server_process import serve
from bench.peers.carousel_conversations import together
from bench.peers.client import Window, first_token, trace
from bench.peers.contest import Speed, Timings
from bench.peers.conversation import NUM_CANDIDATES, ServerFailed
from bench.peers.environments import PeerUnavailable, running
from bench.peers.golden import NUM_SEQUENCES, NUM_TOKENS, Answers, find_difference, golden_answers
from bench.peers.inside.graph_steps import Sequences
from bench.peers.peer import print_ratios, print_timings
from bench.peers.peer_conversations import triton_apart, triton_together
from tests.bundles import write_bundle

MESSAGES: Any = grpc.protos("bench/peers/open_inference.proto")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("peers") / "tiny"
    write_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def golden(bundle: Path) -> Answers:
    return golden_answers(bundle)


@pytest.fixture(scope="module")
def carousel(bundle: Path) -> Iterator[str]:
    with serve(bundle) as server:
        yield server.grpc_address


def advance(sequences: Sequences, tokens: dict[int, int]) -> dict[int, list[int]]:
    candidates_BK = sequences.step(list(tokens), np.array(list(tokens.values())))
    return dict(zip(tokens, candidates_BK.tolist(), strict=True))


def test_sequences_in_changing_company_answer_as_alone(bundle: Path, golden: Answers) -> None:
    """What runs inside the peers gives the golden answers, whatever else is in the batch."""
    sequences = Sequences(bundle, 1, NUM_CANDIDATES)
    answers: Answers = [[] for _ in golden]
    for number in range(NUM_SEQUENCES):
        sequences.start(number)
    turn = 0
    while waiting := [number for number, given in enumerate(answers) if len(given) < NUM_TOKENS]:
        chosen = waiting[turn % 3 :: 2] or waiting
        tokens = {number: answers[number][-1][0] if answers[number] else first_token(number) for number in chosen}
        for number, candidates in advance(sequences, tokens).items():
            answers[number].append(candidates)
        turn += 1
    assert find_difference(answers, golden) == ""


def test_ended_sequences_leave_their_places(bundle: Path, golden: Answers) -> None:
    """A place is used again, from the start state, and an ended sequence is unknown."""
    sequences = Sequences(bundle, 1, NUM_CANDIDATES, max_sequences=1)
    for _ in range(2):
        sequences.start(7)
        assert advance(sequences, {7: first_token(0)})[7] == golden[0][0]
        sequences.end(7)
    with pytest.raises(KeyError):
        advance(sequences, {7: 2})


def test_a_server_that_forgets_is_found_out(bundle: Path, golden: Answers) -> None:
    """Answers of a server that starts afresh at each token differ from the golden ones, and so do swapped sequences."""
    sequences = Sequences(bundle, 1, NUM_CANDIDATES)
    answers: Answers = [[] for _ in golden]
    for number, given in enumerate(answers):
        for _ in range(NUM_TOKENS):
            sequences.start(number)
            given.append(advance(sequences, {number: given[-1][0] if given else first_token(number)})[number])
    assert find_difference(answers, golden).startswith("sequence 0, token 1:")
    assert find_difference([golden[1], golden[0], *golden[2:]], golden).startswith("sequence 0, token 0:")


def test_short_and_empty_answers_are_wrong(golden: Answers) -> None:
    """Fewer candidates are right, but not none; fewer tokens are wrong."""
    assert find_difference([[given[:1] for given in one] for one in golden], golden) == ""
    assert find_difference([[given[:0] for given in one] for one in golden], golden) != ""
    assert find_difference([one[:-1] for one in golden], golden) == "sequence 0 has 23 answers instead of 24"


@pytest.mark.parametrize("pattern", ["predict", "predict_session", "predict_many", "predict_many_session", "generate"])
async def test_our_server_answers_golden(carousel: str, golden: Answers, pattern: str) -> None:
    """Every way in which our server is timed reproduces raw onnxruntime."""
    async with grpc.aio.insecure_channel(carousel) as channel:
        answers = await trace(channel, pattern, NUM_SEQUENCES, NUM_TOKENS)
    assert find_difference(answers, golden) == ""


class FakePeer:
    """Speaks Triton's and MLServer's wire over the graphs; an unknown sequence is an error, as in both."""

    def __init__(self, bundle: Path) -> None:
        self.sequences = Sequences(bundle, 1, NUM_CANDIDATES)
        self.live: set[int] = set()

    def answer(self, request: Any) -> Any:
        values = np.frombuffer(request.raw_input_contents[0], "<i8")
        flags: tuple[int, bool, bool]
        if request.inputs[0].name == "TURN":
            flags = int(values[0]), bool(values[1] & 1), bool(values[1] & 2)
        else:
            given = request.parameters
            starts, ends = (name in given and given[name].bool_param for name in ("sequence_start", "sequence_end"))
            flags = given["sequence_id"].int64_param, starts, ends
        return MESSAGES.InferResponse(id=request.id, raw_output_contents=[self._step(*flags, int(values[-1]))])

    def _step(self, sequence: int, starts: bool, ends: bool, token: int) -> bytes:
        if starts == (sequence in self.live):
            raise ValueError("sequence_start belongs on the first request, and there alone")
        if starts:
            self.live.add(sequence)
            self.sequences.start(sequence)
        candidates_BK = self.sequences.step([sequence], np.array([token]))
        if ends:
            self.live.remove(sequence)
            self.sequences.end(sequence)
        return candidates_BK.tobytes()

    async def infer(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return self.answer(request)

    async def stream(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for request in requests:
            try:
                yield MESSAGES.StreamInferResponse(infer_response=self.answer(request))
            except ValueError as error:
                yield MESSAGES.StreamInferResponse(error_message=str(error))


@pytest.fixture
async def peer(bundle: Path) -> AsyncIterator[tuple[FakePeer, grpc.aio.Channel]]:
    fake = FakePeer(bundle)
    read = MESSAGES.InferRequest.FromString
    methods = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(fake.infer, read, MESSAGES.InferResponse.SerializeToString),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            fake.stream, read, MESSAGES.StreamInferResponse.SerializeToString
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield fake, channel
    await server.stop(None)


@pytest.mark.parametrize(
    "pattern", ["triton_unary", "triton_stream", "triton_many_1", "triton_many_2", "mlserver_unary"]
)
async def test_peers_are_asked_rightly(peer: tuple[FakePeer, grpc.aio.Channel], golden: Answers, pattern: str) -> None:
    """Each sequence starts once, keeps its id, is fed its own tokens, and is ended."""
    fake, channel = peer
    answers = await trace(channel, pattern, NUM_SEQUENCES, NUM_TOKENS)
    assert find_difference(answers, golden) == ""
    assert fake.live == set()


async def test_an_error_in_the_stream_is_raised(peer: tuple[FakePeer, grpc.aio.Channel]) -> None:
    """Triton reports a failed request inside its stream; this is no answer."""
    fake, channel = peer
    conversation = triton_apart(channel).open()
    await conversation.step(2)
    fake.live.clear()
    with pytest.raises(ServerFailed, match="sequence_start"):
        await conversation.step(3)


async def test_a_shared_stream_that_fails_fails_all(peer: tuple[FakePeer, grpc.aio.Channel]) -> None:
    """No caller waits for an answer that cannot come, and none asks again."""
    fake, channel = peer
    way = triton_together(channel, num_streams=1)
    conversations = [way.open(), way.open()]
    for conversation in conversations:
        await conversation.step(2)
    fake.live.clear()
    outcomes = await asyncio.gather(*(one.step(3) for one in conversations), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ServerFailed, ServerFailed]
    with pytest.raises(ServerFailed, match="sequence_start"):
        await conversations[0].step(3)
    await way.close()


async def test_a_refused_sequence_fails_alone(carousel: str) -> None:
    """An item's status is an error of its sequence, and the others on the stream continue."""
    async with grpc.aio.insecure_channel(carousel) as channel:
        way = together(channel, has_sessions=False)
        conversations = [way.open() for _ in range(4)]
        for conversation in conversations:
            await conversation.step(2)
        with pytest.raises(ServerFailed, match="vocabulary"):
            await conversations[0].step(10**6)
        assert await conversations[2].step(2)
        await way.close()


def test_only_what_ends_in_the_window_counts() -> None:
    """Tokens before and after the window do not count, and a message of three is one wait."""
    window = Window(10.0, 12.0)
    for started, ended, num_tokens in ((9.0, 9.9, 1), (9.5, 10.5, 3), (11.0, 11.5, 1), (11.5, 12.0, 1)):
        window.count(started, ended, num_tokens)
    assert window.as_json() == {"tokens_per_second": 2.0, "p50_ms": 500.0, "p99_ms": 1000.0}


def read_figures(text: str) -> dict[str, tuple[float, bool | None]]:
    lines = map(json.loads, text.splitlines())
    return {line["name"]: (line["value"], line["holds"]) for line in lines}


def make_timings(speeds: dict[tuple[str, str], list[float]]) -> Timings:
    return Timings({key: {64: [Speed(one, 1.0, 2.0) for one in many]} for key, many in speeds.items()}, [1000.0] * 3)


def test_shared_streams_stand_beside_shared_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of our patterns is divided by the peer's fastest of its kind; where the peer has none, there is no ratio."""
    speeds = {
        ("carousel", "predict"): [100.0] * 3,
        ("carousel", "predict_many"): [900.0] * 3,
        ("triton_python", "stream"): [50.0] * 3,
        ("triton_python", "many_1"): [300.0, 600.0, 300.0],
        ("triton_python", "many_2"): [100.0, 100.0, 450.0],
        ("mlserver", "unary"): [10.0] * 3,
    }
    print_ratios("small", make_timings(speeds))
    figures = read_figures(capsys.readouterr().out)
    assert figures["peer.triton_python.predict_64"] == (2.0, True)
    assert figures["peer.triton_python.predict_many_64"] == (2.0, True)
    assert figures["peer.mlserver.predict_64"] == (10.0, None)
    assert "peer.mlserver.predict_many_64" not in figures
    assert figures["peer.triton_python.small.over_raw"] == (0.45, None)


def test_ratios_are_taken_within_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    """Each round uses the peer's fastest pattern; an aim belongs to one size."""
    speeds = {
        ("carousel", "predict"): [300.0, 100.0, 900.0],
        ("carousel", "generate"): [600.0, 600.0, 600.0],
        ("triton_python", "stream"): [100.0, 100.0, 100.0],
        ("triton_python", "unary"): [50.0, 200.0, 50.0],
    }
    timings = make_timings(speeds)
    print_timings("small", timings)
    print_ratios("small", timings)
    figures = read_figures(capsys.readouterr().out)
    assert figures["peer.triton_python.small.sessions_64.tokens"] == (100.0, None)
    assert figures["peer.triton_python.predict_64"] == (3.0, True)
    assert figures["peer.triton_python.generate_64"] == (6.0, True)
    assert figures["peer.triton_python.small.over_raw"] == (0.1, None)
    assert figures["peer.carousel.small.sessions_64.predict"] == (300.0, None)
    print_ratios("medium", timings)
    assert read_figures(capsys.readouterr().out)["peer.carousel.medium.generate_over_raw"] == (0.6, False)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The reason is the end of its log."""
    (port,) = free_ports(1)
    command = [sys.executable, "-c", "raise SystemExit('libfoo.so is missing')"]
    with pytest.raises(PeerUnavailable, match="libfoo.so is missing"), running(command, port, {}, tmp_path / "log"):
        pass


def test_a_server_that_ends_by_itself_is_started_anew(tmp_path: Path) -> None:
    """After a crash another process listens on the same port; after the block none does."""
    script = (
        "import os, socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True:\n"
        "    peer, _ = listener.accept()\n"
        "    word = peer.recv(5)\n"
        "    if word == b'crash': os._exit(11)\n"
        "    if word: peer.sendall(str(os.getpid()).encode())\n"
    )
    (port,) = free_ports(1)

    def say(word: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            link.sendall(word)
            return link.recv(20)

    with running([sys.executable, "-c", script, str(port)], port, os.environ, tmp_path / "log"):
        first = say(b"hello")
        with contextlib.suppress(ConnectionError):
            say(b"crash")
        again, until = b"", time.monotonic() + 20
        while not again and time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                again = say(b"hello")
        assert again not in (b"", first)
    with pytest.raises(ConnectionRefusedError):
        say(b"hello")
