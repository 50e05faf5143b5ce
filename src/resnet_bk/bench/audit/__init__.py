"""Does a language model see the answer? The causality audit.

A causal model predicts token t from the tokens before it. So a change of token t must leave every logit before t as
it was, bit by bit. `audit_causality` looks at that in a few seconds and stands before every figure; `full_audit` looks
at every layout, mode and dtype and is the command `resnet-bk audit`.
"""

from resnet_bk.bench.audit.full import Check, FullAudit, full_audit
from resnet_bk.bench.audit.probe import Leak
from resnet_bk.bench.audit.quick import Audit, audit_causality

__all__ = ["Audit", "Check", "FullAudit", "Leak", "audit_causality", "full_audit"]
