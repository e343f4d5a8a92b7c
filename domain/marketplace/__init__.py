"""Offerings, requests, bids and contracts: compute bought and sold by the unit-hour.

`offerings` holds what is for sale, its lanes and its price; `requests` finds it or takes bids; `contracts` runs what
was agreed. Each file has the sections of a context.
"""
