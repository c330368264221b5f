"""Operations: how a long request begins, changes hands, survives a crash and ends. Knows no machine."""
