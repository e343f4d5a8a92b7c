"""Commands of principals over HTTP."""

from commands._http import PARTICIPANT, Context
from domain.principals import EraseSubject, SetProfile
from domain.principals import principals as people

principals = Context(__name__)

principals.post(SetProfile, PARTICIPANT, lambda c, by: people(by))
principals.post(EraseSubject, PARTICIPANT, lambda c, by: people(c.principal))
