"""The catalogue is an AsyncAPI 3.0 document, and says of events what is stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from commands._codec import encode_json, event_types, streams
from commands._memory import MemoryLog, Store
from domain.platform import CreateZone
from ops.catalogue import META, _doc, catalogue, catalogue_json
from ops.cli import main
from ops.web import App
from queries.api import QueryService, register_all
from tests.history import history
from tests.unit.test_sequencer import client
from tests.upcasting import becomes, debited

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    found: Json = json.loads(catalogue_json())
    return found


def resolved(document: Json, reference: Json) -> Any:
    assert set(reference) == {"$ref"}
    found: Any = document
    for part in reference["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_it_has_the_parts_of_an_asyncapi_document(document: Json) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version", "description"} <= set(document["info"])
    assert set(document) == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert set(document["components"]) == {"messages", "schemas"}


def test_every_kind_of_stream_is_a_channel_with_its_events(document: Json) -> None:
    assert set(document["channels"]) == set(streams())
    for category, channel in document["channels"].items():
        assert channel["address"] == f"{category}:{{id}}" and set(channel["parameters"]) == {"id"}
        for name, reference in channel["messages"].items():
            assert resolved(document, reference)["name"] == name
        assert set(channel["messages"]) == {event.__name__ for event in streams()[category].events}


def test_every_channel_is_appended_to(document: Json) -> None:
    channels = set()
    for operation in document["operations"].values():
        assert operation["action"] == "send"
        channel = resolved(document, operation["channel"])
        channels.add(operation["channel"]["$ref"])
        messages = [resolved(document, reference) for reference in operation["messages"]]
        assert messages == list(channel["messages"].values()), "operations name their channel's messages"
    assert len(channels) == len(document["channels"]) == len(document["operations"])


def test_what_may_be_sealed_is_marked(document: Json) -> None:
    """Personal texts, also where they were sealed in another zone."""

    def payload(name: str) -> Any:
        return resolved(document, document["components"]["messages"][name]["payload"])["properties"]

    for properties, personal in (
        (payload("Debited"), {"memo"}),
        (payload("TokensBurned"), {"reason"}),
        (payload("TokensMinted"), set()),
        (payload("ProfileSet"), {"display_name", "contact"}),
        (payload("TransferInitiated")["packet"]["properties"], {"memo"}),
    ):
        assert {name for name, field in properties.items() if field.get("x-personal")} == personal


def test_every_type_of_event_is_a_message_of_its_context(document: Json) -> None:
    messages = document["components"]["messages"]
    assert set(messages) == set(event_types())
    contexts = {tag["name"] for tag in document["info"]["tags"]}
    for name, message in messages.items():
        assert resolved(document, message["headers"]) == META
        assert resolved(document, message["payload"])["type"] == "object"
        assert {tag["name"] for tag in message["tags"]} <= contexts
        assert message["tags"][0]["name"] == event_types()[name].__module__.split(".")[1]


def test_what_is_stored_is_as_the_catalogue_says(document: Json) -> None:
    """The examples, and a history of all contexts."""
    schemas = {
        name: jsonschema.Draft7Validator(
            resolved(document, message["payload"]), format_checker=jsonschema.FormatChecker()
        )
        for name, message in document["components"]["messages"].items()
    }
    for schema in schemas.values():
        schema.check_schema(schema.schema)
    for name, message in document["components"]["messages"].items():
        for example in message["examples"]:
            schemas[name].validate(example["payload"])
    for record in history(steps=60):
        schemas[record.type].validate(json.loads(record.data))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("amount"),
        lambda data: data.update(amount=5),
        lambda data: data.update(amount="05"),
        lambda data: data.update(asset=None),
    ],
)
def test_what_would_not_be_stored_is_not_as_the_catalogue_says(document: Json, change: Any) -> None:
    message = document["components"]["messages"]["Debited"]
    data = dict(message["examples"][0]["payload"])
    change(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, resolved(document, message["payload"]))


def test_docstrings_of_types_and_fields_are_its_descriptions(document: Json) -> None:
    schema = document["components"]["schemas"]["Debited"]
    assert schema["description"] == "Value left this account; `to` received it."
    assert document["components"]["messages"]["Debited"]["summary"] == schema["description"]
    closed = document["components"]["schemas"]["BiddingClosed"]["properties"]
    assert closed["price"]["description"] == "What the winner gets for one unit and hour."
    assert closed["bids"]["items"]["properties"]["ask"]["type"] == "string"
    assert not any("(" in (_doc(event)[: len(name) + 1]) for name, event in event_types().items())


def test_its_headers_are_the_meta_of_stored_events() -> None:
    async def run() -> bytes:
        store = Store()
        async with client(MemoryLog(store)) as c:
            await c.ok(CreateZone("main", "real"))
        return store.events[-1].meta

    meta = json.loads(asyncio.run(run()))
    jsonschema.validate(meta, META)
    assert set(meta) == set(META["properties"])  # type: ignore[call-overload]


def test_names_under_which_events_are_stored_still_are_in_it() -> None:
    catalogue.cache_clear()  # type: ignore[attr-defined]
    try:
        with becomes("TokensTaken", "Debited", debited):
            assert catalogue()["components"]["messages"]["Debited"]["x-stored-as"] == [
                "Debited",
                "TokensTaken",
            ]
    finally:
        catalogue.cache_clear()  # type: ignore[attr-defined]


def test_it_is_served_to_everybody() -> None:
    app = App(title="Fogbook queries", version="test")
    register_all(app, QueryService())

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://fogbook") as http:
            return await http.get("/asyncapi.json")

    response = asyncio.run(get())
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(encode_json(catalogue()))


# On the command line


@pytest.fixture
def fogbook(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, bytes, str]]:
    monkeypatch.setattr("ops.logging.configure_logging", lambda level: None)

    def run(*arguments: str) -> tuple[int, bytes, str]:
        monkeypatch.setattr("sys.argv", ["fogbook", "catalogue", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfdbinary.readouterr()
        return int(ended.value.code or 0), out, err.decode()

    return run


def test_it_is_printed_or_written_to_a_file(fogbook: Callable[..., Any], tmp_path: Path) -> None:
    assert fogbook() == (0, catalogue_json() + b"\n", "")
    file = tmp_path / "asyncapi.json"
    code, out, _ = fogbook("--out", str(file), "--json")
    assert code == 0 and json.loads(out) == {"file": str(file)}
    assert file.read_bytes() == catalogue_json() + b"\n"


def test_a_place_that_cannot_be_written_is_named(fogbook: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err = fogbook("--out", str(tmp_path / "nowhere" / "asyncapi.json"))
    assert (code, out) == (1, b"") and err.count("\n") == 1 and "cannot be written" in err
