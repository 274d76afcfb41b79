"""A short fuzz finds nothing in the product, and finds the planted faults."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from trials.fuzz.__main__ import FIXED_SEED, LEAST_OK, print_results
from trials.fuzz.findings import CRASH, HANG, INTERNAL, Finding, Report
from trials.fuzz.fuzzing import KINDS, Fuzz, run_fuzz
from trials.fuzz.guiding import is_available
from trials.fuzz.planted import EXIT_CODE, FAULTY_REST

pytestmark = pytest.mark.slow

SHARE = 0.06


def test_a_short_fuzz_finds_nothing(tmp_path: Path) -> None:
    """Inputs of every kind bring neither crash nor hang nor internal error, and a good part of the calls succeeds."""
    report = run_fuzz(Fuzz(FIXED_SEED, share=SHARE), tmp_path / "fuzz")
    assert report.findings == []
    assert report.num_inputs == Counter({kind: int(count * SHARE) for kind, count in KINDS.items()})
    assert report.share_ok >= LEAST_OK


def fuzz_planted(fault: str, kind: str, num_inputs: int, tmp_path: Path) -> Report:
    planted = (sys.executable, "-m", "trials.fuzz.planted", fault)
    fuzz = Fuzz(
        7,
        (kind,),
        0,
        num_inputs,
        hang_seconds=3.0,
        server_command=planted,
        decoder_command=planted,
        guided_command=(*planted, "guided"),
    )
    return run_fuzz(fuzz, tmp_path / "fuzz")


@pytest.mark.parametrize(
    ("fault", "what", "told"), [("raise", CRASH, "KeyError"), ("hang", HANG, "no end"), ("exit", CRASH, str(EXIT_CODE))]
)
def test_a_fault_of_a_decoder_is_found(fault: str, what: str, told: str, tmp_path: Path) -> None:
    """A decoder that raises, hangs or kills its process is reported with number and input, and later inputs still
    run."""
    report = fuzz_planted(fault, "snapshots", 10, tmp_path)
    assert report.findings
    assert {(one.what, one.kind) for one in report.findings} == {(what, "snapshots")}
    for one in report.findings:
        assert told in one.detail
        assert len(one.content) % 4 == FAULTY_REST
        assert (report.directory / f"snapshots-7-{one.numbers[0]}.hex").read_text() == one.content.hex()
    assert report.num_inputs["snapshots"] == 10


@pytest.mark.parametrize(
    ("fault", "what", "told"),
    [("raise", INTERNAL, "is answered"), ("hang", HANG, "not respond"), ("exit", CRASH, str(EXIT_CODE))],
)
def test_a_fault_of_a_server_is_found(fault: str, what: str, told: str, tmp_path: Path) -> None:
    """A server that fails, hangs or exits at some call is reported with the running calls, and the next inputs go to a
    running server."""
    report = fuzz_planted(fault, "messages", 120, tmp_path)
    assert report.findings
    assert {(one.what, one.kind) for one in report.findings} == {(what, "messages")}
    assert all(told in one.detail for one in report.findings)
    assert report.num_inputs["messages"] == 120
    assert report.codes["OK"] > 0


@pytest.mark.skipif(not is_available(), reason="atheris has no wheel for this system")
@pytest.mark.parametrize(("fault", "told"), [("raise", "KeyError"), ("exit", str(EXIT_CODE))])
def test_a_fault_under_guidance_is_found(fault: str, told: str, tmp_path: Path) -> None:
    """The coverage-guided child ends at the fault, and its input is saved."""
    (finding,) = fuzz_planted(fault, "guided_snapshots", 20_000, tmp_path).findings
    assert (finding.what, finding.kind) == (CRASH, "guided_snapshots")
    assert told in finding.detail
    if fault == "raise":  # an exit at once leaves no time to write
        assert len(finding.content) % 4 == FAULTY_REST


@pytest.mark.parametrize("what", [CRASH, HANG, INTERNAL])
def test_each_finding_fails_the_run(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any finding makes the result a failure, with the command that reproduces it."""
    report = Report(3, tmp_path)
    assert print_results([report])
    report.add(Finding(what, "bundles", [17], "why", b"\x01\x02"))
    assert not print_results([report])
    told = capsys.readouterr().err
    assert "bundles [17] of seed 3: why" in told
    assert "SEED=3 make fuzz KINDS=bundles FIRST=17 INPUTS=1" in told
    assert (tmp_path / "bundles-3-17.hex").read_text() == "0102"
