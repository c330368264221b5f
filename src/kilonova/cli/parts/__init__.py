"""The parts of Kilonova, made and started one by one: `kilonova up` starts them all, `kilonova api`,
`conductor`, `scheduler` and `compute` some.

What a function starts it also registers with the ``closing`` that it is given, so that all is stopped in
reverse. ``bus`` and ``agents`` are all that a compute needs; nothing of them knows the database.
"""
