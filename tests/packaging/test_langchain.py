"""LangChain's models, in an environment of their own, get what gRPC gives."""

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

_RESPONSES = """
import json, sys
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

where = dict(model="animals", base_url=sys.argv[1], api_key="none", max_retries=0, use_previous_response_id=True)
model = ChatOpenAI(**where, use_responses_api=True, temperature=0, max_tokens=int(sys.argv[2]))
messages, texts, read = [], [], []
for prompt in ("The cow", "", " The dog"):
    messages.append(HumanMessage(prompt))
    messages.append(model.invoke(messages))
    texts.append(messages[-1].text)
    read.append(messages[-1].usage_metadata["input_tokens"])
fork = messages[:2] + [HumanMessage(" The pig")]
made = {"texts": texts, "read": read, "fork": model.invoke(fork).text}
made["stream"] = "".join(piece.text for piece in model.stream(fork))
json.dump(made, sys.stdout)
"""
_NUM_TOKENS = 4


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


def test_a_conversation_goes_on_from_responses(programs: Path, animals: Served, ours: Client, tmp_path: Path) -> None:
    """With `use_previous_response_id` only what is new is sent and read. An older answer is where a fork begins."""
    told = run(tmp_path, str(programs / "python"), "-c", _RESPONSES, animals.openai_url, str(_NUM_TOKENS))
    made = json.loads(told)

    def converse(*prompts: str) -> list[str]:
        with ours.session() as session:
            turns = [session.generate(prompt, max_tokens=_NUM_TOKENS, temperature=0) for prompt in prompts]
            return ["".join(piece.text for piece in turn) for turn in turns]

    assert made["texts"] == converse("The cow", "", " The dog")
    assert made["read"] == [7, 0, 8]
    assert made["fork"] == made["stream"] == converse("The cow", " The pig")[1]
