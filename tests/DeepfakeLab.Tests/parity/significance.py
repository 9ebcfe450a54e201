"""scipy's figures for the cases in a JSON file: a list of {truth, first, second}. Prints a list of objects."""
import json, sys
import numpy as np
from scipy import optimize, stats


def placements(y, s):
    fakes, reals = s[y == 1], s[y == 0]
    win = (fakes[:, None] > reals[None]) + 0.5 * (fakes[:, None] == reals[None])
    return win.mean(1), win.mean(0)


def figures(case):
    y, a, b = np.array(case["truth"], int), np.array(case["first"]), np.array(case["second"])
    right_a, right_b = (a >= 0.5) == y, (b >= 0.5) == y
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    # DeLong by the covariance matrices of the paper
    (fa, ra), (fb, rb) = placements(y, a), placements(y, b)
    s = np.cov(fa, fb) / len(fa) + np.cov(ra, rb) / len(ra)
    difference, error = fa.mean() - fb.mean(), np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    z = np.log(a / (1 - a))
    loss = lambda t: np.mean(np.logaddexp(0, np.where(y == 1, -z, z) / t))
    temperature = optimize.minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options=dict(xatol=1e-10)).x
    return dict(onlyA=only_a, onlyB=only_b, mcnemar=p, difference=difference, error=error,
                delong=2 * stats.norm.sf(abs(difference / error)), temperature=temperature, loss=loss(temperature))


print(json.dumps([figures(case) for case in json.load(open(sys.argv[1]))]))
