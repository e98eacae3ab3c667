"""The lessons as a reader finds them: their order, what each asks, how long it takes.

It reads the notebooks as files, and asks nothing of what they teach.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

WORDS = 120
"""Words that are read in a minute, by someone who thinks about them."""

PUZZLE = 5
"""Minutes for a puzzle; some take longer."""

STEP = 5
"""Minutes to which a time is rounded up."""


@dataclass(frozen=True)
class Lesson:
    """One notebook: `minutes` to read it, to run its cells (one minute each) and to solve its puzzles."""

    file: str
    title: str
    question: str
    minutes: int


def lessons(folder: Path) -> tuple[Lesson, ...]:
    """The numbered lessons in a folder, from 01 on, in their order."""
    return tuple(_lesson(path) for path in sorted(folder.glob("[0-9][0-9]-*.ipynb")) if path.name >= "01")


def table(found: tuple[Lesson, ...], folder: str = "") -> str:
    """The lessons as a table in Markdown, with links to files in `folder`."""
    rows = [
        f"| [{lesson.title}]({folder}{lesson.file}) | {lesson.question} | {lesson.minutes} |"
        for lesson in found
    ]
    return "\n".join(["| lesson | its question | minutes |", "|---|---|---|", *rows])


def _lesson(path: Path) -> Lesson:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    told = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    title, _, rest = told[0].partition("\n")
    question = rest.strip().partition("\n\n")[0].replace("\n", " ").strip("*")
    # Answers are folded away: who needs them reads them, most do not.
    words = sum(len(re.sub("<details>.*?</details>", "", text, flags=re.DOTALL).split()) for text in told)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    minutes = words / WORDS + len(code) + PUZZLE * sum("check_" in source for source in code)
    return Lesson(path.name, title.removeprefix("# "), question, -(-round(minutes) // STEP) * STEP)
