"""A worker that writes exports: what `keras_genai.export.child` does, job after job.

It answers each line of JSON, a job, with one: empty, or what went wrong. A model is
loaded by each job anew; what the start of a process of its own costs is paid once. (The
child itself is tested in `tests/export/`.)
"""

import gc

from answering import answer_each_line, answers


def main():
    file = answers()
    import keras

    from keras_genai.export import child

    def work(job):
        try:
            child.work(job)
        finally:
            keras.backend.clear_session()
            gc.collect()
        return {}

    answer_each_line(file, work)


if __name__ == "__main__":
    main()
