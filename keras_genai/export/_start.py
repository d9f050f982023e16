"""The child process of `keras_genai.export.child`: it runs as a script.

A module that the parent has loaded comes from where the parent has it. Anything else
comes from the installed packages, and only then from the other folders of the parent's
path: so a `json.py` that lies in the current folder is no part of an export, whether
the parent looks there (as a notebook does) or not. Started by `python -P`, without
`PYTHONPATH`.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import sys


class Loaded:
    """Finds modules where the parent has them.

    Args:
        places: dict name of a module without dots -> `[file, folders]`: the file is
            None for a package without `__init__.py`, the folders for a plain module.
    """

    def __init__(self, places):
        self.places = places

    def find_spec(self, name, path=None, target=None):
        if name not in self.places:
            return None
        file, folders = self.places[name]
        if file is not None:
            return importlib.util.spec_from_file_location(
                name, file, submodule_search_locations=folders
            )
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = folders
        return spec


if __name__ == "__main__":
    job = json.load(sys.stdin)
    sys.meta_path.insert(0, Loaded(job["places"]))
    sys.path += [folder for folder in job["path"] if folder not in sys.path]
    importlib.import_module("keras_genai.export.child").work(job)
