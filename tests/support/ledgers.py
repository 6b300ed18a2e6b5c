"""The ledger of a study, without processes that train."""

from dropopt.config import RunConfig
from dropopt.study.define.space import Space
from dropopt.study.store.search_ledger import SearchLedger


def ledger_of(study, seed=0, **options):
    """A ledger that searches the space ``dropout``, which has the parameters kind and p."""
    base = RunConfig.parse({"engine": {"kind": "dropout"}})
    return SearchLedger(study, Space.load("dropout").bound(base), base, seed, 2, **options)
