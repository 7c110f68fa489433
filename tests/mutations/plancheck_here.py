"""tools/plancheck called in this process: starting Python anew for every small file takes ten times as long as checking it."""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import subprocess

_programs = {}


def _load(path):
    loader = importlib.machinery.SourceFileLoader("plancheck_program", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def plancheck(path, *args):
    """Exit code, standard output, standard error of the program at path; the first call starts it as users do."""
    path = os.path.abspath(path)
    if path not in _programs:
        _programs[path] = _load(path)
        done = subprocess.run([path, *args], capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout, done.stderr
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _programs[path].main([str(a) for a in args])
    return code, out.getvalue(), err.getvalue()
