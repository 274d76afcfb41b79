"""Bundles: spoiled manifests, tokenizers and graphs, with valid or invalid digests."""

import base64
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.mutations import TEXTS, mutate, mutate_json
from trials.fuzz.state_inputs import draw_snapshot, make_codec

from carousel.bundle.manifest import CORE_FILE, HEAD_FILE, Bundle, Manifest
from carousel.bundle.manifest import FILE_NAME as MANIFEST_FILE
from carousel.bundle.tokenizer import FILE_NAME as TOKENIZER_FILE
from carousel.bundle.tokenizer import Tokenizer, TokenizerKind
from carousel.rpc.convert import from_manifest
from carousel.settings import Settings
from carousel_training.settings import VocabularySettings
from carousel_training.vocabulary import learn_vocabulary

_UNHASHED = ("name", "training", "digest")
_SAMPLE = "the carousel turns and the horses rise\nund die Pferde fallen, süß\n"
_MAX_TRIED = 2**20  # bytes of a state
_TEXT = "The horses rest. \N{PILE OF POO} ü \0 <unk> <eos>\n"


def bundles(place: Place) -> Decoder:
    whole = {name: (place.bundle.directory / name).read_bytes() for name in _names(place.bundle.directory)}
    tokenizers = {kind: _tokenizer(place, kind) for kind in TokenizerKind}
    target = place.directory / "bundle"
    return Decoder(lambda dice: _pack(_draw(dice, whole, tokenizers)), lambda content: _load(content, target))


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _tokenizer(place: Place, kind: TokenizerKind) -> bytes:
    path = place.directory / f"{kind}.json"
    learn_vocabulary(_SAMPLE, VocabularySettings(kind=kind, size=270)).save(path)
    return path.read_bytes()


def _draw(
    dice: random.Random, whole: dict[str, bytes], tokenizers: dict[TokenizerKind, bytes]
) -> dict[str, bytes | None]:
    """Returns files by name; None is a link to the outside."""
    files: dict[str, bytes | None] = dict(whole)
    facts = json.loads(whole[MANIFEST_FILE])
    match dice.randrange(10):
        case 0:
            files[MANIFEST_FILE] = mutate(whole[MANIFEST_FILE], dice)
            return files
        case 1:
            name = dice.choice((CORE_FILE, HEAD_FILE, TOKENIZER_FILE))
            files[name] = dice.choice((None, b"", mutate(whole[name], dice)))
        case 2:
            name = dice.choice(list(files))
            del files[name]
        case 3 | 4 | 5:
            facts = mutate_json(facts, dice)
        case _:
            _put_tokenizer(dice, files, facts, tokenizers)
    if dice.random() < 0.85 and isinstance(facts, dict):
        sign(facts, files)
    if MANIFEST_FILE in files:
        files[MANIFEST_FILE] = json.dumps(facts).encode(errors="surrogatepass")
    return files


def _put_tokenizer(
    dice: random.Random, files: dict[str, bytes | None], facts: dict[str, Any], tokenizers: dict[TokenizerKind, bytes]
) -> None:
    kind = dice.choice(list(tokenizers))
    facts["tokenizer_kind"] = str(kind if dice.random() < 0.8 else dice.choice(list(tokenizers)))
    content = tokenizers[kind]
    if dice.random() < 0.7:
        content = json.dumps(mutate_json(json.loads(content), dice)).encode()
    elif dice.random() < 0.8:
        content = mutate(content, dice)
    files[TOKENIZER_FILE] = content
    vocabulary = _vocabulary(content)
    if vocabulary is not None and dice.random() < 0.9:
        facts["vocabulary_size"] = len(vocabulary)
        facts["start_id"] = dice.choice((0, 0, max(0, len(vocabulary) - 1), 10))


def _vocabulary(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)["model"]["vocab"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def sign(facts: dict[str, Any], files: dict[str, bytes | None]) -> None:
    """Writes digests that match the existing files into the manifest."""
    listed = facts.get("files")
    if isinstance(listed, dict):
        for name in listed:
            content = files.get(name)
            if content is not None:
                listed[name] = hashlib.sha256(content).hexdigest()
    decisive = {key: value for key, value in facts.items() if key not in _UNHASHED}
    facts["digest"] = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _pack(files: dict[str, bytes | None]) -> bytes:
    packed = {name: None if one is None else base64.b64encode(one).decode() for name, one in files.items()}
    return json.dumps(packed).encode()


def _load(content: bytes, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name, packed in json.loads(content).items():
        if packed is None:
            (target / name).symlink_to("/etc/hostname")
        else:
            (target / name).write_bytes(base64.b64decode(packed))
    bundle = Bundle.load(target)
    _use_manifest(bundle.manifest)
    _use_tokenizer(bundle.tokenizer)


def _use_manifest(manifest: Manifest) -> None:
    """An accepted manifest must also work afterwards."""
    from_manifest(manifest, "cpu", Settings())
    codec, noise = make_codec(manifest), random.Random(0)
    if manifest.state.num_bytes < _MAX_TRIED:
        codec.decode(codec.encode(draw_snapshot(noise, manifest)))


def _use_tokenizer(tokenizer: Tokenizer) -> None:
    for text in (*TEXTS, _TEXT):
        ids = tokenizer.encode(text)
        assert all(0 <= index < tokenizer.size for index in ids)
        tokenizer.decode(ids)
    assert 0 <= tokenizer.start_id < tokenizer.size
    assert len(tokenizer.texts) == len(tokenizer.spellings) == tokenizer.size
