"""LangChain's completing model, in an environment of its own, gets what gRPC gives."""

import json
from pathlib import Path

import pytest
from tests.packaging.animals import TURNS, Served, check, check_sampled, install, run

from carousel.client import Client

pytestmark = pytest.mark.packaging

_PROGRAM = """
import asyncio, json, sys
from langchain_openai import OpenAI

where = dict(model="animals", base_url=sys.argv[1], api_key="none", max_retries=0)
greedy = OpenAI(**where, temperature=0, max_tokens=200)
sampled = OpenAI(**where, temperature=0.9, top_p=0.8, seed=5, max_tokens=40, logprobs=2, n=2)
session = OpenAI(**where, temperature=0, max_tokens=4, extra_body={"session_id": "langchain"})

async def stream():
    return [piece async for piece in greedy.astream("The cow says")]

made = {"whole": greedy.invoke("The cow says"), "stream": list(greedy.stream("The cow says"))}
made |= {"async_stream": asyncio.run(stream()), "stop": greedy.invoke("The cow says", stop=["."])}
batch = greedy.generate(["The cow says", "The dog says"])
made |= {"batch": [one.text for (one,) in batch.generations], "usage": batch.llm_output["token_usage"]}
made["sampled"] = [[one.text, one.generation_info["logprobs"]] for one in sampled.generate(["The"]).generations[0]]
made["session"] = [session.invoke(text) for text in json.loads(sys.argv[2])]
try:
    greedy.invoke("The", stop=[str(n) for n in range(1000)])
except Exception as error:
    made["error"] = [type(error).__name__, str(error)]
json.dump(made, sys.stdout)
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("langchain", tmp_path_factory.mktemp("langchain"))


def test_a_chain_gets_what_grpc_gives(programs: Path, animals: Served, ours: Client, tmp_path: Path) -> None:
    """It completes, streams, takes lists, samples with log-probabilities, and continues a session."""
    told = run(tmp_path, str(programs / "python"), "-c", _PROGRAM, animals.openai_url, json.dumps(TURNS))
    made = json.loads(told)
    check(made, ours)
    check_sampled(made["sampled"], ours)
    assert made["stop"] == " moo"
    assert made["usage"] == {"prompt_tokens": 24, "completion_tokens": 400, "total_tokens": 424}
    name, text = made["error"]
    assert name == "BadRequestError"
    assert "stop" in text


_TEXTS = ("The cow", " and the dog", " says")
_CHAT = """
import json, sys
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="animals", base_url=sys.argv[1], api_key="none", max_retries=0, temperature=0, max_tokens=4,
    use_responses_api=True, use_previous_response_id=True,
)
history, made = [], []
for number, text in enumerate(json.loads(sys.argv[2])):
    history.append(HumanMessage(text))
    if number % 2:
        pieces = list(model.stream(history))
        answer = sum(pieces[1:], pieces[0])
    else:
        answer = model.invoke(history)
    history.append(answer)
    made.append(str(answer.text))
json.dump(made, sys.stdout)
"""


def test_a_chat_goes_on_from_responses(programs: Path, animals: Served, ours: Client, tmp_path: Path) -> None:
    """Each message is read once, after what the session has read before; answers are whole or streamed."""
    made = json.loads(run(tmp_path, str(programs / "python"), "-c", _CHAT, animals.openai_url, json.dumps(_TEXTS)))
    ours.create_session("chat")
    for text, answer in zip(_TEXTS, made, strict=True):
        pieces = ours.generate(text, max_tokens=4, temperature=0, session_id="chat")
        assert answer == "".join(piece.text for piece in pieces)
