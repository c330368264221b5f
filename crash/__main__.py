"""`make crash`: everything dies everywhere; print what was done and what was found, exit 1 if anything was.

python -m crash [points | random] [--seed N] [--seconds N] [--only SCENARIO [--alone]]
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from crash.points import Outcome, kill_at_every_point
from crash.storm import storm

_WIDTH = 130
_BUILDS = 50
_LOGS = "build/crash"


def main() -> int:
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and all that was started ends
    console = Console(width=_WIDTH)
    well = True
    if asked.what in {"points", "all"}:
        well = _points(console, asked.only, asked.alone)
    if asked.what in {"random", "all"}:
        well = _random(console, asked.seed, asked.seconds) and well
    return 0 if well else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m crash", description="Kill everything, and look what is left."
    )
    parser.add_argument("what", nargs="?", choices=["points", "random", "all"], default="all")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random run")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the random run breaks things")
    parser.add_argument("--only", default="", help="scenarios with this in their name")
    parser.add_argument("--alone", action="store_true", help="and no others, for what they have in common")
    return parser.parse_args()


def _random(console: Console, seed: int, seconds: float) -> bool:
    console.print(f"random faults for {seconds:g} s, --seed {seed}")
    report = storm(
        seed, seconds, _BUILDS, lambda text: console.print(f"  {text}", highlight=False), keep=_LOGS
    )
    console.print(_counted("injected", report.injected))
    console.print(_counted("messages, there and back", report.messages))
    console.print(_counted("asked for, and accepted", report.asked))
    console.print(_counted("servers at the end", report.ended))
    if report.faults:
        console.print(_counted("what those in error say", report.faults))
    if report.wrong:
        console.print(f"[red]found[/] (--seed {seed}; logs in {_LOGS}):")
        for line in report.wrong:
            console.print(line, highlight=False, markup=False)
    else:
        console.print(
            f"[green]nothing found[/]; all was at its end {report.seconds:.1f} s after the last fault"
        )
    return not report.wrong


def _counted(title: str, counts: Counter[str]) -> Table:
    table = Table(title, "count")
    for what, count in counts.most_common():
        table.add_row(what, str(count))
    return table


def _points(console: Console, only: str, alone: bool) -> bool:
    def tell(outcome: Outcome) -> None:
        how = outcome.wrong or ("nobody came, and well" if outcome.missed else "well")
        console.print(f"  {outcome.victim:14}{outcome.point:48}{how}", highlight=False)

    console.print("kill -9 at every fault point")
    outcomes = kill_at_every_point(tell, only, keep=_LOGS, alone=alone)
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    table = Table("scenario", "points", "found")
    for scenario in dict.fromkeys(outcome.scenario for outcome in outcomes):
        of_it = [outcome for outcome in outcomes if outcome.scenario == scenario]
        found = "; ".join(f"{outcome.point}: {outcome.wrong}" for outcome in of_it if outcome.wrong)
        table.add_row(scenario, str(len(of_it)), f"[red]{found}[/]" if found else "[green]nothing[/]")
    console.print(table)
    kept = f" (logs in {_LOGS})" if wrong else ""
    console.print(f"{len(outcomes)} points, {len(wrong)} with findings{kept}")
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
