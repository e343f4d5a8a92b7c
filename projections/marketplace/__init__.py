"""The marketplace's read models: what is for sale, what is asked for, and what was agreed."""

from projections.marketplace import contracts, offerings, requests

__all__ = ["contracts", "offerings", "requests"]
