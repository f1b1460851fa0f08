"""A federation: rounds between organisations over a network, from joining to the decision.

:class:`~collabedit.federation.conductor.RoundConductor` runs a round at the coordinator, which
needs no model; :class:`~collabedit.federation.member.Member` answers at each party. Both speak over
any :class:`collabedit.rounds.Transport`.
"""
