"""Screens that need more than one answer: each is a function that asks, and a template that shows what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ops.problems import Problem
from queries._console._ask import Answered

if TYPE_CHECKING:
    from queries._console._render import View


class Ask(Protocol):
    """Asks a path with the reader's key, in his zone."""

    async def __call__(self, path: str, **query: str | list[str]) -> Answered: ...


Build = Callable[[Ask, dict[str, str], "View"], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Screen:
    name: str
    title: str
    template: str
    asked: tuple[str, ...]
    build: Build
    in_menu: bool

    @property
    def path(self) -> str:
        return f"/console/{self.name}"


SCREENS: dict[str, Screen] = {}


def screen(name: str, title: str, *asked: str, in_menu: bool = False) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        SCREENS[name] = Screen(name, title, f"{name}.html", asked, build, in_menu)
        return build

    return register


def answered(given: Answered) -> Answered:
    """The answer, unless it is a problem: then the screen is that. Raises Problem."""
    if not given.ok:
        raise Problem(given.status, "not-shown", given.detail)
    return given
