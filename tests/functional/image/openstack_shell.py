"""Runs ``openstack`` commands in one process: importing the client takes longer than they do.

Each line of the input is a JSON list of arguments, each line of the output [exit status, stdout, stderr].
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from openstackclient import shell


def run(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = shell.main(arguments)
    out.flush()
    return status, out.buffer.getvalue().decode("utf-8", "replace"), err.getvalue()


for line in sys.stdin:
    result = run(json.loads(line))
    print(json.dumps(result), flush=True)
