"""Kills, pauses and restarts under load, with a checker that nothing acknowledged was lost, doubled or different."""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.harness.reference_models import SIZES, write_reference_bundle
from bench.harness.report import print_figure, print_machine
from trials.checker import check_line, check_listing
from trials.disturbed_run import KINDS, run_and_check
from trials.histories import History
from trials.plans import Plan, draw_seed
from trials.worlds import CLOCKS_APART_SECONDS, WORLDS, Replica

CROWD = {"stepwise": 32, "blocking": 26, "asyncio": 26, "overlapping": 8, "lifecycles": 8, "shared": 8, "forgetful": 2}
COUNTED = ("turns", "kills", "drops", "retries")
ZEROS = ("lost", "doubled", "different", "ended_in_use", "unfinished", "library_unfinished")
MAX_STARVED = 1  # more is a server that refuses too long, not a machine with too much to do
IDLE_SECONDS = 45.0  # more than a client's session waits for servers that come back, less than a run
PAUSE_SECONDS = 0.6
_MAX_DEFECTS = 10  # that are shown


def main() -> None:
    given = _parse()
    print_machine()
    plan = Plan(given.seed, given.turns, SIZES["small"][2], PAUSE_SECONDS, IDLE_SECONDS, given.owners)
    crowd = {kind: CROWD[kind] for kind in given.only or CROWD}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bundle, program = write_reference_bundle("small", directory), (given.python, "-m", "carousel")
        replica = Replica(bundle, IDLE_SECONDS, directory, program, given.clocks_apart)
        is_clean = [try_world(store, replica, directory, plan, crowd) for store in given.stores or WORLDS]
    sys.exit(0 if all(is_clean) else 1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", choices=[*WORLDS, []], help="default: all")
    parser.add_argument("--seed", type=int, default=draw_seed())
    parser.add_argument("--turns", type=int, default=100, help="of each session")
    parser.add_argument("--owners", type=int, default=2, help="who choose the same session ids")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--clocks-apart", type=int, default=CLOCKS_APART_SECONDS, metavar="SECONDS")
    parser.add_argument("--python", default=sys.executable, help="of the installation whose server is tried")
    return parser.parse_args()


def try_world(store: str, replica: Replica, directory: Path, plan: Plan, crowd: Mapping[str, int]) -> bool:
    """Prints the figures. Returns whether all that must be zero are zero."""
    histories, totals = run_and_check(WORLDS[store](replica, directory), plan, crowd, replica)
    _print_troubles(histories)
    _print_contradictions(histories)
    print_figure(f"chaos.{store}.seed", plan.seed, "count")
    for name in COUNTED:
        print_figure(f"chaos.{store}.{name}", totals[name], "count")
    print_figure(f"chaos.{store}.starved", totals["starved"], "count", at_most=MAX_STARVED)
    for name in ZEROS:
        print_figure(f"chaos.{store}.{name}", totals[name], "count", at_most=0)
    num_defects = _print_defects(directory)
    print_figure(f"chaos.{store}.defects", num_defects, "count", at_most=0)
    is_clean = totals["starved"] <= MAX_STARVED and not any(totals[name] for name in ZEROS)
    return is_clean and not num_defects


def _print_troubles(histories: list[History]) -> None:
    """Prints equal troubles once, with one of their messages."""
    troubled = [history for history in histories if history.trouble]
    examples = {(one.kind, one.trouble_reason): one.trouble for one in troubled}
    for what, count in Counter((one.kind, one.trouble_reason) for one in troubled).most_common():
        print(f"{count} {what[0]} gave up: {examples[what]}", file=sys.stderr)


def _print_contradictions(histories: list[History]) -> None:
    """Prints what was lost or doubled, with all answers that the client got about it."""
    for history in histories:
        for line in history.lines:
            if any((found := check_line(line)).values()):
                told = [(turn.position, turn.wish.size) for turn in line.turns]
                print(f"{history.kind}: {dict(found)}, (position, size) {told}, {line.final_position}", file=sys.stderr)
        for listing in history.listings:
            if any((found := check_listing(listing)).values()):
                print(f"{history.kind}: {dict(found)}, {listing}", file=sys.stderr)


def _print_defects(directory: Path) -> int:
    """Prints the errors in the servers' logs, equal ones once. Returns their number."""
    defects = Counter[str]()
    for log in directory.glob("server-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if '"level": "error"' in line:
                facts = {name: fact for name, fact in json.loads(line).items() if name not in ("timestamp", "seconds")}
                defects[json.dumps(facts)] += 1
        log.unlink()
    for defect, count in defects.most_common(_MAX_DEFECTS):
        print(f"{count} times: {defect}", file=sys.stderr)
    return defects.total()


if __name__ == "__main__":
    main()
