"""The scheduler: which host a server goes to. Pure rules over hosts held in memory, and one claim."""
