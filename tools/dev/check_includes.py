#!/usr/bin/env python3
"""Fails, with file:line, on an include that is not one of the arrows of ARCHITECTURE.md.

Across folders only <moeplan/*.h>, and only headers of folders that the including folder may use; inside a folder "name.h". Headers of
third parties in the one place each that is listed here. Public headers follow the same arrows among themselves.
usage: check_includes.py ROOT
"""
import pathlib
import re
import sys

# header of include/moeplan -> the folder that implements it
OWNER = {
    "api": "base", "progress": "base", "status": "base", "alloc": "base", "io": "base", "base": "base", "limits": "base", "embedded": "base", "npy": "base",
    "yaml": "yaml", "json": "json", "xml": "xml", "topology": "topo", "model": "model", "trace": "trace", "workload": "workload", "plan": "plan", "policy": "plan",
    "cost": "cost", "flow": "cost", "condense": "condense", "rehome": "rehome", "sim": "sim", "verify": "verify", "stack": "stack", "synth": "synth",
    "train": "train", "predict": "predict",
    "matrix": "matrix", "export": "export", "executor": "executor", "calibrate": "executor",
    "strategy": "planner", "schedule": "planner", "coloc": "planner", "migrate": "planner", "robust": "planner",
    "variants": "planner", "homes": "planner", "report": "report", "page": "report",
    "moeplan": "umbrella",
}
INPUTS = {"base", "topo", "model", "trace"}
CORE = INPUTS | {"yaml", "json", "workload", "plan", "cost", "rehome", "sim", "matrix", "verify"}
# folder -> the folders whose headers it may include (itself always)
ARROWS = {
    "base": set(),
    "yaml": {"base"},
    "json": {"base"},
    "xml": {"base"},
    "topo": {"base", "yaml", "json", "xml"},
    "model": {"base", "yaml", "json"},
    "trace": {"base", "yaml", "json"},
    "workload": INPUTS,
    "plan": INPUTS | {"yaml", "json", "workload"},
    "cost": INPUTS | {"workload", "plan"},
    "rehome": INPUTS | {"workload", "plan", "cost"},
    "sim": INPUTS | {"workload", "plan", "cost"},
    "condense": INPUTS | {"workload", "plan", "cost"},
    "train": INPUTS | {"workload", "plan", "cost", "sim"},
    "predict": INPUTS | {"workload"},
    "verify": INPUTS | {"workload", "plan", "matrix"},
    "stack": INPUTS | {"yaml", "json", "workload", "plan"},
    "synth": {"base", "trace"},
    "matrix": {"base"},
    "export": INPUTS | {"json", "workload", "plan", "cost", "sim", "matrix"},
    "planner": CORE | {"predict"},
    "report": CORE | {"stack", "synth"},
    "tools": set(OWNER.values()),
    "tests": set(OWNER.values()),
    "executor": CORE | {"matrix", "export", "report", "train"},
    "umbrella": set(OWNER.values()),
}
# third-party header (by prefix) -> the files that may include it
THIRD_PARTY = {
    "yaml.h": ["src/yaml/"],
    "expat.h": ["src/xml/"],
    "jansson.h": ["include/moeplan/json.h"],
    "zip.h": ["src/trace/"],
    "zlib.h": ["src/base/", "src/trace/", "src/predict/path_file.c", "tests/"],
    "zstd.h": ["src/base/"],
    "zstd_errors.h": ["src/base/"],
    "nettle/": ["src/base/hash.c"],
    "xxhash.h": ["src/base/hash.c"],
    "glpk.h": ["planner/exact/mip_glpk.c"],
    "metis.h": ["planner/place/place_metis.c"],
    "nccl.h": ["executor/nccl_library.h"],
    "mpi.h": ["executor/mpi_link.h"],
    "cublas_v2.h": ["executor/gpu_gemm.c"],
    "cuda_runtime_api.h": ["executor/gpu.h", "tests/unit/executor/"],
    "cmocka.h": ["tests/support/"],
}
ONE_FILE_ONLY = {"zip.h"}
SYSTEM = re.compile(
    r"^(assert|ctype|dirent|dlfcn|errno|fcntl|float|inttypes|limits|locale|malloc|math|pthread|setjmp|signal|stdarg|stdatomic|stdbool|stddef|"
    r"netdb|poll|stdint|stdio|stdlib|string|time|unistd)\.h$|^(arpa|netinet|sys|sanitizer)/[a-z]+\.h$")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def folder_of(path):
    parts = path.parts
    if parts[0] == "src":
        return parts[1] if len(parts) > 2 else "base"
    if parts[0] == "include":
        return OWNER.get(path.stem)
    return parts[0]


def places_of(root, relative):
    """Where a private header may lie: in the folder itself; the planner is one library in several folders."""
    if relative.parts[0] == "planner":
        return [root / "planner", *sorted(p for p in (root / "planner").iterdir() if p.is_dir())]
    return [(root / relative).parent]


def check_file(root, path, seen_in):
    relative = path.relative_to(root)
    folder = folder_of(relative)
    if folder is None:
        yield 1, "a public header that OWNER in check_includes.py does not know (add the word)"
        return
    if folder not in ARROWS:
        yield 1, f"a folder that ARROWS in check_includes.py does not know: {folder} (add the word)"
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        kind, name = match.groups()
        if kind == '"':
            # Tests, benchmarks and what developers measure with may look into the folder they are about.
            is_test = folder == "tests" or relative.parts[:2] in (("tools", "bench"), ("tools", "dev"))
            if "/" in name and not is_test:
                yield number, f'"{name}": only files of the same folder are included with quotes'
            elif not name.endswith("_registry.h") and not is_test and not any((place / name).exists() for place in places_of(root, relative)):
                yield number, f'"{name}": there is no such file in this folder'
            continue
        if name.startswith("moeplan/"):
            owner = OWNER.get(pathlib.PurePath(name).stem)
            if owner is None or not (root / "include" / name).exists():
                yield number, f"<{name}>: there is no such public header"
            elif owner != folder and owner not in ARROWS[folder]:
                yield number, f"<{name}>: {folder} may not include {owner} (see ARCHITECTURE.md, Who may include whom)"
            continue
        third = next((t for t in THIRD_PARTY if name == t or (t.endswith("/") and name.startswith(t))), None)
        if third is not None:
            if not any(str(relative).startswith(place) for place in THIRD_PARTY[third]):
                yield number, f"<{name}>: only {', '.join(THIRD_PARTY[third]) or 'nothing yet'} may include it"
            seen_in.setdefault(third, set()).add(str(relative))
            continue
        if not SYSTEM.match(name):
            yield number, f"<{name}>: a system header that check_includes.py does not know (add it to SYSTEM if it belongs)"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    failures, n_files, seen_in = 0, 0, {}
    for top in ("include", "src", "planner", "executor", "tools", "tests"):
        for path in sorted((root / top).rglob("*.[ch]")):
            n_files += 1
            for number, problem in check_file(root, path, seen_in):
                print(f"{path.relative_to(root)}:{number}: {problem}")
                failures += 1
    for name in sorted(ONE_FILE_ONLY):
        if len(seen_in.get(name, ())) > 1:
            print(f"<{name}> is included by several files: {', '.join(sorted(seen_in[name]))} (one file only)")
            failures += 1
    print(f"{n_files} files, {failures} includes that are not allowed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
