"""The schema's history, by Alembic. Revisions only add (expand) until no running service needs the old form.

A new one: `.venv/bin/kilonova db revision --id 0002 "what it does"` compares the tables with an upgraded,
empty database and writes ``versions/``; then HEAD below is set to its id. A test holds HEAD and the tables to
the revisions.
"""

HEAD = "0024"
"""The newest revision: a start that finds it need not load Alembic."""
