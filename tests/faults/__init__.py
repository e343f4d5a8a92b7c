"""Harnesses for faults: a system whose every link and process can be broken, and what must hold afterwards."""
