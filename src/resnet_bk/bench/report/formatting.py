"""Numbers as text, the same in the terminal table and in the report."""

import math

from resnet_bk.bench.report.statistics import Spread

MISSING = "–"


def perplexity(value: float | None) -> str:
    """One decimal from 10 on, two below; thousands apart."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"


def spread(value: Spread | None) -> str:
    """``mean ± sample standard deviation``, of which one digit shows where it is small; the mean alone where there is
    one seed."""
    if value is None:
        return MISSING
    if value.deviation is None:
        return perplexity(value.mean)
    least = 2 if value.mean < 10 else 1
    decimals = least if value.deviation == 0 else min(3, max(least, -math.floor(math.log10(value.deviation))))
    return f"{value.mean:,.{decimals}f} ± {value.deviation:,.{decimals}f}"


def decimal(value: float | None, digits: int) -> str:
    """A fixed number of decimals, thousands apart."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def significant(value: float | None) -> str:
    """Three significant digits, never in exponent form."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # 0.9996 has as many decimals as 1.00, which it is shown as
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{decimals}f}"


def rates(values: list[float] | tuple[float, ...]) -> str:
    """Learning rates, apart by commas."""
    return ", ".join(f"{value:g}" for value in values) if values else MISSING


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return MISSING if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """``1.49M``: three significant digits and a suffix."""
    return _scaled(value, ((1e9, "B"), (1e6, "M"), (1e3, "k")), "")


def flops(value: float | None) -> str:
    """Floating-point operations, for example ``24.5 GFLOP``."""
    return _scaled(
        value, ((1e18, " EFLOP"), (1e15, " PFLOP"), (1e12, " TFLOP"), (1e9, " GFLOP"), (1e6, " MFLOP")), " FLOP"
    )


def memory(mebibytes: float | None) -> str:
    """``812 MiB`` or ``1.52 GiB``."""
    return _scaled(mebibytes, ((1024.0, " GiB"),), " MiB")


def duration(seconds: float | None) -> str:
    """``45.2 s``, ``3 min 12 s`` or ``2 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    # Compared as they will be rounded, so that no "60.0 s" or "60 min" appears.
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return f"{int(seconds + 0.5) // 60} min {int(seconds + 0.5) % 60:02d} s"
    minutes = int(seconds / 60 + 0.5)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}%"


def p_value(value: float | None) -> str:
    """``p = 0.012``, or ``p < 0.001``."""
    if value is None:
        return "p not defined"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _scaled(value: float | None, units: tuple[tuple[float, str], ...], smallest: str) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    for size, suffix in units:
        # 999.6k is shown as 1.00M: three digits of the smaller unit would round up to four.
        if value >= size * 0.9995:
            return f"{significant(value / size)}{suffix}"
    return f"{value:,.0f}{smallest}"
