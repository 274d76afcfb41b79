"""LiteLLM, in an environment of its own, gets what gRPC gives."""

import json
from pathlib import Path

import pytest
from tests.packaging.animals import TURNS, Served, check, check_sampled, install, run

from carousel.client import Client

pytestmark = pytest.mark.packaging

_PROGRAM = """
import asyncio, json, sys
import litellm

litellm.suppress_debug_info = True
where = dict(model="text-completion-openai/animals", api_base=sys.argv[1], api_key="none", num_retries=0)
greedy = dict(prompt="The cow says", temperature=0, max_tokens=200) | where
sampled = dict(prompt="The", temperature=0.9, top_p=0.8, seed=5, max_tokens=40, logprobs=2, n=2) | where
turn = dict(temperature=0, max_tokens=4, extra_body={"session_id": "litellm"}) | where

def texts(*answers):
    return [choice.text for answer in answers for choice in answer.choices if choice.text]

async def stream():
    return texts(*[chunk async for chunk in await litellm.atext_completion(stream=True, **greedy)])

whole = litellm.text_completion(**greedy)
chunks = list(litellm.text_completion(stream=True, stream_options={"include_usage": True}, **greedy))
made = {"whole": whole.choices[0].text, "stream": texts(*chunks), "async_stream": asyncio.run(stream())}
made["usages"] = [chunk.usage.total_tokens for chunk in [whole, *chunks] if chunk.usage]
made["batch"] = texts(litellm.text_completion(**greedy | {"prompt": ["The cow says", "The dog says"]}))
choices = litellm.text_completion(**sampled).choices
made["sampled"] = [[choice.text, choice.logprobs.model_dump()] for choice in choices]
turns = [litellm.text_completion(prompt=text, **turn) for text in json.loads(sys.argv[2])]
made |= {"session": texts(*turns), "positions": [answer.position for answer in turns]}
made["errors"] = {}
for wrong in ({"temperature": -1}, {"model": "text-completion-openai/plants"}):
    try:
        litellm.text_completion(**greedy | wrong)
    except Exception as error:
        made["errors"][type(error).__name__] = str(error)
json.dump(made, sys.stdout)
"""


def test_its_text_completions_are_those_of_grpc(animals: Served, ours: Client, tmp_path: Path) -> None:
    """Under the prefix text-completion-openai it completes, streams, takes lists, samples and continues a session."""
    programs = install("litellm", tmp_path)
    told = run(tmp_path, str(programs / "python"), "-c", _PROGRAM, animals.openai_url, json.dumps(TURNS))
    made = json.loads(told)
    check(made, ours)
    check_sampled(made["sampled"], ours)
    assert made["usages"] == [212, 212]
    assert made["positions"] == [11, 15]
    assert made["errors"].keys() == {"BadRequestError", "NotFoundError"}
    assert "temperature" in made["errors"]["BadRequestError"]
