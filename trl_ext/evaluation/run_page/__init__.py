"""Present one run: `report.html` in its directory, and the results in its model card.

`records` reads what was measured, `tables` and `answers` put it in order, `about` describes the training, and `page` and `card`
write it. `update` does both, at the end of a run and after each evaluation.
"""
