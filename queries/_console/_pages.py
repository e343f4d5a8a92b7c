"""All pages, in the order of the menu."""

from queries._console import analytics, marketplace, harvest, staking, settlement, ledger, history  # noqa: F401, I001
