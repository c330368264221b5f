"""`kilonova db`: the database's schema."""
