"""The engine written out again with loops over sites, samples and features, in float64 and NumPy.

Only the paper's equations are shared with the engine; their own tests compare them with formulas.
"""

import math

import numpy as np
import torch

from dropopt import equations as eq
from dropopt.config import METHODS, P_MAX

SCORED_IN_TRAINING = ("activation", "taylor", "statistical")


def safe_positions(maps):
    """S_spatial of eq. (8) of one image's feature maps (C, H, W): a list of 1 (safe) and 0."""
    norm = np.sqrt((maps**2).sum(0))
    height, width = norm.shape
    matter = []
    for i in range(height):
        for j in range(width):
            near = [
                norm[min(max(a, 0), height - 1), min(max(b, 0), width - 1)]
                for a in range(i - 1, i + 2)
                for b in range(j - 1, j + 2)
            ]
            around = sum(near) / 9
            matter.append(around + abs(norm[i, j] - around))
    return [float(m <= sum(matter) / len(matter) * (1 + 1e-6)) for m in matter]


def score(kind, maps, gradient):
    """What one sample adds to the totals of a site: a list of (C,) rows."""
    flat, slope = maps.reshape(len(maps), -1), gradient.reshape(len(maps), -1)
    if kind == "activation":
        return [[sum(a for a in abs(row) if a >= abs(row).mean()) / len(row) for row in flat]]
    if kind == "taylor":
        return [[abs(sum(row * g)) for row, g in zip(flat, slope, strict=True)]]
    return [[row.mean() for row in flat], [(row**2).mean() for row in flat]]


def share_out(budget, proportions):
    """Rates in these proportions with ``budget`` as their mean; what exceeds P_MAX goes to the others, one by one."""
    total, full = min(budget, P_MAX) * len(proportions), set()
    while True:
        free = [i for i, w in enumerate(proportions) if i not in full and w > 0]
        scale = (total - P_MAX * len(full)) / sum(proportions[i] for i in free) if free else 0.0
        over = {i for i in free if proportions[i] * scale > P_MAX}
        if not over:
            return np.array([P_MAX if i in full else max(0.0, w * scale) for i, w in enumerate(proportions)])
        full |= over


def with_floor(shares, floor):
    """Raise the fewest of the smallest positive shares to the floor, and scale the others to a sum of 1."""
    order = sorted((i for i, w in enumerate(shares) if w > 0), key=lambda i: shares[i])
    for raised in range(len(order)):
        rest = sum(shares[i] for i in order[raised:])
        new = [0.0] * len(shares)
        for place, i in enumerate(order):
            new[i] = floor if place < raised else (1 - floor * raised) * shares[i] / rest
        if all(new[i] >= floor - 1e-15 for i in order[raised:]):
            return new
    raise AssertionError("a floor above 1 / methods")


class SlowEngine:
    """The state and the rates of an engine on one or more ranks.

    Args:
        config: the EngineConfig.
        sites: depth and number of features of each site, by name.
        complexity: of the data.
        ranks: number of processes.
    """

    def __init__(self, config, sites, complexity, ranks=1):
        self.c, self.sites, self.complexity, self.ranks = config, sites, complexity, ranks
        self.progress, self.val, self.train, self.accuracy = 0.0, None, None, None
        self.learned = [1.0] * len(METHODS)
        self.area = {name: [1.0] * ranks for name in sites}
        self.scores = {name: [[] for _ in range(ranks)] for name in sites}
        self.importance = dict.fromkeys(sites)
        self._rates()

    def observe(self, name, activation, gradient, rank=0):
        """One training pass: the first of every 16 samples are scored, before the mask."""
        scored = math.ceil(len(activation) / 16) if self.c.importance in SCORED_IN_TRAINING else 0
        for maps, slope in list(zip(activation, gradient, strict=True))[:scored]:
            self.scores[name][rank].append(score(self.c.importance, maps, slope))
        seen = [np.mean(safe_positions(maps)) for maps in activation[: math.ceil(len(activation) / 16)]]
        if np.any(self.c.w_spatial):
            self.area[name][rank] = 0.9 * self.area[name][rank] + 0.1 * np.mean(seen)

    def remember(self, name, found):
        """Average new importances with the old ones; the first ones have no past."""
        old, decay = self.importance[name], self.c.importance_decay
        found = np.array(found, dtype=np.float64)
        self.importance[name] = found if old is None else decay * old + (1 - decay) * found

    def step(self, progress, val=None, train=None, accuracy=None):
        """Metrics that are None keep their value; the weights adapt to the rates before this step."""
        self.progress = progress
        self.val = self.val if val is None else val
        self.train = self.train if train is None else train
        self.accuracy = self.accuracy if accuracy is None else accuracy
        if self.c.efficacy == "adaptive" and val is not None and self.train:
            self._learn()
        for name in self.sites:
            samples = [one for rank in self.scores[name] for one in rank]
            if samples:
                mean = np.mean(samples, 0)
                if self.c.importance == "statistical":
                    moments = torch.tensor(np.stack([mean[0], mean[1] - mean[0] ** 2]))
                    self.remember(name, eq.probabilistic_importance(*moments).numpy())
                else:
                    self.remember(name, mean[0])
            self.scores[name] = [[] for _ in range(self.ranks)]
            self.area[name] = [np.mean(self.area[name])] * self.ranks
        self._rates()

    def shares(self):
        """The weights of the current third of training, times what was learned."""
        stage = 0 if self.progress < 1 / 3 else 1 if self.progress < 2 / 3 else 2
        weights = [getattr(self.c, f"w_{method}") for method in METHODS]
        weights = [w[stage] if isinstance(w, tuple) else w for w in weights]
        weights = [w * factor for w, factor in zip(weights, self.learned, strict=True)]
        return [w / sum(weights) for w in weights]

    def _learn(self):
        old = self.shares()
        rates = [np.mean([row[method] for row in self.rows.values()]) for method in METHODS]
        blend = sum(w * r for w, r in zip(old, rates, strict=True))
        largest = max(abs(r - blend) for w, r in zip(old, rates, strict=True) if w > 0)
        gap = min(1, max(-1, math.log(self.val / self.train)))
        grown = [
            w * math.exp(self.c.efficacy_step * gap * (r - blend) / largest) if w else 0.0
            for w, r in zip(old, rates, strict=True)
        ]
        new = with_floor([w / sum(grown) for w in grown], max(self.c.efficacy_floor, 1e-9))
        self.learned = [f * n / o if o else f for f, n, o in zip(self.learned, new, old, strict=True)]

    def _rates(self):
        """Eq. (1)-(16) at every site, and the rate of each of its features."""
        c, t, shares = self.c, self.progress, self.shares()
        alpha = (
            c.alpha
            if self.val is None
            else eq.adjusted_alpha(c.alpha, self.val, c.delta, c.lambda_loss, reading=c.reading)
        )
        ratio = self.val / self.train if self.val is not None and self.train else None
        performance = {"accuracy": self.accuracy, "loss": self.val, "ratio": ratio}[c.performance]
        performance = None if performance is None else max(performance, 1e-6)
        contextual = eq.contextual_rate(
            c.r0,
            eq.complexity_factor(self.complexity, c.complexity_theta),
            eq.duration_factor(t, 0.5, c.duration_phi),
            1.0 if performance is None else eq.performance_factor(performance, c.performance_psi, reading=c.reading),
        )
        weight = eq.epoch_weight(c.lambda_init, c.kappa, t, c.theta)
        self.rows, self.p = {}, {}
        for name, (depth, features) in self.sites.items():
            raw = self.importance[name]
            importance = np.full(features, 0.5) if raw is None else (raw - raw.min()) / (raw.max() - raw.min())
            eligible = [float(i <= c.structured_threshold) for i in importance]
            eligible = eligible if any(eligible) else [1.0] * features
            tensor = torch.tensor(importance)
            members = {
                "adaptive": eq.adaptive_rate(c.r0, alpha, depth, t, c.theta_depth, c.theta_epoch),
                "structured": eq.structured_rate(c.r0, torch.tensor(eligible), reading=c.reading),
                "contextual": contextual,
                "pfid": eq.pfid_rate(c.r0, weight, tensor, reading=c.reading),
                "spatial": eq.structured_rate(c.r0, torch.tensor([self.area[name][0]]), reading=c.reading),
            }
            members = {method: float(rate) for method, rate in members.items()}
            blend = sum(w * members[method] for method, w in zip(METHODS, shares, strict=True))
            by_rate = eq.feature_rate(1.0, weight, tensor, reading=c.reading).tolist()
            proportions = [1.0] * features
            if c.allocation == "feature":
                proportions = by_rate
            elif c.allocation == "importance":
                proportions = eq.importance_rate(abs(alpha), tensor, reading=c.reading).tolist()
            if c.pattern == "structured":
                proportions = [a * b for a, b in zip(proportions, eligible, strict=True)]
            self.p[name] = share_out(blend, proportions)
            if c.pattern == "own":
                own = {"structured": eligible, "pfid": by_rate}
                self.p[name] = sum(
                    w * share_out(members[method], own.get(method, [1.0] * features))
                    for method, w in zip(METHODS, shares, strict=True)
                )
            self.rows[name] = {"depth": depth, **members, "integrated": blend, "applied": self.p[name].mean()}
            self.rows[name] |= {f"w_{method}": w for method, w in zip(METHODS, shares, strict=True)} | {"alpha": alpha}
