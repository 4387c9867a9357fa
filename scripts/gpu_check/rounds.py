"""Ours and the peer's, measured in turn: what drifts on a machine then drifts for both."""

import statistics


def spread(values):
    """Median and extremes of what several rounds found."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Series:
    """What the rounds found for one row of a table, by side: `ours` or a peer's name."""

    def __init__(self, rate):
        self.rate = rate  # the name of photos a second in a measurement
        self.found = {}

    def add(self, side, measurement):
        self.found.setdefault(side, []).append(measurement)

    def figures(self):
        """Each side's rate and time over the rounds, and ours as a multiple of each peer's, round by round."""
        row = {}
        for side, found in self.found.items():
            row[side] = {
                "photos_per_second": spread([one[self.rate] for one in found]),
                "median_ms": spread([one["median_ms"] for one in found]),
                "rounds": len(found),
            }
        ours = self.found.get("ours", [])
        for side, found in self.found.items():
            pairs = list(zip(ours, found))
            if side != "ours" and pairs:
                row[side]["ours_times_as_fast"] = spread([a[self.rate] / b[self.rate] for a, b in pairs])
        return row
