"""The page of the wire contract is what the proto files say, with their comments."""

from pathlib import Path

import pytest
from tools.api_page import make_page, read_contract

from tools import api_page

_ROOT = Path(__file__).parents[2]
_CONTRACT = """\
// What this file is about.
syntax = "proto3";

package carousel.v1;

import "google/protobuf/duration.proto";

// Turns a wheel.
service Wheels {
  // Until it stands
  // still.
  rpc Turn(stream Push) returns (Push.Way);
}

message Push {
  // How hard: weak | strong.
  int32 force = 1;
  optional string name = 2;
  repeated Way ways = 3;
  map<string, int64> marks = 4;
  google.protobuf.Duration time = 7;

  oneof hand {
    string left = 5;
    string right = 6;
  }

  // Where to.
  message Way {
    Kind kind = 1;
  }

  enum Kind {
    KIND_UNSPECIFIED = 0;
    // Out of the way.
    KIND_AWAY = 1;
  }
}

message Nothing {}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("proto")
    (root / "carousel" / "v1").mkdir(parents=True)
    (root / "carousel" / "v1" / "wheels.proto").write_text(_CONTRACT)
    return make_page(read_contract(root, ["wheels.proto"]))


def test_the_page_is_what_the_command_writes() -> None:
    """The committed page is the contract's: `make api` changes nothing."""
    assert (_ROOT / api_page.PAGE).read_text() == make_page(read_contract(_ROOT / "proto"))


def test_every_file_of_the_contract_is_read() -> None:
    """A new file must not be left out of the page."""
    assert {path.name for path in (_ROOT / "proto" / "carousel" / "v1").glob("*.proto")} == set(api_page.FILES)


def test_services_say_what_goes_in_and_out(page: str) -> None:
    """A call has its heading, both types with links, and its unchanged comment."""
    assert "## wheels.proto\n\nWhat this file is about.\n\n### service Wheels\n\nTurns a wheel.\n" in page
    assert "#### Turn\n\nstream of [Push](#push) → [Push.Way](#pushway)\n\nUntil it stands\nstill.\n" in page


@pytest.mark.parametrize(
    "row",
    [
        r"| `force` | int32 | 1 | How hard: weak \| strong. |",
        "| `name` | optional string | 2 |  |",
        "| `ways` | repeated [Push.Way](#pushway) | 3 |  |",
        "| `marks` | map of string to int64 | 4 |  |",
        "| `left` | string, one of `hand` | 5 |  |",
        "| `time` | `google.protobuf.Duration` | 7 |  |",
        "| `kind` | [Push.Kind](#pushkind) | 1 |  |",
        "| `KIND_AWAY` | 1 | Out of the way. |",
    ],
)
def test_fields_and_values_have_a_row(page: str, row: str) -> None:
    """The row has type, number and comment; a bar in a comment does not end its cell."""
    assert row in page.splitlines()


def test_what_lies_in_a_message_follows_it(page: str) -> None:
    """It comes under its full name; a map's entry is no separate message, and an empty message says so."""
    assert page.index("### Push\n") < page.index("### Push.Way\n\nWhere to.") < page.index("### Push.Kind\n")
    assert "MarksEntry" not in page
    assert "### Nothing\n\nNo fields." in page
