"""`fogbook simulate`: a living economy through the HTTP API, checked against a model of its own."""

from ops.simulate._run import run

__all__ = ["run"]
