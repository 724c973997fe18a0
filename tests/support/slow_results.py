"""Numbers picked from a whole table of results, one look at each: slower than their index."""


def values(results, *, row, arm, metric, phase, target="test"):
    """One metric of one arm, by seed or pair of seeds."""
    wanted = (row, arm, metric, phase, target)
    return {
        r.seed: r.value for r in results if (r.row, r.arm, r.metric, r.phase, r.target) == wanted
    }
