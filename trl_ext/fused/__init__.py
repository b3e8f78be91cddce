"""Operations of a model's layers that are computed with fewer passes over memory, with the same results up to rounding."""
