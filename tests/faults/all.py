"""Every scenario that plays in a world, by its name."""

from tests.faults import clocks, disk, killed, network, once, poison, servers, slow, wakes

__all__ = ["clocks", "disk", "killed", "network", "once", "poison", "servers", "slow", "wakes"]
