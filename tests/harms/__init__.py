"""All kinds of harm; importing this registers them."""

from tests.harms import events, fates, models, past, proofs, rewrites, signed, snapshots

__all__ = ["events", "fates", "models", "past", "proofs", "rewrites", "signed", "snapshots"]
