"""How figures are written out in reports. Percentages have one decimal; n stands beside every figure."""

from __future__ import annotations

from rosi_edge.basics.statistics import Estimate, PairedChange

NOT_MEASURED = "not measured"


def percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def rate(estimate: Estimate | None) -> str:
    """A share with its 95 % interval and n."""
    if estimate is None:
        return NOT_MEASURED
    return (
        f"{percent(estimate.value)} ({estimate.low * 100:.1f} to {estimate.high * 100:.1f}), n = {estimate.n}"
    )


def nats(estimate: Estimate | None) -> str:
    """A divergence in nats with its 95 % interval and n."""
    if estimate is None:
        return NOT_MEASURED
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), n = {estimate.n}"


def points(change: PairedChange | None) -> str:
    """A change in percentage points with its 95 % interval and n."""
    if change is None:
        return NOT_MEASURED
    return (
        f"{change.change * 100:+.1f} points ({change.low * 100:+.1f} to {change.high * 100:+.1f}), "
        f"n = {change.n}"
    )


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def strength(value: float) -> str:
    """α, with as many digits as tell two settings of a search apart."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
