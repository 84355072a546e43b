"""Exact McNemar p-values, Wilson intervals and Newcombe's interval for a paired difference of proportions.

usage: python tests/golden/make_golden.py stats      (needs scipy)
Makes stats.json. The first two come from SciPy; the third is coded here: R. G. Newcombe, "Improved confidence intervals for the difference
between binomial proportions based on paired data", Statistics in Medicine 17 (1998) 2635-2650, method 10: square-and-add of the two Wilson
intervals with the continuity-corrected correlation phi."""
import math

import scipy
from scipy.stats import binomtest, norm

from golden_common import HERE, write_json

PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 5), (5, 0), (0, 6), (6, 0), (2, 8), (8, 2), (3, 3), (1, 9), (10, 25), (25, 10), (4, 11), (7, 7), (12, 13), (0, 20), (33, 60), (100, 130)]
COUNTS = [(0, 1), (1, 1), (0, 5), (5, 5), (1, 2), (16, 20), (20, 20), (0, 34), (24, 34), (34, 34), (2, 34), (27, 34), (50, 100), (1, 1000), (999, 1000), (343, 500)]
# a both right, b right before only, c right after only, d both wrong
TABLES = [(1, 1, 7, 12), (36, 12, 2, 0), (24, 0, 0, 10), (20, 4, 1, 9), (2, 22, 0, 10), (0, 24, 0, 10), (34, 0, 0, 0), (0, 0, 0, 34), (0, 5, 5, 0), (10, 10, 10, 10),
          (15, 0, 5, 0), (0, 34, 0, 0), (3, 1, 0, 1), (54, 2, 9, 35), (200, 30, 12, 101), (1, 0, 0, 0), (5, 9, 3, 2)]


def wilson(k: float, n: float, z: float) -> tuple[float, float]:
    p = k / n
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def newcombe_paired(a: int, b: int, c: int, d: int) -> dict:
    """Interval of p1 - p2 with p1 = (a + b)/n (before) and p2 = (a + c)/n (after): a drop is positive."""
    n, z = a + b + c + d, norm.ppf(0.975)
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n, z), wilson(a + c, n, z)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = 0.0 if product == 0 else cross / math.sqrt(product)
    down = math.sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    up = math.sqrt(max(0.0, (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2))
    return {"a": a, "b": b, "c": c, "d": d, "difference": (b - c) / n, "phi": phi, "low": (b - c) / n - down, "high": (b - c) / n + up}


def make(args) -> None:
    mcnemar = [{"b": b, "c": c, "p": 1.0 if b + c == 0 else float(binomtest(min(b, c), b + c, 0.5).pvalue)} for b, c in PAIRS]
    intervals = []
    for k, n in COUNTS:
        ci = binomtest(k, n).proportion_ci(0.95, method="wilson")
        own = wilson(k, n, norm.ppf(0.975))
        assert abs(own[0] - ci.low) < 1e-12 and abs(own[1] - ci.high) < 1e-12, (k, n, own, ci)
        intervals.append({"k": k, "n": n, "low": float(ci.low), "high": float(ci.high)})
    tables = [newcombe_paired(*t) for t in TABLES]
    # the first table is the example of the R package contingencytables (Newcombe_square_and_add_CI_paired_2x2), which has the same formula
    assert (round(tables[0]["low"], 3), round(tables[0]["high"], 3)) == (-0.507, -0.026), tables[0]
    write_json(HERE / "stats.json", {
        "made_with": {"scipy": scipy.__version__}, "z": float(norm.ppf(0.975)),
        "newcombe_formula": "difference = (b - c)/n; Wilson limits l1 u1 of (a+b)/n and l2 u2 of (a+c)/n; phi = x / sqrt((a+b)(c+d)(a+c)(b+d)), 0 if the root is 0, "
                            "x = ad - bc, and if that is positive max(ad - bc - n/2, 0); low = difference - sqrt((p1-l1)^2 - 2 phi (p1-l1)(u2-p2) + (u2-p2)^2), "
                            "high = difference + sqrt((u1-p1)^2 - 2 phi (u1-p1)(p2-l2) + (p2-l2)^2)",
        "mcnemar_exact_two_sided": mcnemar, "wilson_95": intervals, "paired_difference_95_newcombe_method_10": tables})
