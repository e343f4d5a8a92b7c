"""Every scenario that plays in a world, by its name."""

from tests.faults import clocks, disk, killed, network, once, poison, servers, slow, upgrade, wakes

__all__ = ["clocks", "disk", "killed", "network", "once", "poison", "servers", "slow", "upgrade", "wakes"]
