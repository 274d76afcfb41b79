"""Sessions over HTTP are those of gRPC: made, listed, forked, moved back, exported, imported and ended."""

from typing import Any

import httpx2 as httpx
import pytest

from carousel.client import AsyncClient


async def ask(http: httpx.AsyncClient, method: str, path: str, **body: Any) -> Any:
    answer = await http.request(method, path, json=body) if method == "POST" else await http.request(method, path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def tale(http: httpx.AsyncClient) -> str:
    """A session with boundaries at 0, 3 and 6, and a checkpoint at 3."""
    await ask(http, "POST", "/sessions", session_id="tale")
    await ask(http, "POST", "/score", session_id="tale", text="abc")
    await ask(http, "POST", "/sessions/tale/checkpoint", checkpoint="cliff")
    await ask(http, "POST", "/score", session_id="tale", text="def")
    return "tale"


async def test_a_session_is_made_read_and_ended(http: httpx.AsyncClient, ours: AsyncClient) -> None:
    """One without a name gets one."""
    made = await ask(http, "POST", "/sessions", session_id="tale")
    drawn = await ask(http, "POST", "/sessions")
    assert (made["session_id"], made["position"], made["durable_position"]) == ("tale", 0, 0)
    assert made["expire_time"] > made["create_time"] > 1e9
    assert drawn["session_id"]
    assert await ask(http, "GET", "/sessions/tale") == made
    listed = await ask(http, "GET", "/sessions")
    assert [one["session_id"] for one in listed["sessions"]] == ["tale", drawn["session_id"]]
    for path in ("/sessions", "/sessions/tale"):
        answer = await http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert await ask(http, "DELETE", "/sessions/tale") == {}
    answer = await http.get("/sessions/tale")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_deleted")
    assert [one.session_id async for one in ours.list_sessions()] == [drawn["session_id"]]


async def test_lists_come_in_pages(http: httpx.AsyncClient) -> None:
    """So does the tree."""
    for number in range(5):
        await ask(http, "POST", "/sessions", session_id=f"s{number}")
    for path in ("/sessions", "/tree"):
        seen, token = [], ""
        for _ in range(3):
            page = await ask(http, "GET", f"{path}?page_size=2&page_token={token}")
            seen += [one["session_id"] for one in page["sessions"]]
            token = page["next_page_token"]
        assert (seen, token) == ([f"s{number}" for number in range(5)], "")
        for wrong in ("page_size=x", "page_size=-1", "page_size=2.0", "page_size=1e3", "page_token=x"):
            answer = await http.get(f"{path}?{wrong}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, wrong.partition("=")[0])
    assert (await http.get("/tree?page_size=101")).status_code == 400


async def test_a_key_makes_repeats_one_request(http: httpx.AsyncClient, tale: str) -> None:
    """Also where a session is only made."""
    for path, body in (("/sessions", {}), ("/sessions/tale/fork", {"count": 2})):
        answers = [await http.post(path, json=body, headers={"idempotency-key": path}) for _ in range(2)]
        assert answers[0].json() == answers[1].json()
    assert len((await ask(http, "GET", "/sessions"))["sessions"]) == 4
    answer = await http.post(
        "/sessions/tale/fork", json={"count": 3}, headers={"idempotency-key": "/sessions/tale/fork"}
    )
    assert answer.status_code == 400


async def test_a_key_makes_a_move_happen_once(http: httpx.AsyncClient, tale: str) -> None:
    """What came after it stays, when the move is asked for again."""
    sealed = (await ask(http, "POST", "/sessions/tale/export"))["state"]
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/sessions/tale/rewind", {"position": 3}),
        ("POST", "/sessions/tale/checkpoint", {"checkpoint": "here"}),
        ("POST", "/import", {"state": sealed}),
    ]
    for method, path, body in steps:
        first = await http.request(method, path, json=body, headers={"idempotency-key": path})
        await ask(http, "POST", "/score", session_id="tale", text="x")
        again = await http.request(method, path, json=body, headers={"idempotency-key": path})
        assert (first.status_code, again.json()["position"]) == (200, first.json()["position"])
        assert again.json()["session_id"] == first.json()["session_id"]
    history = await ask(http, "GET", "/sessions/tale/history")
    assert (history["position"], history["checkpoints"]["here"]) == (6, 4)
    assert len((await ask(http, "GET", "/sessions"))["sessions"]) == 2
    for _ in range(2):
        answer = await http.delete("/sessions/tale", headers={"idempotency-key": "end"})
        assert (answer.status_code, answer.json()) == (200, {})


async def test_any_point_of_the_past_is_forked_or_returned_to(http: httpx.AsyncClient, tale: str) -> None:
    """By its position or its checkpoint; neither is the present."""
    history = await ask(http, "GET", "/sessions/tale/history")
    assert (history["positions"], history["checkpoints"], history["position"]) == ([0, 3, 6], {"cliff": 3}, 6)
    for point, position in (({"position": 3}, 3), ({"checkpoint": "cliff"}, 3), ({"position": 0}, 0), ({}, 6)):
        (made,) = (await ask(http, "POST", "/sessions/tale/fork", **point))["sessions"]
        assert made["position"] == position
    named = await ask(http, "POST", "/sessions/tale/fork", new_session_ids=["left", "right"])
    assert [one["session_id"] for one in named["sessions"]] == ["left", "right"]
    answer = await http.post("/sessions/tale/rewind", json={"position": 3, "expected_position": 5})
    assert answer.status_code == 409
    assert (await ask(http, "POST", "/sessions/tale/rewind", position=3, expected_position=6))["position"] == 3
    answer = await http.post("/sessions/tale/rewind", json={"position": 6})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "position_unknown")
    both = await http.post("/sessions/tale/fork", json={"position": 3, "checkpoint": "cliff"})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "checkpoint")


async def test_an_error_names_the_field_as_http_does(http: httpx.AsyncClient, tale: str) -> None:
    answer = await http.post("/sessions/tale/export", json={"ttl_seconds": -1.0})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "ttl_seconds")


async def test_a_state_is_exported_and_imported(http: httpx.AsyncClient, ours: AsyncClient, tale: str) -> None:
    """The copy predicts what the original did there; the same text is the state over gRPC."""
    sealed = await ask(http, "POST", "/sessions/tale/export", position=3, ttl_seconds=60.0)
    assert sealed["position"] == 3
    made = await ask(http, "POST", "/import", state=sealed["state"], session_id="copy")
    assert (made["session_id"], made["position"]) == ("copy", 3)
    (fork,) = (await ask(http, "POST", "/sessions/tale/fork", position=3))["sessions"]
    one, other = [(await ours.predict(session_id=name)).candidates for name in ("copy", fork["session_id"])]
    assert one == other
    for wrong in ("????", "AAAA", sealed["state"][:-4] + "AAAA", "\n" + sealed["state"]):
        assert (await http.post("/import", json={"state": wrong})).status_code == 400


async def test_the_tree_has_the_pasts_of_all_sessions(http: httpx.AsyncClient, tale: str) -> None:
    """With times, in order of creation."""
    await ask(http, "POST", "/sessions/tale/fork", position=3, new_session_ids=["left"])
    one, other = (await ask(http, "GET", "/tree"))["sessions"]
    assert one == await ask(http, "GET", "/sessions/tale/history")
    assert (other["session_id"], other["positions"], other["checkpoints"]) == ("left", [3], {})
    assert (one["origin"], other["origin"]) == (None, {"session_id": "tale", "position": 3})
    assert other["create_time"] >= one["create_time"]


async def test_what_does_not_exist_is_not_found(http: httpx.AsyncClient) -> None:
    """Under every route, and however strange the name is."""
    actions = (("GET", ""), ("DELETE", ""), ("GET", "/history"), ("POST", "/fork"), ("POST", "/export"))
    for name in ("nobody", "a%20b", "%2e%2e", "%00", "x" * 200, "a%2Fb"):
        for method, action in actions:
            body: Any = {} if method == "POST" else None
            answer = await http.request(method, f"/sessions/{name}{action}", json=body)
            assert answer.status_code == 404, (name, action, answer.text)
