"""How long a batch takes at one endpoint: l(b) = alpha + beta * b, learned from every answer.

Least squares with exponential forgetting (the recursive form kept as five moments), so that an
endpoint that changes bit by bit is learned anew within about 50 batches. If the sizes seen hardly
differ, they tell nothing of the slope, and only the intercept moves. What the line has not learned
yet shows at once in `slowness`, an average of actual over predicted: a prediction is both
multiplied. The *margin* on top covers 99 of 100 batches, as recent residuals say; while there are
few of them it is wider.

An endpoint that became so much slower or faster that several batches in a row show it has a new
line: the old one times what they took more or less. Learned batch by batch instead, old small
batches and new large ones would pass for a steep slope, as batches grow when endpoints slow down.

Before any answer nothing is known: `fit` bounds nothing. After the first ones the slope is a guess
on the high side; a batch that runs teaches it.

Source of the model: Clipper (NSDI'17), Nexus (SOSP'19); of the estimator: Haykin, Adaptive Filter
Theory, ch. 10.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

FORGETTING = 0.98
# Of a new ratio in the average.
SLOWNESS_WEIGHT = 0.25
# Below this relative spread of sizes a slope would be fitted to noise.
LEAST_SPREAD = 0.05
# Share of the first batch's time that its rows are guessed to cause.
GUESSED_SLOPE = 0.3
# One answer teaches the line this much more than it expected at most: a hiccup is no trend.
MOST_SURPRISE = 3.0
# So many batches in a row that take this many times longer, or shorter, are a change.
CHANGED_BATCHES = 6
CHANGED = 1.25
LEAST_MARGIN = 1.03
# More than that for an endpoint that answered nothing yet, and less of it by every residual: one in
# a hundred does not show in twenty, and a stall of the machine hits all endpoints' batches at once.
UNSURE = 0.12
# On a noisy machine a wider one would give up more requests than it saves.
MOST_MARGIN = 2.0
RESIDUALS = 100
QUANTILE = 0.99
# Quantiles move slowly; sorting for each answer would cost more than all the rest.
RENEW_EVERY = 8
UNBOUNDED = 2**31


@dataclass(frozen=True, slots=True)
class LatencySnapshot:
    """Seconds for a batch as such and per row, actual over predicted, margin, answers learned."""

    alpha_s: float
    beta_s: float
    slowness: float
    margin: float
    batches: int


class BatchLatency:
    """The learned latency of one model at one endpoint; rows are at least 1."""

    __slots__ = (
        "_beta_known",
        "_count",
        "_ratios",
        "_surprises",
        "_weight",
        "_x",
        "_xx",
        "_xy",
        "_y",
        "alpha_s",
        "beta_s",
        "margin",
        "slowness",
    )

    def __init__(self) -> None:
        self.alpha_s = 0.0
        self.beta_s = 0.0
        self.slowness = 1.0
        self.margin = _least_margin(0)
        self._count = 0
        self._beta_known = False
        # Discounted sums of 1, rows, rows squared, seconds, rows times seconds.
        self._weight = self._x = self._xx = self._y = self._xy = 0.0
        self._ratios: deque[float] = deque(maxlen=RESIDUALS)
        # Batches in a row that may be a change: rows, seconds, times longer than the line says.
        self._surprises: list[tuple[int, float, float]] = []

    @property
    def known(self) -> bool:
        """Whether anything was learned."""
        return self._count > 0

    @property
    def rows(self) -> float:
        """Of a batch lately: where the line is least of a guess; 1 if nothing is known."""
        return self._x / self._weight if self._weight else 1.0

    def on_batch(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows took so long."""
        expected_s = self.predict(rows)
        line_s = self.alpha_s + self.beta_s * rows
        self._count += 1
        if expected_s > 0:
            self._judge(seconds, expected_s, line_s)
        ratio = seconds / line_s if self._beta_known and line_s > 0 else 1.0
        surprise = _direction(ratio)
        if self._surprises and surprise != _direction(self._surprises[-1][2]):
            self._learn_surprises()
        if surprise:
            self._surprises.append((rows, seconds, ratio))
            if len(self._surprises) == CHANGED_BATCHES:
                self._change()
            return
        if expected_s > 0:
            seconds = min(seconds, MOST_SURPRISE * expected_s)
        self._learn(float(rows), seconds)

    def predict(self, rows: float) -> float:
        """Seconds that a batch of `rows` rows is expected to take; 0 if nothing is known."""
        return self.slowness * (self.alpha_s + self.beta_s * rows)

    def bound(self, rows: int) -> float:
        """The same with the margin: 99 of 100 batches are faster."""
        return self.margin * self.predict(rows)

    def fit(self, span_s: float) -> int:
        """Rows of the largest batch that ends within `span_s`, margin included; 0 if none does."""
        if not self._count:
            return UNBOUNDED
        rest_s = span_s / (self.margin * self.slowness) - self.alpha_s
        if rest_s < self.beta_s or rest_s <= 0:
            return 0
        # Predicted and fitted must agree in spite of rounding: what fits exactly, fits.
        return int(min(rest_s / self.beta_s + 1e-9, UNBOUNDED)) if self.beta_s else UNBOUNDED

    def snapshot(self) -> LatencySnapshot:
        """What is known now."""
        return LatencySnapshot(self.alpha_s, self.beta_s, self.slowness, self.margin, self._count)

    def _judge(self, seconds: float, expected_s: float, line_s: float) -> None:
        self.slowness += SLOWNESS_WEIGHT * (seconds / line_s - self.slowness)
        self._ratios.append(seconds / expected_s)
        if self._count % RENEW_EVERY == 0:
            ordered = sorted(self._ratios)
            worst = ordered[int(QUANTILE * (len(ordered) - 1))]
            self.margin = min(max(worst, _least_margin(len(ordered))), MOST_MARGIN)

    def _change(self) -> None:
        """Makes what was learned before as slow or fast as the surprises are, and learns them."""
        times = sorted(ratio for _, _, ratio in self._surprises)[CHANGED_BATCHES // 2]
        self._y *= times
        self._xy *= times
        self.slowness = 1.0
        self._learn_surprises(times)
        # How wrong the old line was tells nothing of the new one.
        self._ratios.clear()

    def _learn_surprises(self, times: float = 1.0) -> None:
        """Learns them; the line was made `times` what it was when they came."""
        for rows, seconds, ratio in self._surprises:
            most_s = MOST_SURPRISE * times * seconds / ratio
            self._learn(float(rows), min(seconds, most_s))
        self._surprises.clear()

    def _learn(self, rows: float, seconds: float) -> None:
        self._weight = FORGETTING * self._weight + 1
        self._x = FORGETTING * self._x + rows
        self._xx = FORGETTING * self._xx + rows * rows
        self._y = FORGETTING * self._y + seconds
        self._xy = FORGETTING * self._xy + rows * seconds
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        if variance > (LEAST_SPREAD * mean_x) ** 2:
            slope = (self._xy / self._weight - mean_x * mean_y) / variance
            self.beta_s = min(max(slope, 0.0), mean_y / mean_x)
            self._beta_known = True
        elif not self._beta_known:
            self.beta_s = GUESSED_SLOPE * mean_y / mean_x
        self.alpha_s = max(mean_y - self.beta_s * mean_x, 0.0)


def _least_margin(residuals: int) -> float:
    """Whatever so many residuals say."""
    return LEAST_MARGIN + UNSURE * (1 - residuals / RESIDUALS)


def _direction(ratio: float) -> int:
    """1 and -1 for batches that took much longer or shorter than the line says, 0 for others."""
    return int(ratio > CHANGED) - int(ratio < 1 / CHANGED)
