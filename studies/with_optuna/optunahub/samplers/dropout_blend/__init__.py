"""EfficacySampler: Thompson sampling of a blend, for studies in which parameters are shares of a whole."""

from dropopt.study import EfficacySampler, efficacy_report

__all__ = ["EfficacySampler", "efficacy_report"]
