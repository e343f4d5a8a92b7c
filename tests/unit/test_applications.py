"""The two applications that are deployed apart, by the names that deployments give."""

from __future__ import annotations

import importlib

import pytest

from ops.web import App


@pytest.mark.parametrize("side", ["commands", "queries"])
def test_a_sides_application_is_made_once_when_it_is_asked_for(side: str) -> None:
    module = importlib.import_module(f"{side}.api")
    vars(module).pop("app", None)
    assert isinstance(module.app, App)
    assert module.app is module.app
    with pytest.raises(AttributeError):
        _ = module.application
