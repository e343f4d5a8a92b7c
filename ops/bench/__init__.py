"""Ratios that anyone can reproduce with one command: `fogbook bench`.

Each part runs both sides on the same machine and servers, in alternating rounds, and reports the median of the
rounds' ratios. `run.py` is the entry; `peers/` holds what Fogbook is compared with.
"""
