"""Commands of devices and reputation over HTTP."""

from commands._routes import ANYONE, PARTICIPANT, SERVICE, Context
from domain.devices import (
    Heartbeat,
    MarkOffline,
    RecordReputation,
    RegisterDevice,
    RelocateDevice,
    ResumeDevice,
    RetireDevice,
    SuspendDevice,
    UpdateCapabilities,
    reputations,
)
from domain.devices import devices as registered

devices = Context(__name__)

devices.post(RegisterDevice, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(UpdateCapabilities, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(RelocateDevice, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(Heartbeat, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(MarkOffline, ANYONE, lambda c, by: registered(c.device))
devices.post(SuspendDevice, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(ResumeDevice, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(RetireDevice, PARTICIPANT, lambda c, by: registered(c.device))
devices.post(RecordReputation, SERVICE, lambda c, by: reputations(c.device, c.service))
