"""The findings of a fuzz and how they are reported: kind, seed, number, what happened, how to reproduce it."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CRASH, HANG, INTERNAL = "crash", "hang", "internal error"
_MAX_TOLD = 40  # findings of one kind that are reported in full; others are counted


@dataclass(frozen=True, slots=True)
class Finding:
    """`numbers`: the input, or those that were running when it happened."""

    what: str
    kind: str
    numbers: Sequence[int]
    detail: str
    content: bytes = b""


@dataclass(slots=True)
class Report:
    """The counts of a whole run. Findings are printed on standard error at once; their inputs are saved as files."""

    seed: int
    directory: Path
    findings: list[Finding] = field(default_factory=list)
    num_inputs: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)  # of the calls' answers

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        if sum(one.kind == finding.kind for one in self.findings) > _MAX_TOLD:
            return
        first, count = min(finding.numbers), max(finding.numbers) - min(finding.numbers) + 1
        again = f"SEED={self.seed} make fuzz KINDS={finding.kind} FIRST={first} INPUTS={count}"
        lines = [f"{finding.what}: {finding.kind} {list(finding.numbers)} of seed {self.seed}: {finding.detail}"]
        if finding.content:
            path = self.directory / f"{finding.kind}-{self.seed}-{first}.hex"
            path.write_text(finding.content.hex())
            lines.append(f"  input, {len(finding.content)} bytes in hex: {path}")
        print("\n".join((*lines, f"  again: {again}")), file=sys.stderr, flush=True)

    def count(self, what: str) -> int:
        return sum(one.what == what for one in self.findings)

    @property
    def share_ok(self) -> float:
        return self.codes["OK"] / max(1, self.codes.total())
