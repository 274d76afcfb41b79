"""`carousel generate`: what it sends and prints."""

import json

import pytest
from tests.server.cli.conftest import Fake, Run
from tests.server.fake_sessions import Kept


def test_text_is_printed_as_it_is(run: Run) -> None:
    """A pipe gets exactly the model's text."""
    assert run("generate", "a").out == "bcd"


def test_the_prompt_can_come_from_standard_input(run: Run, fake: Fake) -> None:
    """`-` reads it, line ends and all."""
    run("generate", "-", stdin="né\r\n".encode())
    assert fake.service.requests[-1].input.text == "né\r\n"


def test_bytes_that_are_no_text_are_refused(run: Run) -> None:
    """The error is one line, with exit code 1."""
    result = run("generate", "-", stdin=b"\xff")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("carousel: - is not UTF-8")


def test_options_reach_the_server(run: Run, fake: Fake) -> None:
    """Each given option is in the request; the server decides the others, except a readable temperature."""
    options = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.75", "--min-p", "0.25", "--seed", "9"]
    options += ["--repetition-penalty", "1.5", "--presence-penalty", "0.5", "--frequency-penalty", "0.25"]
    options += ["--logit-bias", "4=-100", "--stop", "x", "--stop", "y", "--stop-id", "7", "--max-tokens", "2"]
    assert run("generate", "a", *options).out == "bc"
    request = fake.service.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 3, 0.75, 0.25)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.5, 0.5, 0.25)
    assert (sampling.seed, dict(sampling.logit_bias)) == (9, {4: -100.0})
    assert (list(request.stop), list(request.stop_ids), request.max_tokens) == (["x", "y"], [7], 2)
    run("generate", "a")
    assert not fake.service.requests[-1].HasField("max_tokens")
    assert fake.service.requests[-1].sampling.temperature == pytest.approx(0.7)
    assert not fake.service.requests[-1].sampling.HasField("top_p")


def test_ids_go_in_and_come_out(run: Run, fake: Fake) -> None:
    """With --ids, neither input nor output is text."""
    assert run("generate", "3 4,5", "--ids").out.split() == ["6", "7", "8"]
    assert list(fake.service.requests[-1].input.tokens.ids) == [3, 4, 5]
    assert run("generate", "three", "--ids").code == 2


def test_json_lines_hold_every_piece(run: Run) -> None:
    """A line for each message, the last with the ending."""
    pieces = [json.loads(line) for line in run("generate", "a", "--json").out.splitlines()]
    assert [piece["text"] for piece in pieces] == ["b", "c", "d", ""]
    assert pieces[-1]["finished"]["reason"] == "length"


def test_several_texts_are_printed_one_after_the_other(run: Run) -> None:
    """With --n, each text is complete and under a heading, however they are interleaved; JSON lines have the branch."""
    assert run("generate", "a", "--n", "2").out == "--- 1 of 2\nbcd\n--- 2 of 2\ncde\n"
    assert run("generate", "1 2", "--n", "2", "--ids").out == "--- 1 of 2\n3 4 5 \n--- 2 of 2\n4 5 6 \n"
    pieces = [json.loads(line) for line in run("generate", "a", "--n", "2", "--json").out.splitlines()]
    assert {piece["branch"] for piece in pieces} == {0, 1}


def test_a_session_goes_on(run: Run, fake: Fake) -> None:
    """--session names the session; the error for a missing one contains the command to create it."""
    fake.service.kept["mine"] = Kept(0)
    run("generate", "a", "--session", "mine")
    assert fake.service.positions["mine"] == 4
    assert run("generate", "a", "--session", "other").err == (
        "carousel: there is no session other (make it with: carousel sessions create other)\n"
    )
    assert run("generate", "a", "--session", "a b").err.endswith("create 'a b')\n")
    assert run("generate", "a", "--session", "-x").err.endswith("create -- -x)\n")
    assert run("sessions", "create", "--", "-x").out == "-x\n"
    assert run("sessions", "create", "other").code == 0
    assert run("generate", "a", "--session", "other").code == 0
    assert run("sessions", "delete", "other").code == 0
    assert run("generate", "a", "--session", "other").err.endswith(
        "deleted (make it with: carousel sessions create other)\n"
    )
    assert run("generate", "bad", "--session", "mine").err.endswith("not 7\n")


@pytest.mark.parametrize("bias", ["4", "4=x", "=1", "4=1=2"])
def test_a_malformed_bias_is_refused(run: Run, bias: str) -> None:
    """This is wrong usage, reported before any call."""
    result = run("generate", "a", "--logit-bias", bias)
    assert result.code == 2
    assert "ID=BIAS" in result.err
