"""A bundle loads completely and verified, or is refused with the name of the wrong part."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import bundles
from tests.bundles import Sizes
from tests.fakes import byte_tokenizer, character_tokenizer

from carousel.bundle.chat import ChatFormat
from carousel.bundle.manifest import CORE_FILE, FILE_NAME, HEAD_FILE, Bundle, Manifest, file_digest
from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel.errors import BundleInvalid


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    bundles.write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(directory: Path, **changes: Any) -> None:
    """Changes the manifest's text and leaves its digest unchanged."""
    facts = json.loads((directory / FILE_NAME).read_text())
    (directory / FILE_NAME).write_text(json.dumps(facts | changes))


def forge(directory: Path, **changes: Any) -> None:
    """Changes the manifest's facts and its digest to match, as an attacker who knows the format would."""
    facts = json.loads((directory / FILE_NAME).read_text()) | changes
    hashed = {key: value for key, value in facts.items() if key not in ("digest", "name", "training")}
    content = json.dumps(hashed, sort_keys=True).encode()
    (directory / "hashed").write_bytes(content)
    facts["digest"] = file_digest(directory / "hashed")
    (directory / FILE_NAME).write_text(json.dumps(facts))


def test_a_whole_bundle_loads(directory: Path) -> None:
    """Manifest, tokenizer and graphs are those that were written."""
    bundle = Bundle.load(directory)
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.state == Sizes().layout
    assert bundle.tokenizer.size == 256
    for name in (CORE_FILE, HEAD_FILE):
        assert bundle.read_graph(name) == (directory / name).read_bytes()


def test_a_graph_that_changes_after_the_check_is_refused(directory: Path) -> None:
    """The server runs exactly what it verified."""
    bundle = Bundle.load(directory)
    (directory / CORE_FILE).write_bytes(b"another")
    with pytest.raises(BundleInvalid, match=f"{CORE_FILE}: digest mismatch"):
        bundle.read_graph(CORE_FILE)


def test_a_plain_stack_says_nothing_of_blocks(directory: Path) -> None:
    """Bundles from before blocks existed keep their digests; another block is written, read and digested."""
    plain = Bundle.load(directory).manifest
    assert plain.block == "plain"
    assert "block" not in json.loads((directory / FILE_NAME).read_text())
    forge(directory, block="residual")
    other = Bundle.load(directory).manifest
    assert other.block == "residual"
    assert other.digest != plain.digest
    forge(directory, block=3)
    with pytest.raises(BundleInvalid, match="block is 3"):
        Bundle.load(directory)


def test_a_bundle_without_a_chat_says_nothing_of_it(directory: Path) -> None:
    """Bundles from before chats existed keep their digests; a chat is written, read and digested."""
    silent = Bundle.load(directory).manifest
    assert silent.chat is None
    assert "chat" not in json.loads((directory / FILE_NAME).read_text())
    forge(directory, chat={"template": "{{ messages[0].content }}", "stops": ["\n"]})
    talking = Bundle.load(directory).manifest
    assert talking.chat == ChatFormat("{{ messages[0].content }}", ("\n",))
    assert talking.digest != silent.digest
    talking.save(directory)
    assert Bundle.load(directory).manifest == talking
    edit(directory, chat={"template": "another", "stops": ["\n"]})
    with pytest.raises(BundleInvalid, match="its digest does not match"):
        Bundle.load(directory)


@pytest.mark.parametrize(
    ("chat", "problem"),
    [
        (None, "chat is None"),
        ([], "chat is"),
        ({}, "template"),
        ({"template": 3}, "a text of chat is 3"),
        ({"template": ""}, "from 1 to 65536 bytes"),
        ({"template": "x" * 65_537}, "from 1 to 65536 bytes"),
        ({"template": "\ud800"}, "surrogates"),
        ({"template": "x", "stops": "\n"}, "chat.stops is"),
        ({"template": "x", "stops": [1]}, "a text of chat is 1"),
        ({"template": "x", "stops": [""]}, "from 1 to 256 bytes"),
        ({"template": "x", "stops": ["y"] * 9}, "at most 8 stops"),
        ({"template": "x", "unheard_of": 1}, "unheard_of"),
        ({"template": "a\n{% for message in messages %}"}, "line 2 of the chat template"),
        ({"template": "{{ messages | unheard_of }}"}, "unheard_of"),
        ({"template": "{{" + "(" * 5_000}, "chat template"),
        ({"template": "{% if 1 %}" * 100 + "{% endif %}" * 100}, "chat template"),
    ],
)
def test_a_chat_that_is_none_is_refused(directory: Path, chat: Any, problem: str) -> None:
    """When the bundle is loaded, and not at the first conversation."""
    forge(directory, chat=chat)
    with pytest.raises(BundleInvalid, match=problem):
        Bundle.load(directory)


def test_the_forger_of_these_tests_forges_well(directory: Path) -> None:
    """A forged manifest with valid facts is accepted, so the refusals below have their own reasons."""
    forge(directory, num_parameters=77)
    assert Bundle.load(directory).manifest.num_parameters == 77


def test_saved_and_read_is_the_same_manifest(directory: Path) -> None:
    """Writing a manifest and reading it back changes nothing."""
    manifest = Bundle.load(directory).manifest
    manifest.save(directory)
    assert Bundle.load(directory).manifest == manifest


def test_the_digest_is_of_what_decides_the_answers(directory: Path) -> None:
    """Another name or training facts leave the digest; another file, size or start token changes it."""
    facts = json.loads((directory / FILE_NAME).read_text())
    digest = facts["digest"]

    def digest_with(**changes: Any) -> str:
        forge(directory, **(facts | changes))
        return Bundle.load(directory).manifest.digest

    assert digest_with(name="other", training={"x": 1}) == digest
    assert digest_with(start_id=11) != digest
    (directory / CORE_FILE).write_bytes(bundles.core_graph(Sizes(seed=5)).SerializeToString())
    assert bundles.sign(directory, Sizes(), byte_tokenizer()).digest != digest


@pytest.mark.parametrize("name", [FILE_NAME, CORE_FILE, HEAD_FILE, TOKENIZER_FILE])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    """Each of the four files must be there."""
    (directory / name).unlink()
    with pytest.raises(BundleInvalid, match=name):
        Bundle.load(directory)


def cut(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def empty(content: bytes) -> bytes:
    return b""


def lengthen(content: bytes) -> bytes:
    return content + b"\0"


@pytest.mark.parametrize("damage", [cut, flip, empty, lengthen])
@pytest.mark.parametrize("name", [CORE_FILE, HEAD_FILE, TOKENIZER_FILE])
def test_a_damaged_file_is_named(directory: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    """A file that was cut, changed in one bit, emptied or extended does not match its digest."""
    path = directory / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleInvalid, match=f"{name}: digest mismatch"):
        Bundle.load(directory)


def test_a_bundle_that_is_not_there_says_where_it_was_sought(tmp_path: Path) -> None:
    """The directory that does not exist, or is a file, is in the message."""
    with pytest.raises(BundleInvalid, match="nowhere"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleInvalid, match="file"):
        Bundle.load(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b'"x"', b"{}", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(directory: Path, content: bytes) -> None:
    """Whatever the file holds, the error is BundleInvalid and names it."""
    (directory / FILE_NAME).write_bytes(content)
    with pytest.raises(BundleInvalid, match=FILE_NAME):
        Bundle.load(directory)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        *((version, ": export it again with carousel-export RUN BUNDLE") for version in (0, 1, 2)),
        (4, ": it needs a newer carousel-serving"),
        *((version, "") for version in ("3", None, [3], True, 2.0)),
    ],
)
def test_another_schema_version_is_refused(directory: Path, version: object, remedy: str) -> None:
    """The message says which version it is, which one is read, and what to do about it."""
    edit(directory, schema_version=version)
    with pytest.raises(BundleInvalid, match=f"schema version .*reads 3{remedy}$"):
        Bundle.load(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"start_id": 11},
        {"cell": "gru"},
        {"hidden_size": 13},
        {"precision": "int8"},
        {"digest": "0" * 64},
        {"digest": 1},
    ],
)
def test_an_edited_manifest_is_refused(directory: Path, change: dict[str, object]) -> None:
    """A fact that decides the answers cannot be changed alone."""
    edit(directory, **change)
    with pytest.raises(BundleInvalid, match=f"{FILE_NAME} was changed"):
        Bundle.load(directory)


def test_a_missing_or_unknown_key_is_named(directory: Path) -> None:
    """Every key must be there, and no other."""
    facts = json.loads((directory / FILE_NAME).read_text())
    for key in facts.keys() - {"schema_version", "training", "digest"}:
        (directory / FILE_NAME).write_text(json.dumps({k: v for k, v in facts.items() if k != key}))
        with pytest.raises(BundleInvalid, match=key):
            Bundle.load(directory)
    edit(directory, **facts, surprise=1)
    with pytest.raises(BundleInvalid, match="surprise"):
        Bundle.load(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"files": "core.onnx"},
        {"files": 5},
        {"files": {"core.onnx": 5}},
        {"files": {"core\0.onnx": "0"}},
        {"files": {}},
        {"state": 5},
        {"state": ["h"]},
        {"state": [{"name": "h", "shape": [-4], "dtype": "float32", "initial": 0}]},
        {"state": [{"name": "h", "shape": [4], "dtype": "float33", "initial": 0}]},
        {"tokenizer_kind": "morse"},
        {"start_id": 256},
        {"start_id": -1},
        {"start_id": "0"},
        {"hidden_size": "wide"},
        {"num_layers": None},
        {"num_parameters": 1.5},
        {"vocabulary_size": 255},
        {"vocabulary_size": "256"},
        {"name": "\ud800"},
        {"cell": "\ud800"},
        {"state": [{"name": "\ud800", "shape": [4], "dtype": "float32", "initial": 0.0}]},
        {"hidden_size": 2**16},
        {"num_layers": 0},
        {"num_layers": 2**31},
        {"num_parameters": 2**63},
        {"state": [{"name": "h", "shape": [2**29], "dtype": "float32", "initial": 0.0}]},
        {"state": [{"name": "h", "shape": [2**32, 2**32], "dtype": "float32", "initial": 0.0}]},
        {"state": [{"name": "h", "shape": [4], "dtype": "float32", "initial": 10**400}]},
        {"state": [{"name": "h", "shape": [float("inf")], "dtype": "float32", "initial": 0.0}]},
        {"training": 5},
        {"name": 5},
        {"cell": ["lstm"]},
    ],
)
def test_facts_of_the_wrong_kind_are_refused(directory: Path, change: dict[str, object]) -> None:
    """Even with a matching digest, a manifest with impossible values is BundleInvalid and nothing else."""
    forge(directory, **change)
    with pytest.raises(BundleInvalid):
        Bundle.load(directory)


@pytest.mark.parametrize("name", ["x" * 256, "\u202e" * 300])
def test_a_name_that_no_file_can_have_is_refused(directory: Path, name: str) -> None:
    """A name that is longer than a file system accepts is BundleInvalid, as a missing file is."""
    files = json.loads((directory / FILE_NAME).read_text())["files"]
    forge(directory, files=files | {name: "0" * 64})
    with pytest.raises(BundleInvalid, match="too long"):
        Bundle.load(directory)


@pytest.mark.parametrize("name", ["../outside", "sub/inside", "/etc/hostname", "..", ".", ""])
def test_a_file_outside_the_bundle_is_refused(directory: Path, name: str) -> None:
    """Names that lead elsewhere are refused before any read."""
    (directory.parent / "outside").write_text("secret")
    (directory / "sub").mkdir()
    (directory / "sub" / "inside").write_text("secret")
    files = json.loads((directory / FILE_NAME).read_text())["files"]
    forge(directory, files=files | {name: file_digest(directory.parent / "outside")})
    with pytest.raises(BundleInvalid):
        Bundle.load(directory)


@pytest.mark.parametrize("name", [CORE_FILE, HEAD_FILE, TOKENIZER_FILE])
def test_a_link_is_refused(directory: Path, name: str) -> None:
    """A symbolic link, even to the right content, does not count as a file of the bundle."""
    (directory / name).rename(directory.parent / name)
    (directory / name).symlink_to(directory.parent / name)
    with pytest.raises(BundleInvalid, match=f"{name}: a bundle's files lie in the bundle"):
        Bundle.load(directory)


def test_a_tokenizer_of_another_size_is_refused(directory: Path) -> None:
    """The message has both sizes."""
    small = character_tokenizer("ab")
    small.save(directory / TOKENIZER_FILE)
    bundles.sign(directory, Sizes(), small)
    with pytest.raises(BundleInvalid, match="3 tokens.*256"):
        Bundle.load(directory)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": {"type": "Morse"}}'])
def test_a_tokenizer_that_is_none_is_refused(directory: Path, content: bytes) -> None:
    """The file must be a tokenizer, signed or not."""
    (directory / TOKENIZER_FILE).write_bytes(content)
    bundles.sign(directory, Sizes(), byte_tokenizer())
    with pytest.raises(BundleInvalid, match=TOKENIZER_FILE):
        Bundle.load(directory)


def test_a_tokenizer_of_another_kind_than_said_is_refused(directory: Path) -> None:
    """Characters that no byte is written with are not tokens of a byte vocabulary."""
    odd = character_tokenizer("".join(chr(0x4E00 + n) for n in range(255)))
    odd.save(directory / TOKENIZER_FILE)
    bundles.sign(directory, Sizes(), byte_tokenizer())
    with pytest.raises(BundleInvalid, match=TOKENIZER_FILE):
        Bundle.load(directory)


def test_from_json_of_what_as_json_gave_needs_the_digest(directory: Path) -> None:
    """The facts without their digest are not a manifest."""
    with pytest.raises(BundleInvalid, match="was changed"):
        Manifest.from_json(Bundle.load(directory).manifest.as_json())
