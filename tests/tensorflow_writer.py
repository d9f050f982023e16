"""A worker that writes exports: what `keras_genai.export.child` does, job after job.

It answers each line of JSON, a job, with one: empty, or what went wrong. A model is
loaded by each job anew; what the start of a process of its own costs is paid once. (The
child itself is tested in `tests/export/`.)
"""

import gc
import json
import os
import sys
import traceback


def main():
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import keras

    from keras_genai.export import child

    for line in sys.stdin:
        try:
            child.work(json.loads(line))
            answer = {}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
        keras.backend.clear_session()
        gc.collect()


if __name__ == "__main__":
    main()
