"""The two applications that are deployed apart, by the names that deployments give."""

from __future__ import annotations

import importlib
import sys

import pytest

from ops.web import App


@pytest.mark.parametrize("side", ["commands", "queries"])
def test_a_sides_application_is_made_once_when_it_is_asked_for(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"{side}.api", raising=False)
    module = importlib.import_module(f"{side}.api")
    assert "app" not in vars(module)
    assert isinstance(module.app, App)
    assert module.app is module.app
    with pytest.raises(AttributeError):
        _ = module.application
