"""Forms: commands that a page offers to those who may send them.

A form is made of the command's own declaration, and what is filled in is sent as any client sends it: over HTTP, with
the reader's key, under an idempotency key that stays the same however often a form is sent. So the commands' own
rights, limits and rules decide, and their words are shown.
"""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import httpx
import msgspec

from commands._codec import context_of
from domain._kernel import kebab
from ops.problems import Problem
from ops.web import App
from queries._console._ask import Answered, ask
from queries._openapi import kind_of

ANSWER_WITHIN_S = 15.0
MOST_TEXT = 256
TOKEN = "token"  # noqa: S105 - the name of a field
"""Makes the key under which a form is sent; another one for each form that was answered."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    kind: str
    """text, number or one of `known`."""
    known: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Act:
    """A command as a form. `known` are the values that its fields can have, where these are few."""

    command: type
    known: tuple[tuple[str, tuple[str, ...]], ...] = ()
    grave: bool = False
    """It takes something away; the form says so."""

    @property
    def name(self) -> str:
        return f"{context_of(self.command)}/{kebab(self.command.__name__)}"

    @property
    def title(self) -> str:
        return kebab(self.command.__name__).replace("-", " ").capitalize()

    @property
    def about(self) -> str:
        return " ".join((inspect.getdoc(self.command) or "").split())

    @property
    def fields(self) -> list[Field]:
        hints, known = get_type_hints(self.command, include_extras=True), dict(self.known)
        return [
            Field(f.name, "number" if kind_of(hints[f.name]) is int else "text", known.get(f.name, ()))
            for f in fields(self.command)
        ]

    def body(self, form: Mapping[str, str]) -> dict[str, Any]:
        """What was filled in as the command's body. What is no number stays as it is, for the command to refuse."""
        body: dict[str, Any] = {}
        for each in self.fields:
            text = form.get(each.name, "").strip()
            number = each.kind == "number" and text.isascii() and text.isdecimal() and len(text) <= 18
            body[each.name] = int(text) if number else text
        return body


ACTS: dict[str, Act] = {}


def act(command: type, grave: bool = False, **known: tuple[str, ...]) -> Act:
    made = Act(command, tuple(known.items()), grave)
    ACTS[made.name] = made
    return made


def new_token() -> str:
    return secrets.token_urlsafe(12)


def key_of(token: str, body: bytes) -> str:
    """The same form with the same content is one command, however often it is sent."""
    return f"console:{hashlib.sha256(token.encode() + b' ' + body).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a form, in words."""

    done: bool
    text: str
    position: int = 0
    settled: bool = True
    """Whether it was answered: if not, the same form is to be sent once more, under the same key."""


class Commands:
    """Where commands are sent: to the application itself, where it takes them, else to `api_url`."""

    def __init__(self, app: App, api_url: str) -> None:
        self._app = app
        self._api_url = api_url

    async def send(
        self, act: Act, body: Mapping[str, Any], token: str, headers: Mapping[str, str], client: Any
    ) -> Outcome:
        """Raises Problem where there is nowhere to send it."""
        path, content = f"/commands/{act.name}", msgspec.json.encode(body)
        sent = {**headers, "content-type": "application/json", "idempotency-key": key_of(token, content)}
        if ("POST", path) in self._app.direct:
            return outcome_of(await ask(self._app, path, {}, sent, client, content))
        if not self._api_url:
            raise Problem(
                503,
                "commands-elsewhere",
                "This console does not know where commands are sent: FOGBOOK_API_URL is not set for it.",
            )
        del sent["host"]
        try:
            async with httpx.AsyncClient(base_url=self._api_url, timeout=ANSWER_WITHIN_S) as http:
                response = await http.post(path, content=content, headers=sent)
        except httpx.HTTPError:
            return Outcome(
                False, "The command API does not answer. Send it once more: it is done once.", 0, False
            )
        return outcome_of(Answered(response.status_code, dict(response.headers), response.content))


def outcome_of(answered: Answered) -> Outcome:
    if not answered.ok:
        told = answered.value.get("facts", {}).get("errors", ()) if answered.status == 422 else ()
        fields = "; ".join(f"{each['field']}: {each['message']}" for each in told)
        return Outcome(False, fields or answered.detail, 0, answered.status < 500 and answered.status != 429)
    said = answered.value
    events = ", ".join(each["type"] for each in said["events"])
    if not events:
        return Outcome(True, f"Nothing changed as of position {said['position']}: it is so already.")
    return Outcome(True, f"Recorded as command {said['command_id']}: {events}.", int(said["position"]))
