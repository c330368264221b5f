"""`make bench`: measure everything, print a table, write build/bench.json; exit 1 if a promise is broken.

python -m bench [NAME …]     the names are those of MEASURES
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    cluster,
    control_plane,
    disks,
    firewall,
    flows,
    guests,
    image_pull,
    mending,
    message_bus,
    networks,
    plugs,
    power,
    recovery,
    reporting,
)
from bench.figure import Figure

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "one": control_plane.one_at_a_time,
    "many": control_plane.many_at_once,
    "spread": control_plane.spread,
    "lists": control_plane.lists,
    "decision": control_plane.decision,
    "rest": control_plane.at_rest,
    "calls": message_bus.calls,
    "apart": message_bus.apart,
    "cluster": cluster.cluster,
    "reporting": reporting.reporting,
    "recovery": recovery.recovery,
    "firewall": firewall.firewall,
    "flows": flows.flows,
    "plugs": plugs.plugs,
    "guests": guests.real_guests,
    "guests_in_ceph": guests.guests_in_ceph,
    "power": power.power,
    "network": networks.part_of_builds,
    "mending": mending.mending,
    "fetch": guests.one_fetch,
    "image_pull": image_pull.image_pull,
    "disks": disks.disks,
}


def main() -> int:
    names = sys.argv[1:] or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        print(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
        return 2
    figures = []
    for name in names:
        print(f"measuring {name} …", flush=True)
        figures += MEASURES[name]()
    _print(figures)
    result = Path("build/bench.json")
    result.parent.mkdir(exist_ok=True)
    told = {"load_average": os.getloadavg(), "cpus": os.cpu_count()}
    told["figures"] = [asdict(figure) | {"kept": figure.kept} for figure in figures]
    result.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if all(figure.kept for figure in figures) else 1


def _print(figures: list[Figure]) -> None:
    table = Table("figure", "measured", "promised", "", "Nova 34")
    for figure in figures:
        promised = ""
        if figure.at_most is not None:
            promised = f"≤ {figure.at_most:g} {figure.unit}"
        elif figure.at_least is not None:
            promised = f"≥ {figure.at_least:g} {figure.unit}"
        verdict = "" if not promised else "[green]kept[/]" if figure.kept else "[red]broken[/]"
        note = f" ({figure.note})" if figure.note else ""
        measured = f"{figure.value:,.1f} {figure.unit}"
        table.add_row(figure.name + note, measured, promised, verdict, figure.nova)
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
