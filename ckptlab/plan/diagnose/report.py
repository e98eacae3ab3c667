"""All findings together: in order, in words, and the transform that mends what is sure.

It knows how findings are told and joined, not how they were found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ckptlab.errors import LayoutError
from ckptlab.plan.diagnose.finding import Finding, Rule, number, shortened
from ckptlab.plan.diagnose.side import Side
from ckptlab.plan.transform import Part, Transform

_MOST_RULES = 300
_STAND_IN = 7_770_000_000_000
"""Numbers from here on stand for those of a family: no name has them."""

_STOOD_IN = re.compile(r"7770000000(\d{3})")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What keeps a checkpoint from loading into a target: findings, the weightiest first.

    `fitting` of the target's `asked` keys are in the checkpoint as they are. `checkpoint` and `target` say
    what was looked at. True if something was found.
    """

    findings: tuple[Finding, ...]
    fitting: int
    asked: int
    checkpoint: str = "the checkpoint"
    target: str = "the target"
    stored: Side = field(default_factory=lambda: Side({}), repr=False)
    wanted: Side = field(default_factory=lambda: Side({}), repr=False)
    pairs: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, at: int) -> Finding:
        return self.findings[at]

    @cached_property
    def transform(self) -> Transform:
        """Every remedy that is sure and costs nothing, together: for `load(..., transform=)`."""
        return self.transform_with()

    def transform_with(self, more: Iterable[Finding | int] | Finding | int = ()) -> Transform:
        """The sure remedies and those of `more`, for a reader who has looked at what they cost.

        `more` are findings, or their numbers as they are shown. Raises `LayoutError` for what is neither.
        """
        chosen = [more] if isinstance(more, Finding | int) else list(more)
        wrong = [it for it in chosen if it not in self.findings and it not in range(len(self))]
        if wrong:
            raise LayoutError(
                f"no finding {wrong[0]!r}: there are {number(len(self), 'finding')}, from 0 on", wrong
            )
        taken = [self[it] if isinstance(it, int) else it for it in chosen]
        return self.transform_of([it for it in self.findings if it.applied or it in taken])

    def transform_of(self, findings: Iterable[Finding]) -> Transform:
        """The remedies of these findings, and of no others."""
        taken = [it for it in findings if it.remedy is not None]
        # Rules hold for names as earlier rules have left them, so they stand in the order they were found.
        taken.sort(key=lambda it: it.order)
        return joined(taken, self.stored, self.pairs)

    def summary(self) -> str:
        """One line: how much fits, and what was found."""
        if not self.findings:
            return f"nothing found: all {number(self.asked, 'key')} of {self.target} fit {self.checkpoint}"
        sure = sum(it.applied for it in self.findings)
        remedies = "remedy is" if sure == 1 else "remedies are"
        return (
            f"{number(len(self.findings), 'finding')}; {self.fitting:,} of {number(self.asked, 'key')} "
            f"of the target fit as they are; {sure} {remedies} sure and free of cost"
        )

    def records(self) -> list[dict[str, Any]]:
        """The findings for programs; every key of each."""
        return [
            {
                "kind": it.kind,
                "side": it.side,
                "keys": list(it.keys),
                "cause": it.cause,
                "sure": it.sure,
                "why": it.why,
                "advice": it.advice,
                "cost": it.cost,
                "applied": it.applied,
                "remedy": it.remedy is not None,
            }
            for it in self.findings
        ]

    def __repr__(self) -> str:
        lines = [f"Diagnosis of {self.checkpoint} for {self.target}", f"  {self.summary()}"]
        for i, it in enumerate(self.findings):
            lines += ["", *told(it, i)]
        return "\n".join(lines)


def told(finding: Finding, at: int) -> list[str]:
    """A finding in words, a line for each thing to know."""
    whose = f"of the {finding.side}"
    return [
        f"[{at}] {finding.kind}: {finding.cause}",
        f"    keys    {number(len(finding.keys), 'key')} {whose}: {shortened(finding.keys)}",
        f"    sure    {finding.sure:.0%}: {finding.why}",
        f"    remedy  {standing(finding)}: {finding.advice}",
        *([f"    cost    {finding.cost}"] if finding.cost else []),
    ]


def standing(finding: Finding) -> str:
    """Whether a remedy is taken, offered, or for people to do."""
    if finding.remedy is None:
        return "by hand"
    return "taken" if finding.applied else "offered"


def joined(findings: Sequence[Finding], stored: Side, pairs: Mapping[str, str]) -> Transform:
    """One transform of many remedies; keys that its rules would not lead right are named one by one."""
    whole = Transform()
    renamed: dict[str, str] = {}
    for it in findings:
        assert it.remedy is not None
        # Of two remedies for one key the first has seen it first.
        parts = {key: those for key, those in it.remedy.parts.items() if key not in whole.parts}
        whole |= replace(it.remedy, rename=(), parts={} if it.pairs else parts)
        renamed |= it.pairs
    if not renamed:
        return whole
    rules = tuple(dict.fromkeys(rule for it in findings for rule in it.rules))
    # Nobody reads so many, and every key would be tried on each.
    rules = rules if len(rules) <= _MOST_RULES else ()
    led = _led(rules, stored)
    times = Counter(led.values())
    ought = {w: key for w, key in pairs.items() if w == key} | renamed
    wrong = {w: key for w, key in ought.items() if led[key] != w or times[w] > 1}
    return replace(
        whole, rename=rules, parts={**{w: (Part(key),) for w, key in wrong.items()}, **whole.parts}
    )


def _led(rules: Sequence[Rule], side: Side) -> dict[str, str]:
    """What rules make of each key. No rule looks at what a number is, so one of a family tells for all."""
    patterns = [(re.compile(old), new) for old, new in rules]
    found: dict[str, str] = {}
    for words, family in side.families.items():
        numbers = iter(range(_STAND_IN, _STAND_IN + len(words)))
        name = before = ".".join(str(next(numbers)) if word == "#" else word for word in words)
        for pattern, new in patterns:
            name = pattern.sub(new, name)
        if name == before:
            found |= {key: key for key in family.members.values()}
            continue
        # Of an odd place it is the number of a stand-in, of an even one what stands between them.
        pieces = _STOOD_IN.split(name)
        order = [int(number) for number in pieces[1::2]]
        for index, key in family.members.items():
            pieces[1::2] = [index[i] for i in order]
            found[key] = "".join(pieces)
    return found
