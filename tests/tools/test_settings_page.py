"""The page of settings is what the server says of itself."""

import json
from pathlib import Path

from tools.settings_page import make_page, name_settings, read_settings

from tools import settings_page

_ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_command_writes() -> None:
    """The committed page has every setting with its default: `make settings` changes nothing."""
    assert (_ROOT / settings_page.PAGE).read_text() == make_page(read_settings())


def test_groups_have_tables_of_their_own() -> None:
    """A setting is under its group, in the order given."""
    made = [
        {"group": group, "name": name, "environment": "", "default": "1", "meaning": f"what {name} means"}
        for group, name in (("Turns", "b"), ("Turns", "a"), ("Owners", "c"))
    ]
    page = make_page(made)
    assert page.index("## Turns") < page.index("| `b` | `1` | what b means |") < page.index("| `a` | `1` |")
    assert page.index("| `a` | `1` |") < page.index("## Owners") < page.index("| `c` | `1` |")


def test_the_charts_schema_takes_the_names() -> None:
    """Nothing else in it changes."""
    schema = '{"a": 1, "properties": {"settings": {"propertyNames": {"enum": ["gone"]}}}}'
    made = json.loads(name_settings(schema, [{"name": "b"}, {"name": "a"}]))
    assert made == {"a": 1, "properties": {"settings": {"propertyNames": {"enum": ["b", "a"]}}}}
