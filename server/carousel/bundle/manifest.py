"""The bundle: a directory with `manifest.json`, `tokenizer.json` and two ONNX graphs, described and verified here.

The manifest holds the sha256 of every other file. The model's digest is the sha256 over those, the sizes and the state
layout, so two bundles with one digest give the same answers. Training facts are for people and not part of the digest.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from carousel.bundle.chat import ChatFormat
from carousel.bundle.layout import StateLayout
from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel.bundle.tokenizer import Tokenizer, TokenizerKind
from carousel.errors import BundleInvalid

FILE_NAME = "manifest.json"
CORE_FILE = "core.onnx"
HEAD_FILE = "head.onnx"
SCHEMA_VERSION = 3  # 1: the head needed a target for each row; 2: it had no probabilities
PLAIN = "plain"
_MOST = {  # what the wire and a snapshot can express
    "num_layers": 2**31 - 1,
    "hidden_size": 2**16 - 1,
    "vocabulary_size": 2**31 - 1,
    "num_parameters": 2**63 - 1,
}


@dataclass(frozen=True)
class Manifest:
    """Everything the server knows of a model besides its weights."""

    name: str
    cell: str  # "lstm", "gru", ...
    num_layers: int
    hidden_size: int  # H: width of the core's output and the head's input
    vocabulary_size: int  # V
    num_parameters: int
    precision: str  # "float32" or "int8"
    tokenizer_kind: TokenizerKind
    start_id: int  # every new sequence has consumed this token before position 0
    state: StateLayout
    files: Mapping[str, str]  # file name -> sha256, all files but the manifest
    training: Mapping[str, Any] = field(default_factory=dict)
    block: str = PLAIN  # what surrounds a layer: nothing, or "residual"
    chat: ChatFormat | None = None  # how a conversation becomes text, for models that were trained on some

    @functools.cached_property
    def digest(self) -> str:
        """The identity of the model: sha256 over all that decides its answers."""
        facts = self.as_json()
        del facts["training"], facts["name"], facts["digest"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "digest": "",
            "cell": self.cell,
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "vocabulary_size": self.vocabulary_size,
            "num_parameters": self.num_parameters,
            "precision": self.precision,
            "tokenizer_kind": str(self.tokenizer_kind),
            "start_id": self.start_id,
            "state": self.state.as_json(),
            "files": dict(self.files),
            "training": dict(self.training),
        }
        # Without a block and a chat, the manifest is as in older versions: its digest stays the same.
        if self.block != PLAIN:
            facts["block"] = self.block
        if self.chat is not None:
            facts["chat"] = self.chat.as_json()
        return facts

    def save(self, directory: Path) -> None:
        facts = self.as_json() | {"digest": self.digest}
        (directory / FILE_NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "Manifest":
        """Raises BundleInvalid for another schema version, a bad or missing value, or a digest that does not match."""
        version = facts.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleInvalid(
                f"{FILE_NAME} has schema version {version!r}; this server reads {SCHEMA_VERSION}{_remedy(version)}"
            )
        rest = {key: value for key, value in facts.items() if key not in ("schema_version", "digest")}
        try:
            rest["state"] = StateLayout.from_json(rest["state"])
            rest["tokenizer_kind"] = TokenizerKind(rest["tokenizer_kind"])
            if "chat" in rest:
                rest["chat"] = ChatFormat.from_json(rest["chat"])
            manifest = cls(**rest)
            manifest._check_values()
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BundleInvalid(f"{FILE_NAME} is not valid: {error}") from error
        if manifest.digest != facts.get("digest"):
            raise BundleInvalid(f"{FILE_NAME} was changed: its digest does not match its contents")
        return manifest

    def _check_values(self) -> None:
        """Raises TypeError or ValueError with the key: JSON can hold what the annotations do not allow."""
        for one in fields(self):
            wanted = one.type if one.type in (int, str) else dict if one.name in ("files", "training") else object
            if not isinstance(getattr(self, one.name), wanted) or isinstance(getattr(self, one.name), bool):
                raise TypeError(f"{one.name} is {getattr(self, one.name)!r}")
        for text in (self.name, self.cell, self.precision, *(tensor.name for tensor in self.state.tensors)):
            text.encode()  # half a surrogate pair, which JSON can hold, has no bytes
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, not from 1 to {most}")
        if not 0 <= self.start_id < self.vocabulary_size:
            raise ValueError(f"start_id is {self.start_id}, the vocabulary has {self.vocabulary_size} tokens")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: its manifest and its tokenizer. The graphs are verified, and read again when needed, so that
    no copy of all weights stays in memory."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @classmethod
    def load(cls, directory: Path) -> "Bundle":
        """Reads and verifies. Raises BundleInvalid with the file that is missing, edited or outside the bundle."""
        manifest = Manifest.from_json(_read_json(directory))
        contents = {name: _read_verified(directory, name, digest) for name, digest in manifest.files.items()}
        for name in (CORE_FILE, HEAD_FILE, TOKENIZER_FILE):
            if name not in contents:
                raise BundleInvalid(f"{FILE_NAME} lists no {name}")
        try:
            tokenizer = Tokenizer.parse(manifest.tokenizer_kind, contents[TOKENIZER_FILE])
        except ValueError as error:
            raise BundleInvalid(str(error)) from error
        if tokenizer.size != manifest.vocabulary_size:
            raise BundleInvalid(
                f"{TOKENIZER_FILE} has {tokenizer.size} tokens; the model has {manifest.vocabulary_size}"
            )
        return cls(directory, manifest, tokenizer)

    def read_graph(self, name: str) -> bytes:
        """Returns the verified bytes. Raises BundleInvalid if the file has changed since."""
        return _read_verified(self.directory, name, self.manifest.files[name])


def _remedy(version: Any) -> str:
    """Returns the remedy for another schema version; empty if there is none."""
    if not isinstance(version, int) or isinstance(version, bool):
        return ""
    is_older = version < SCHEMA_VERSION
    return ": export it again with carousel-export RUN BUNDLE" if is_older else ": it needs a newer carousel-serving"


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(directory: Path) -> Mapping[str, Any]:
    path = directory / FILE_NAME
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleInvalid(f"no bundle at {directory}: {error.strerror or error} ({FILE_NAME})") from error
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"{FILE_NAME} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise BundleInvalid(f"{FILE_NAME} is not a JSON object")
    return facts


def _read_verified(directory: Path, name: str, digest: str) -> bytes:
    path = directory / name
    try:
        if Path(name).name != name or path.is_symlink():
            raise BundleInvalid(f"{name}: a bundle's files lie in the bundle itself")
        content = path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{name}: {error.strerror or error}") from error
    except ValueError as error:  # no file can have this name
        raise BundleInvalid(f"{name!r}: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleInvalid(f"{name}: digest mismatch, the file is truncated or was edited")
    return content
