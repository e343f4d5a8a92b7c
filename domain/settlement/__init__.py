"""Who owes what, and how it is cleared: netting windows, transfers between zones, disputes over escrow."""
