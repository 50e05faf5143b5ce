import math

import pytest

from resnet_bk.bench.report import formatting as fmt
from resnet_bk.bench.report.statistics import Spread


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (fmt.perplexity(9.876), "9.88"),
        (fmt.perplexity(102.06), "102.1"),
        (fmt.perplexity(4904.16), "4,904.2"),
        (fmt.perplexity(51697.4), "51,697"),
        (fmt.perplexity(None), "–"),
        (fmt.perplexity(math.inf), "–"),
        (fmt.spread(None), "–"),
        (fmt.spread(Spread(99.21, None, 1)), "99.2"),
        (fmt.spread(Spread(99.21, 0.84, 3)), "99.2 ± 0.8"),
        (fmt.spread(Spread(99.21, 0.012, 3)), "99.21 ± 0.01"),
        (fmt.decimal(1.3554, 3), "1.355"),
        (fmt.decimal(math.nan, 3), "–"),
        (fmt.significant(0.0840123), "0.0840"),
        (fmt.significant(0.0), "0"),
        (fmt.significant(12345.6), "12,346"),
        (fmt.significant(None), "–"),
        (fmt.rates((1e-3, 3e-2)), "0.001, 0.03"),
        (fmt.rates(()), "–"),
        (fmt.count(1_490_112), "1,490,112"),
        (fmt.count(None), "–"),
        (fmt.short_count(999), "999"),
        (fmt.short_count(1_490_112), "1.49M"),
        (fmt.short_count(999_600), "1.00M"),
        (fmt.short_count(None), "–"),
        (fmt.flops(24_490_080_440), "24.5 GFLOP"),
        (fmt.flops(2_081_792), "2.08 MFLOP"),
        (fmt.flops(12), "12 FLOP"),
        (fmt.memory(742.0), "742 MiB"),
        (fmt.memory(1536.0), "1.50 GiB"),
        (fmt.duration(45.24), "45.2 s"),
        (fmt.duration(59.97), "1 min 00 s"),
        (fmt.duration(192.4), "3 min 12 s"),
        (fmt.duration(3599.8), "1 h 00 min"),
        (fmt.duration(7500), "2 h 05 min"),
        (fmt.duration(None), "–"),
        (fmt.percent(0.0423, 2), "4.23%"),
        (fmt.percent(None), "–"),
        (fmt.p_value(None), "p not defined"),
        (fmt.p_value(0.0001), "p < 0.001"),
        (fmt.p_value(0.0392), "p = 0.039"),
        (fmt.p_value(0.314), "p = 0.31"),
    ],
)
def test_text_of_a_number(shown: str, expected: str) -> None:
    assert shown == expected
