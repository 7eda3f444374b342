"""What the policy's dial is worth, part by part.

    python benchmarks/policy.py promise --data ../shared/data --out build/policy

`savings`: what going step by step costs beside asking all members at once and beside forms of
agreement-based cascading, at the same accuracy, and how the most accurate settings do beside the
oracle. `budgets`: accuracy where each question's money is limited, and the time that a step takes
to choose. `waiting`: what a price on seconds does, with simulated latencies. `steps-promise`: how
often promises of the sequential policy are broken. They keep the router's
out-of-fold scores in OUT/scores; fitting it for every fold takes most of the time.
`promise`: how often an operating point with a promise breaks it, on questions whose true risk is
known, how much it escalates and costs, and how often nothing is proven. Without a part's name all
these are run. `remedies`, by name only: other ways of fitting what steps are worth, for pyramids of
another draw than the suite's (draw_suite.py --seed 1 --out FILE, and here --suite FILE with an
--out of its own). The folder of recorded answers is not part of this repository; an interrupted
call is gone on with.
"""

import argparse
import sys
from pathlib import Path

from policy_cases import budgets, promise, remedies, savings, steps_promise, waiting
from suite import SUITE

_PARTS = {
    "savings": savings.run,
    "budgets": budgets.run,
    "waiting": waiting.run,
    "steps-promise": steps_promise.run,
    "promise": promise.run,
}
# For whoever wants to change how steps are valued; on pyramids that no figure is quoted of.
_ON_DEMAND = {"remedies": remedies.run}


def main() -> None:
    """Run the parts."""
    known = _PARTS | _ON_DEMAND
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}")
    parser.add_argument("--suite", type=Path, default=SUITE, help="YAML of the pyramids")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/policy"))
    parser.add_argument("--pyramids", nargs="+", default=None, help="only these of the suite")
    parser.add_argument("--draws", type=int, default=1000, help="of calibration questions")
    parser.add_argument(
        "--generated", type=int, default=20_000, help="questions for the embedded pyramid; 0: none"
    )
    parser.add_argument("--seeds", type=int, default=3, help="divisions into folds, for savings")
    options = parser.parse_args()
    if strangers := set(options.parts) - set(known):
        parser.error(f"no part {', '.join(sorted(strangers))}; there are {', '.join(known)}")
    if not options.data.is_dir():
        sys.stdout.write(f"{options.data}: no recorded answers here; --data names their folder\n")
        return
    for name in options.parts or _PARTS:
        known[name](options)


if __name__ == "__main__":
    main()
