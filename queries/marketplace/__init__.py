"""What people ask of the marketplace: what is for sale and at what price, what is asked for, and their contracts."""

from queries.marketplace import contracts, offerings, requests

__all__ = ["contracts", "offerings", "requests"]
