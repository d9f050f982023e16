"""What a worker does with each line of JSON that it is given: see `Worker`."""

import json
import os
import sys
import time
import traceback


def answers():
    """The standard output, apart from what libraries print: that goes to stderr."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


def answer_each_line(file, answer):
    """Writes a line of JSON for each on the standard input.

    Args:
        file: of `answers`.
        answer: function dict -> dict; what it raises is the answer's `"error"`. The
            processors' `"seconds"` that it took are added.
    """
    for line in sys.stdin:
        began = time.process_time()
        try:
            made = answer(json.loads(line))
        except Exception:
            made = {"error": traceback.format_exc()}
        made["seconds"] = time.process_time() - began
        print(json.dumps(made), file=file, flush=True)
