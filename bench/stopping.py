"""How often the stopping rule ends a trace that still falls, and how late one that does not.

The traces are those of tests/test_stopping.py: four shapes that fall, three that have fallen, five
kinds of noise. Written to JSON beside the other results.

    python bench/stopping.py [--seeds 5]
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from test_stopping import false_stops, settled, steps_of_oracle  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "stopping.json")
    args = parser.parse_args()
    seeds = range(args.seeds)
    ended = [false_stops(settled, seed) for seed in seeds]
    ratios = np.concatenate([steps_of_oracle(settled, seed) for seed in seeds])
    found = {
        "ended of those that still fall": float(np.mean(ended)),
        "the most of a seed": float(np.max(ended)),
        "ended within twice the steps of an oracle": float(np.mean(ratios <= 2.0)),
        "steps of those of an oracle, mean": float(ratios.mean()),
        "steps of those of an oracle, most": float(ratios.max()),
    }
    for what, value in found.items():
        print(f"{what:44} {value:.3f}")
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
