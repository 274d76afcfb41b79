"""Composes what knows callers and shows who the server is. No other module does."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from carousel.identity.certificates import Certificate, CertificateFiles, watch_certificate
from carousel.identity.doorkeeper import Doorkeeper
from carousel.identity.principals import Principals, read_principals
from carousel.identity.scopes import HEALTH, PROBES, REFLECTION
from carousel.identity.watched_files import WatchedFiles
from carousel.quotas import Quotas
from carousel.settings import Settings

_FilesRead = Callable[[str, bool], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """The files are None where the settings name none. `doorkeeper` is for all transports."""

    certificate: WatchedFiles[Certificate] | None
    principals: WatchedFiles[Principals] | None
    doorkeeper: Doorkeeper
    quotas: Quotas

    def watches(self, principals_changed: Callable[[], None]) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Returns, by name, what must run while the server does, so that changed files are read."""
        found: dict[str, Callable[[], Awaitable[None]]] = {}
        if self.certificate is not None:
            found["certificate"] = self.certificate.watch
        if self.principals is not None:
            found["principals"] = partial(self.principals.watch, partial(self._renew, principals_changed))
        return found

    def _renew(self, principals_changed: Callable[[], None]) -> None:
        assert self.principals is not None
        self.quotas.replace(self.principals.current.quotas)
        principals_changed()


def make_identity(settings: Settings, model: str, files_read: _FilesRead, quotas: Quotas | None = None) -> Identity:
    """`model` is the name of the served model. `quotas` get those of the principals, now and at each change.
    `files_read` hears of each later reading, as WatchedFiles says. Raises SettingsInvalid for files that cannot be
    used."""
    principals = _watch_principals(settings, files_read)
    doorkeeper = Doorkeeper(settings.owner_metadata, principals, model, _anonymous_calls(settings))
    quotas = quotas or Quotas(settings.owner_limits)
    if principals is not None:
        quotas.replace(principals.current.quotas)
    return Identity(_watch_certificate(settings, files_read), principals, doorkeeper, quotas)


def _watch_certificate(settings: Settings, files_read: _FilesRead) -> WatchedFiles[Certificate] | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return watch_certificate(CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca), files_read)


def _watch_principals(settings: Settings, files_read: _FilesRead) -> WatchedFiles[Principals] | None:
    path = settings.principals
    if path is None:
        return None
    return WatchedFiles("principals", [path], partial(_read_principals, path, settings.owner_metadata), files_read)


def _read_principals(path: Path, owner_metadata: str) -> Principals:
    """Refuses a principal that forwards where no metadata key says for whom: all its users would be one owner."""
    principals = read_principals(path)
    if principals.forwarding and not owner_metadata:
        raise ValueError(f"{path}: {principals.forwarding[0]} forwards, so the setting owner_metadata must name a key")
    return principals


def _anonymous_calls(settings: Settings) -> frozenset[str]:
    needs = {HEALTH: settings.health_needs_identity, REFLECTION: settings.reflection_needs_identity}
    return PROBES | {service for service, is_needed in needs.items() if not is_needed}
