"""Commands of principals over HTTP."""

from commands._routes import PARTICIPANT, Context
from domain.principals import (
    EraseSubject,
    RegisterSigningKey,
    RequireSignatures,
    RevokeSigningKey,
    SetProfile,
    signers,
)
from domain.principals import principals as people

principals = Context(__name__)

principals.post(SetProfile, PARTICIPANT, lambda c, by: people(by))
principals.post(EraseSubject, PARTICIPANT, lambda c, by: people(c.principal))
principals.post(RegisterSigningKey, PARTICIPANT, lambda c, by: signers(by))
principals.post(RevokeSigningKey, PARTICIPANT, lambda c, by: signers(c.principal or by))
principals.post(RequireSignatures, PARTICIPANT, lambda c, by: signers(by))
