"""All kinds of harm; importing this registers them."""

from tests.harms import log, models, past, proofs, rewrites

__all__ = ["log", "models", "past", "proofs", "rewrites"]
