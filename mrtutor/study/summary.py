"""From the table of answers to figures: each reader's, and how far readers agree."""

from itertools import combinations

import numpy as np
import pandas as pd

from mrtutor.study.analysis import accuracy, cohen_kappa, fleiss_kappa, rating
from mrtutor.study.questions import Test


def by_reader(frame: pd.DataFrame) -> dict[str, dict]:
    """Figures of each reader; unanswered questions are counted, not judged.

    Args:
        frame: as `mrtutor.study.results.read_results` gives it.

    Returns:
        reader -> {"simulated", "pairs": accuracy, "types": accuracy, "rating": mean ± sd, "seconds": median per
        question, "unanswered"}; a test without an answer gives None.
    """
    figures = {}
    for reader, rows in frame.groupby("reader"):
        answered = rows[rows["said"] != ""]
        tests = {test: answered[answered["test"] == str(test)] for test in Test}
        figures[str(reader)] = {
            "simulated": bool(rows["simulated"].iloc[0]),
            "pairs": _accuracy(tests[Test.PAIRS]),
            "types": _accuracy(tests[Test.SEQUENCES]),
            "rating": rating(tests[Test.SEQUENCES]["rating"]) if len(tests[Test.SEQUENCES]) else None,
            "seconds": float(answered["seconds"].median()) if len(answered) else None,
            "unanswered": len(rows) - len(answered),
        }
    return figures


def _accuracy(rows: pd.DataFrame) -> dict | None:
    return accuracy(int(rows["correct"].sum()), len(rows)) if len(rows) else None


def agreement(frame: pd.DataFrame, test: Test | str) -> dict:
    """Agreement of all readers over the items that each of them answered.

    Of a pair it is asked whether both took the same *picture* (sides differ between readers), of a sequence whether
    both said the same type.

    Returns:
        {"same": share of answers in which two readers agree, over all pairs of readers, "kappa": Cohen's for two
        readers, Fleiss' for more; None where it is not defined, "readers", "n": items}.

    Raises:
        ValueError: fewer than two readers, or no item in common.
    """
    test = Test(test)
    rows = frame[(frame["test"] == str(test)) & (frame["said"] != "")]
    said = rows["correct"].astype(str) if test is Test.PAIRS else rows["said"]
    table = rows.assign(word=said).pivot(index="item", columns="reader", values="word").dropna()
    if table.shape[1] < 2 or not len(table):
        raise ValueError(f"Expected two or more readers with items in common, got {table.shape[1]} and {len(table)}.")
    readers = [table[name].tolist() for name in table]
    kappa = cohen_kappa(*readers) if len(readers) == 2 else fleiss_kappa(table.to_numpy().tolist())
    same = float(np.mean([(table[a] == table[b]).mean() for a, b in combinations(table, 2)]))
    return {"same": same, "kappa": None if np.isnan(kappa) else kappa, "readers": len(readers), "n": len(table)}
