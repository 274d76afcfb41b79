"""A conversation becomes the text that the template says, within bounds, and whatever a message holds stays a value."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests import bundles

from carousel.bundle import chat
from carousel.bundle.chat import ChatFormat, Message, MessagesRefused

DIALOGUE = """
{%- for message in messages %}
    {% if message.role == 'system' %}
({{ message.content }})
    {% else %}
{{ message.role | capitalize }}: {{ message.content }}
    {% endif %}
{% endfor %}
{%- if add_generation_prompt %}
Assistant:
{%- endif %}"""
TALK = [Message("system", "Be short."), Message("user", "Hi <you> & me"), Message("assistant", "Hello")]


def test_a_dialogue() -> None:
    """White space of blocks is no text, nothing is escaped, and the prompt for an answer is asked for."""
    shape = ChatFormat(DIALOGUE)
    text = "(Be short.)\nUser: Hi <you> & me\nAssistant: Hello\n"
    assert shape.render(TALK) == f"{text}Assistant:"
    assert shape.render(TALK, add_generation_prompt=False) == text


def test_what_templates_of_others_use() -> None:
    """Loop controls, JSON without HTML, namespaces, and refusals of their own."""
    shape = ChatFormat(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m['role'] == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{{ m.content | tojson }}{% if ns.n == 2 %}{% break %}{% endif %}{% endfor %}"
        "{% if ns.n == 0 %}{{ raise_exception('a user must speak') }}{% endif %}"
    )
    assert shape.render([Message("user", "é <b>"), *TALK]) == '"é <b>""Hi <you> & me"'
    with pytest.raises(MessagesRefused, match="^a user must speak$"):
        shape.render(TALK[:1])


def test_messages_are_values() -> None:
    """Nothing in a message is run."""
    hostile = "{{ 7 * 7 }}{% for i in range(9) %}{0.__class__}%s"
    assert ChatFormat("{{ messages[0].content }}").render([Message("user", hostile)]) == hostile


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].nothing }}",
        "{{ messages[9].content }}",
        "{{ bos_token }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[0].content.__class__.__subclasses__() }}",
        "{{ 1 // 0 }}",
        "{{ messages + 1 }}",
        "{% for i in range(1000000) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '\\ud800' }}",
    ],
)
def test_a_template_that_fails_refuses_the_messages(template: str) -> None:
    """Whatever it raises: what is not there is no empty text, and the sandbox has an edge."""
    with pytest.raises(MessagesRefused):
        ChatFormat(template).render(TALK)


def test_the_text_is_bounded() -> None:
    """In bytes, and before all of it is made."""
    shape = ChatFormat("{% for m in messages %}{% for _ in range(90000) %}{{ m.content }}{% endfor %}{% endfor %}")
    with pytest.raises(MessagesRefused, match="more than 1000 bytes"):
        shape.render([Message("user", "é" * 100_000)] * 1000, max_bytes=1000)
    assert len(ChatFormat("{{ messages[0].content }}").render([Message("user", "é" * 500)], max_bytes=1000)) == 500


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation that takes long is given up."""
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.02)
    shape = ChatFormat("{% for a in range(90000) %}{% for b in range(90000) %}{{ '' }}{% endfor %}.{% endfor %}")
    with pytest.raises(MessagesRefused, match=r"more than 0\.02 seconds"):
        shape.render(TALK)


@pytest.mark.parametrize("has_chat", [False, True])
def test_only_a_template_costs_its_library(tmp_path: Path, has_chat: bool) -> None:
    """Servers of other bundles start without it."""
    bundles.write_bundle(tmp_path, chat=ChatFormat(DIALOGUE) if has_chat else None)
    program = (
        "import sys; import carousel.app; from pathlib import Path; from carousel.bundle.manifest import Bundle; "
        "Bundle.load(Path(sys.argv[1])); print('jinja2' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(has_chat)
