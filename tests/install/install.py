#!/usr/bin/env python3
"""What `ninja install` promises: files lie where they should and nowhere else, nothing in them names the build, uninstalling leaves nothing;
the programs work from there; the library exports what its installed headers declare, each header is C11 and C++ by itself, and the
example of docs/API.md, compiled through pkg-config against the shared and against the static library, plans what the program plans.

usage: install.py BUILD SOURCE
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD, SOURCE = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
SCRATCH = tempfile.TemporaryDirectory(prefix="moeplan-install-")
FOLDER = pathlib.Path(SCRATCH.name).resolve()
ROOT = FOLDER / "root"  # stands for /
NOT_INSTALLED = {"executor.h", "calibrate.h"}  # of the executor, which is no part of the library


def introspect(what):
    done = subprocess.run(["meson", "introspect", "--" + what, str(BUILD)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


OPTIONS = {o["name"]: o["value"] for o in introspect("buildoptions")}
VERSION = introspect("projectinfo")["version"]
PREFIX = ROOT / OPTIONS["prefix"].lstrip("/")
BIN, LIB, INCLUDE, SHARE, MAN = (PREFIX / OPTIONS[k] for k in ("bindir", "libdir", "includedir", "datadir", "mandir"))
DOC, DATA = SHARE / "doc/moeplan", SHARE / "moeplan"
SAMPLE = DOC / "traces/samples/decode.mpt"
ENVIRONMENT = dict(os.environ, PATH=f"{BIN}:{os.environ['PATH']}", LD_LIBRARY_PATH=str(LIB), PKG_CONFIG_PATH=str(LIB / "pkgconfig"),
                   PKG_CONFIG_SYSROOT_DIR=str(ROOT), LC_ALL="C.UTF-8", MANPAGER="cat", MANWIDTH="100")
CC, CXX = os.environ.get("CC", "cc").split(), os.environ.get("CXX", "c++").split()


def run(*words, ok=(0,), **more):
    done = subprocess.run([str(w) for w in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=FOLDER, env=ENVIRONMENT, timeout=120,
                          check=False, **more)
    if done.returncode not in ok:
        raise AssertionError(f"{' '.join(map(str, words))}: {done.returncode}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done


def pkg_config(*words):
    return run("pkg-config", *words, "moeplan").stdout.split()


def setUpModule():
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--strip", "--destdir", ROOT)
    # Someone else's install into another folder may follow; this one's log is what uninstalling goes by.
    (FOLDER / "meson-logs").mkdir()
    shutil.copy(BUILD / "meson-logs/install-log.txt", FOLDER / "meson-logs/install-log.txt")


def tearDownModule():
    SCRATCH.cleanup()


def relative(path):
    return str(path.relative_to(ROOT))


def found():
    return {relative(p) for p in ROOT.rglob("*") if p.is_symlink() or p.is_file()}


def files_of(folder, *but):
    return {str(p.relative_to(SOURCE / folder)) for p in (SOURCE / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts} - set(but)


def expected():
    """Every path, said by what the tree and the program have: a new verb has a page, a new header and a new preset are installed."""
    soname = f"libmoeplan.so.{VERSION.split('.')[0]}"
    verbs = [v["name"] for v in json.loads(run("moeplan", "help", "--json").stdout)["verbs"]]
    places = {
        BIN: {"moeplan", "moeplan-exec", "moeplan-record", "plancheck"},
        LIB: {"libmoeplan.a", "libmoeplan.so", soname, f"libmoeplan.so.{VERSION}"},
        LIB / "pkgconfig": {"moeplan.pc"},
        INCLUDE / "moeplan": files_of("include/moeplan") - NOT_INSTALLED,
        MAN / "man1": {"moeplan.1", "moeplan-exec.1", "moeplan-record.1", "plancheck.1"} | {f"moeplan-{v}.1" for v in verbs},
        MAN / "man5": {f"moeplan-{f}.5" for f in ("plan", "topology", "trace", "model")},
        SHARE / "bash-completion/completions": {"moeplan", "moeplan-exec"},
        SHARE / "zsh/site-functions": {"_moeplan", "_moeplan-exec"},
        SHARE / "fish/vendor_completions.d": {"moeplan.fish", "moeplan-exec.fish"},
        DATA / "topologies": files_of("topologies", "FORMAT.md", "README.md"),
        DATA / "models": files_of("src/model/presets"),
        DATA / "samples": files_of("traces/samples", "make"),
        DATA / "plancheck": files_of("tools/plancheck"),
        DATA / "record": files_of("tools/record"),
        DOC: {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "LICENSE", "traces/samples", "traces/FORMAT.md", "traces/README.md",
              "topologies/FORMAT.md", "topologies/README.md"},
        DOC / "docs": files_of("docs", "RESULTS.notes.md"),
    }
    return {relative(folder / name) for folder, names in places.items() for name in names}


class Files(unittest.TestCase):
    def test_every_path_is_where_it_should_be_and_nothing_else(self):
        have, want = found(), expected()
        self.assertEqual(sorted(want - have), [], "not installed")
        self.assertEqual(sorted(have - want), [], "installed where nothing should lie")

    def test_links_lead_to_what_was_installed(self):
        for link in (p for p in ROOT.rglob("*") if p.is_symlink()):
            self.assertTrue(link.exists(), f"{link} -> {os.readlink(link)}")
            self.assertFalse(os.path.isabs(os.readlink(link)), f"{link} -> {os.readlink(link)}")
        # Links between the pages hold there too; what they say of the source tree is of the source tree.
        for page in DOC.rglob("*.md"):
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
                if "://" not in target and (SOURCE / page.relative_to(DOC).parent / target).resolve().suffix in (".md", ".csv", ".c", ".svg", ".png"):
                    self.assertTrue((page.parent / target).exists(), f"{page.relative_to(DOC)}: {target}")

    def test_nothing_names_the_build_or_the_source(self):
        names = [str(p).encode() for p in (BUILD, SOURCE, FOLDER)]
        for path in (p for p in ROOT.rglob("*") if p.is_file() and not p.is_symlink()):
            data = path.read_bytes()
            for name in names:
                self.assertNotIn(name, data, f"{path.relative_to(ROOT)} names {name.decode()}")

    def test_modes(self):
        programs = {BIN / "moeplan", BIN / "moeplan-exec", DATA / "plancheck/plancheck", DATA / "record/record.py"}
        for path in (p for p in ROOT.rglob("*") if p.is_file() and not p.is_symlink()):
            runs = path in programs or path.name == f"libmoeplan.so.{VERSION}"
            self.assertEqual(oct(path.stat().st_mode & 0o777), oct(0o755 if runs else 0o644), path.relative_to(ROOT))

    def test_uninstalling_leaves_nothing(self):
        copy = FOLDER / "copy"
        shutil.copytree(ROOT, copy, symlinks=True)
        log = FOLDER / "meson-logs/install-log.txt"
        log.write_text(log.read_text(encoding="utf-8").replace(str(ROOT), str(copy)), encoding="utf-8")
        run("meson", "--internal", "uninstall")
        self.assertEqual([p for p in copy.rglob("*") if not p.is_dir()], [])


class Programs(unittest.TestCase):
    def test_the_readme_works_there(self):
        """The sample of the README, from the folder where the README lies."""
        plan = FOLDER / "readme.yaml"
        words = [SAMPLE, "2x4:h100", "-m", "gpt-oss-20b"]
        run("moeplan", "plan", *words, "--batch", "4", "--strategy", "lpt", "--quiet", "-o", plan)
        self.assertIn("accepted", run("moeplan", "verify", plan, *words).stdout)
        self.assertIn("accepted", run("plancheck", plan, SAMPLE, "2x4:h100", "gpt-oss-20b").stdout)
        self.assertIn("accepted", run("plancheck", plan, SAMPLE, "2x4:h100").stdout)
        run("moeplan-exec", plan, *words, "--steps", "1", "--iterations", "1", "--warmup", "0")

    def test_the_recorder_starts_or_says_what_it_needs(self):
        self.assertTrue(run("moeplan-record", "--help").stdout.startswith("usage: moeplan-record "))
        done = run("moeplan-record", "--model", "absent", "--prompts", "absent", "-o", "absent.mpt", ok=(3, 4))
        self.assertRegex(done.stderr, r"\Amoeplan-record: .*\n\Z")

    def test_copies_of_the_presets_are_the_presets(self):
        for kind, folder in (("topologies", DATA / "topologies"), ("models", DATA / "models")):
            listed = run("moeplan", "list", kind).stdout
            for path in (p for p in folder.rglob("*.yaml") if re.search(r"(?m)^schema: moeplan\.(topology|gpu|model)\b", p.read_text(encoding="utf-8"))):
                self.assertRegex(listed, rf"(?m)^{re.escape(path.stem)}\b", f"moeplan list {kind}")

    @unittest.skipUnless(shutil.which("man"), "no man here")
    def test_man_shows_every_page_without_warnings(self):
        pages = sorted(MAN.glob("man*/*"))
        self.assertGreater(len(pages), 20)
        for page in pages:
            done = run("man", "--warnings", "-l", page)
            self.assertEqual(done.stderr, "", page.name)
            name = re.search(r"\nNAME\n +(\S+) (?:-|‐|−) \S", done.stdout)
            self.assertEqual(name and name.group(1), page.stem, page.name)
            self.assertNotRegex(done.stdout, r"\]\(|\*\*|\\f[BRI]", page.name)

    def test_completions_parse(self):
        run("bash", "-n", *(SHARE / "bash-completion/completions").iterdir())
        for shell, folder in (("zsh", "zsh/site-functions"), ("fish", "fish/vendor_completions.d")):
            for path in (SHARE / folder).iterdir():
                if shutil.which(shell):
                    run(shell, "-n", path)


def without_bodies(text):
    """Text at the outermost level: what stands in braces is a body, but for those of extern "C"."""
    text = re.sub(r'extern "C" \{', "", text)
    out, depth = [], 0
    for part in re.split(r"([{}])", text):
        if part == "{":
            depth += 1
        elif part == "}":
            depth -= 1
            out.append(";" if depth == 0 else "")
        elif depth == 0:
            out.append(part)
    return "".join(out)


def declared():
    """Functions and objects that the installed headers declare: from what the compiler sees of them."""
    names = set()
    text = "".join(f"#include <moeplan/{h.name}>\n" for h in sorted((INCLUDE / "moeplan").iterdir()))
    (FOLDER / "all.c").write_text(text, encoding="utf-8")
    lines, is_ours = [], False
    for line in run(*CC, "-std=c11", "-E", *pkg_config("--cflags"), "all.c").stdout.splitlines():
        marker = re.match(r'# \d+ "([^"]*)"', line)
        if marker:
            is_ours = str(INCLUDE) in marker.group(1)
        elif is_ours and not line.startswith("#"):
            lines.append(line)
    for statement in without_bodies("\n".join(lines)).split(";"):
        if re.match(r"\s*(typedef|struct \w+\s*$|enum \w*\s*$)", statement) or "static inline" in statement:
            continue
        function = re.search(r"\b(mp_\w+)\s*\(", statement)
        thing = re.search(r"\bextern\b.*?\b(mp_\w+)\s*(?:\[|$)", statement.strip(), re.S)
        if function or thing:
            names.add((function or thing).group(1))
    return names


class Library(unittest.TestCase):
    def test_every_header_is_c11_and_cxx_by_itself(self):
        strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", *pkg_config("--cflags")]
        jobs = []
        for header in sorted((INCLUDE / "moeplan").iterdir()):
            source = FOLDER / f"alone_{header.stem}.c"
            source.write_text(f"#include <moeplan/{header.name}>\n#include <moeplan/{header.name}>\nint alone;\n", encoding="utf-8")
            jobs.append([*CC, "-std=c11", *strict, source])
            if shutil.which(CXX[0]):
                jobs.append([*CXX, "-x", "c++", "-std=c++17", *strict, source])
        self.assertGreater(len(jobs), 60)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda words: run(*words), jobs))

    def test_it_exports_what_the_headers_declare_and_nothing_else(self):
        want = declared()
        self.assertGreater(len(want), 250)
        symbols = run("nm", "-D", "--defined-only", LIB / "libmoeplan.so").stdout.split("\n")
        have = {line.split()[-1].split("@")[0] for line in symbols if line}
        self.assertEqual(sorted(have - want), [], "exported, and in no installed header")
        self.assertEqual(sorted(want - have), [], "declared in an installed header, and not exported (MP_API_BEGIN after its includes?)")
        self.assertEqual([s for s in have if not s.startswith("mp_")], [])
        symbols = run("nm", "-g", "--defined-only", LIB / "libmoeplan.a").stdout.split("\n")
        self.assertEqual({line.split()[-1] for line in symbols if len(line.split()) == 3}, have, "the static library has the same ones")
        dynamic = run("readelf", "-d", LIB / "libmoeplan.so").stdout
        self.assertIn(f"soname: [libmoeplan.so.{VERSION.split('.')[0]}]", dynamic)
        self.assertNotIn("RPATH", dynamic + run("readelf", "-d", BIN / "moeplan").stdout)
        self.assertNotIn("RUNPATH", dynamic + run("readelf", "-d", BIN / "moeplan").stdout)

    def example(self, libraries):
        program, plan = FOLDER / "example", FOLDER / "example.yaml"
        plan.unlink(missing_ok=True)
        run(*CC, "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *pkg_config("--cflags"), DOC / "docs/examples/plan.c", "-o", program, *libraries)
        text = run(program, SAMPLE, "2x4:h100", "gpt-oss-20b", "lpt", "4", plan).stdout
        own = FOLDER / "own.yaml"
        words = [SAMPLE, "2x4:h100", "-m", "gpt-oss-20b", "--batch", "4", "--strategy"]
        run("moeplan", "plan", *words, "lpt", "--split", "0.5", "--quiet", "-o", own)
        self.assertEqual(plan.read_bytes(), own.read_bytes(), "the same plan as the program's, byte for byte")
        result = json.loads(run("moeplan", "compare", *words, "contiguous,lpt", "--quiet", "--json").stdout)
        times = [r["step_time_ns"]["mean"] for r in result["results"]]
        self.assertEqual([int(n) for n in re.findall(r"(\d+) ns a step", text)], times, "the same figures as the program's")
        change = f"{100 * (times[1] / times[0] - 1):+.2f} %"
        self.assertRegex(text, rf"\Alpt: accepted, [1-9]\d+ facts compared\ncontiguous: \d+ ns a step, held out\nlpt: \d+ ns a step, {re.escape(change)}\n\Z")
        done = run(program, "absent.mpt", "2x4:h100", "gpt-oss-20b", "lpt", "4", plan, ok=(4,))
        self.assertEqual(done.stderr, "absent.mpt: cannot open: No such file or directory\n")

    def test_the_example_with_the_shared_library(self):
        self.example(pkg_config("--libs"))
        self.assertIn("libmoeplan.so", run("readelf", "-d", FOLDER / "example").stdout)

    def test_the_example_with_the_static_library(self):
        self.example([w if w != "-lmoeplan" else "-l:libmoeplan.a" for w in pkg_config("--static", "--libs")])
        self.assertNotIn("libmoeplan", run("readelf", "-d", FOLDER / "example").stdout)

    def test_a_cxx_program_calls_it(self):
        if not shutil.which(CXX[0]):
            self.skipTest("no C++ compiler here")
        (FOLDER / "use.cc").write_text('#include <moeplan/moeplan.h>\n#include <moeplan/report.h>\n#include <cstdio>\n'
                                       "int main() { char text[32]; std::puts(mp_version()); std::puts(mp_human_ns(1500.0, text)); }\n", encoding="utf-8")
        run(*CXX, "-std=c++17", *pkg_config("--cflags"), "use.cc", "-o", "use", *pkg_config("--libs"))
        self.assertEqual(run(FOLDER / "use").stdout, f"{VERSION}\n1.500 us\n")

    def test_threads_do_not_disturb_each_other(self):
        words = ["-std=c11", "-D_GNU_SOURCE", "-pthread", "-Wall", "-Wextra", "-Werror"]
        run(*CC, *words, *pkg_config("--cflags"), SOURCE / "tests/install/threads.c", "-o", "threads", *pkg_config("--libs"))
        text = run(FOLDER / "threads", DATA / "samples/lines.mpt", "4:h100", "lpt", "eplb", "metis", "random", "exact", "exact-load", "moetuner", "search").stdout
        self.assertIn("\n0 differ\n", text)
        self.assertEqual(len(re.findall(r"\b[0-9a-f]{64}\b", text)), 8)

    def test_pkg_config_says_the_version(self):
        self.assertEqual(pkg_config("--modversion"), [VERSION])
        self.assertIn("jansson", run("pkg-config", "--print-requires", "moeplan").stdout)


if __name__ == "__main__":
    if OPTIONS.get("b_sanitize", "none") != "none":
        print("skipped: programs that are no part of this build cannot be linked with a sanitized library")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
