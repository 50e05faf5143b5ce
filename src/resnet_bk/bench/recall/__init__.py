"""Multi-query associative recall (MQAR): how much a sequence mixer can look up.

Recall decides how much state a mixer needs, and perplexity on small budgets hardly shows it.
"""

from resnet_bk.bench.recall.run import bench_recall
from resnet_bk.bench.recall.settings import is_recall, load_recall

__all__ = ["bench_recall", "is_recall", "load_recall"]
