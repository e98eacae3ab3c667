"""What all lessons share: a guess before a run, and a verdict on an answer.

It knows no lesson: what is asked and what is right, each lesson says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as ui

from ckptlab.explorer.scene import Scene
from ckptlab.widgets.panels import heading, said
from ckptlab.widgets.view import SceneView


@dataclass(frozen=True)
class Verdict:
    """What is said to an answer; `right` is None where nothing was answered, or nothing is at stake."""

    right: bool | None
    text: str

    def __bool__(self) -> bool:
        return self.right is True

    def __repr__(self) -> str:
        mark = {True: "Right: ", False: "No: ", None: ""}[self.right]
        return mark + self.text

    def _repr_html_(self) -> str:
        return said(repr(self), self.right)


WAITING = Verdict(None, "Not answered yet.")
"""Said to an answer of None."""


def right(text: str) -> Verdict:
    """A right answer, and what makes it right."""
    return Verdict(True, text)


def wrong(text: str) -> Verdict:
    """A wrong answer: what is wrong with it."""
    return Verdict(False, text)


# A click into a field makes its cell the current one, and the next Shift-Enter runs that again:
# the guess that was just made must be in the new field.
_GUESSED: dict[str, str] = {}


class Guess:
    """A field for a number, or a choice of words or pictures, to be filled in before the answer is known."""

    def __init__(self, question: str, choices: Mapping[str, Scene | None] | None, unit: str) -> None:
        self._question, self._choices, self._unit = question, choices, unit
        field = {"layout": ui.Layout(width="min(320px, 100%)" if not choices else "auto", margin="0")}
        self._drawn = _cards({name: scene for name, scene in (choices or {}).items() if scene is not None})
        if choices:
            self.field = ui.ToggleButtons(
                options=list(choices), value=None, style={"button_width": "auto"}, **field
            )
        else:
            self.field = ui.Text(placeholder=f"your guess{unit and ', in '}{unit}", **field)
        self._note = ui.HTML()
        self.field.observe(self._hear, "value")
        if (earlier := _GUESSED.get(question)) and (not choices or earlier in choices):
            self.field.value = earlier
        parts = [heading(question), *self._drawn, self.field, self._note]
        self.box = ui.VBox(parts, layout=ui.Layout(grid_gap="4px"))

    @property
    def value(self) -> int | str | None:
        """What was guessed: a whole number, or the name of a choice; None if nothing was."""
        if self._choices:
            chosen: str | None = self.field.value
            return chosen
        return _number(self.field.value)

    def _hear(self, change: Any) -> None:
        _GUESSED[self._question] = change.new or ""
        if not self._choices and change.new.strip() and self.value is None:
            self._note.value = said(f"{change.new!r} is no whole number.")
        else:
            self._note.value = said("Noted. Now read on.") if self.value is not None else ""

    def beside(self, answer: int | str, because: str = "") -> Verdict:
        """The guess and the answer side by side; afterwards the guess can be changed no more.

        `answer` is a number, or the name of a choice. Without a guess, the answer alone.
        """
        mine = self.value
        self.field.disabled = True
        tail = f" {because}" if because else ""
        truth = self._say(answer)
        if mine is None:
            return Verdict(None, f"It is {truth}.{tail} (You made no guess. Guess first: it stays in mind.)")
        if mine == answer:
            return Verdict(True, f"you guessed {truth}.{tail}")
        return Verdict(None, f"You guessed {self._say(mine)}; it is {truth}{_times(mine, answer)}.{tail}")

    def _say(self, value: int | str) -> str:
        if isinstance(value, str):
            return value
        return f"{value:,}{self._unit and ' '}{self._unit}"

    def __repr__(self) -> str:
        return f"{self._question} {self.value if self.value is not None else '(no guess yet)'}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**(self.box._repr_mimebundle_(**kwargs) or {}), "text/plain": repr(self)}


def guess(
    question: str, choices: Mapping[str, Scene | None] | Sequence[str] | None = None, unit: str = ""
) -> Guess:
    """Ask for a guess: a whole number (of `unit`), or one of `choices`, by name or by picture.

    Show it by naming it on a cell's last line; in a later cell `.beside(answer)` sets it beside the answer.
    Asked the same again, it knows what was guessed.
    """
    if choices is not None and not isinstance(choices, Mapping):
        choices = dict.fromkeys(choices)
    return Guess(question, choices, unit)


def _cards(scenes: Mapping[str, Scene]) -> list[SceneView]:
    """The pictures side by side in one drawing, each under the name that it is chosen by; none of none."""
    if not scenes:
        return []
    panels = [
        replace(panel, name=f"{name}{i}", title=name if i == 0 else "")
        for name, scene in scenes.items()
        for i, panel in enumerate(scene.panels)
    ]
    legend = tuple(dict.fromkeys(key for scene in scenes.values() for key in scene.legend))
    words = "\n".join(f"{name}: {scene.text}" for name, scene in scenes.items())
    view = SceneView(Scene("", tuple(panels), legend, words), hint="")
    view.add_class("ckl-cards")
    return [view]


def _number(text: str) -> int | None:
    """`1024`, `1,024`, `1_024` and `1 024` are one number; anything else is none."""
    plain = text.translate(str.maketrans("", "", ",_ "))
    return int(plain) if plain.isdecimal() else None


def _times(mine: int | str, answer: int | str) -> str:
    """`, 4 times as much`, where that says more than the numbers do."""
    if not (isinstance(mine, int) and isinstance(answer, int)) or min(mine, answer) < 1:
        return ""
    ratio = max(mine, answer) / min(mine, answer)
    if ratio < 1.5:
        return ""
    amount = f"{ratio:.0f}" if abs(ratio - round(ratio)) < 0.05 else f"{ratio:.1f}"
    return f": {amount} times as {'much' if answer > mine else 'little'}"
