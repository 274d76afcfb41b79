"""The settings say which files are read, and which calls need no identity."""

import asyncio
from pathlib import Path

import pytest
from tests.certificates import Authority, replace

from carousel.errors import CarouselError, SettingsInvalid, Unauthenticated
from carousel.identity.composition import Identity, make_identity
from carousel.identity.doorkeeper import Evidence
from carousel.identity.principals import digest
from carousel.identity.scopes import HEALTH, REFLECTION, SCOPES
from carousel.settings import read_settings

TOKEN = "t" * 43
FILE = f'[[principal]]\nname = "me"\nscopes = ["generate"]\ntokens = ["{digest(TOKEN)}"]\nmodels = ["toy"]\n'
EVIDENCE = Evidence((("authorization", f"Bearer {TOKEN}"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "principals.toml"
    path.write_text(FILE)
    return path


def make(**given: str) -> Identity:
    return make_identity(read_settings({}, given), "toy", lambda name, is_good: None)


def refused(identity: Identity) -> set[str]:
    """The calls that somebody unknown may not make."""
    found = set()
    for call in SCOPES:
        try:
            identity.doorkeeper.admit(call, Evidence())
        except CarouselError:
            found.add(call)
    return found


def test_without_files_everybody_may_call() -> None:
    """Nothing is watched."""
    identity = make()
    assert (identity.certificate, identity.principals, identity.watches(lambda: None)) == (None, None, {})
    assert refused(identity) == set()


def test_with_principals_all_but_probes_and_health_need_an_identity(path: Path) -> None:
    """Settings of their own say it for health and reflection."""
    ours = SCOPES.keys() - {HEALTH, "/healthz", "/readyz"}
    assert refused(make(principals=str(path))) == ours
    assert refused(make(principals=str(path), health_needs_identity="true")) == ours | {HEALTH}
    assert refused(make(principals=str(path), reflection_needs_identity="false")) == ours - {REFLECTION}


def test_the_doorkeeper_knows_model_and_principals(path: Path) -> None:
    """Those of this server."""
    assert make(principals=str(path)).doorkeeper.admit("Generate", EVIDENCE).owner == "me"
    other = make_identity(read_settings({}, {"principals": str(path)}), "other", lambda name, is_good: None)
    with pytest.raises(CarouselError, match="the model other"):
        other.doorkeeper.admit("Generate", EVIDENCE)


def test_a_bad_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    """It names the setting."""
    with pytest.raises(SettingsInvalid, match="^principals: .*No such file"):
        make(principals=str(tmp_path / "missing"))


def test_who_forwards_needs_a_key_that_says_for_whom(path: Path) -> None:
    """Without the key, all users of a gateway would be one owner and see each other's sessions."""
    path.write_text(f"{FILE}forwards = true\n")
    with pytest.raises(SettingsInvalid, match="me forwards, so the setting owner_metadata must name a key"):
        make(principals=str(path))
    identity = make(principals=str(path), owner_metadata="x-user")
    evidence = Evidence((*EVIDENCE.metadata, ("x-user", "ada")))
    assert identity.doorkeeper.admit("Generate", evidence).owner == "ada"


async def test_both_are_watched(tmp_path: Path, path: Path) -> None:
    """A change of the principals is told, so that open calls are asked again."""
    cert, key = Authority().write(tmp_path, "server")
    identity = make(principals=str(path), tls_cert=str(cert), tls_key=str(key))
    has_changed = asyncio.Event()
    watches = identity.watches(has_changed.set)
    assert watches.keys() == {"certificate", "principals"}
    watching = asyncio.ensure_future(watches["principals"]())
    replace(path, FILE.replace(digest(TOKEN), digest("another")).encode())
    async with asyncio.timeout(10):
        await has_changed.wait()
    watching.cancel()
    with pytest.raises(Unauthenticated):
        identity.doorkeeper.admit("Generate", EVIDENCE)
