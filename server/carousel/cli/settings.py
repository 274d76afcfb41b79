"""`carousel settings`: what can be set, as `carousel.settings` declares it."""

import rich
import rich.table

from carousel.settings import Settings


def settings() -> None:
    """List every setting: environment variable, default, meaning."""
    table = rich.table.Table("setting", "environment", "default", "meaning")
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        table.add_row(name, f"CAROUSEL_{name.upper()}", default, field.description)
    rich.print(table)
