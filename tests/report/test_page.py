#!/usr/bin/env python3
"""The report's page in a real Chromium: layout, interaction, accessibility, print, strange names, missing parts.

usage: test_page.py MOEPLAN SOURCE
Exit 77 (skipped) where there is no Chromium. Pages: the sample's, 58 layers on 64 GPUs made up, and one that MOEPLAN wrote.
"""
import base64
import copy
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import chromium
import pages

HERE = pathlib.Path(__file__).resolve().parent
PROBE = (HERE / "probe.js").read_text()
WIDTHS = (360, 768, 1280)
HOSTILE = "</script><img src=x onerror=\"window.hacked=1\"><b>\u202e&amp;'\"`"
NBSP = "\u00a0"
failures = []


def check(is_right, sentence):
    if not is_right:
        failures.append(sentence)
        print("  wrong:", sentence)


def probe(page, what):
    return page.evaluate(f"(probe => probe.{what})({PROBE})")


def nothing(list_, where):
    for sentence in list_[:8]:
        check(False, f"{where}: {sentence}")


def quiet(page, where):
    nothing(page.errors(), where + ", complaints")
    nothing(page.requests(), where + ", requests")


def unpack(packed):
    raw = base64.b64decode(packed["base64"])
    code = {"u8": "B", "u16": "H", "u32": "I"}[packed["type"]]
    return [v * packed["scale"] for v in struct.unpack("<%d%s" % (len(raw) // struct.calcsize(code), code), raw)]


def text(page, selector):
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def tip(page):
    return page.evaluate("document.getElementById('tip').hidden ? '' : Array.from(document.getElementById('tip').children, c => c.textContent).join(' | ')")


def fresh(page, path, fragment="", width=1280):
    """The page as first seen: its state is in its address and in the theme remembered."""
    page.evaluate("try { localStorage.clear(); } catch (e) { }")
    page.send("Page.navigate", url="about:blank")
    page.size(width, 900)
    page.open(path, fragment)
    page.settle()


def times(v):
    return f"{v:.2f}{NBSP}\u00d7"


def layout(page, paths):
    for name, path in paths.items():
        for width in WIDTHS:
            fresh(page, path, width=width)
            nothing(probe(page, "layout()"), f"{name} at {width} px")
            quiet(page, f"{name} at {width} px")


def pictures(page, path, data):
    """Hover, tap and keys say what the data say."""
    n_layers, n_gpus = len(data["layers"]), len(data["gpus"]["node"])
    before, after = data["plans"][data["verdict"]["baseline"]], data["plans"][data["verdict"]["plan"]]
    fresh(page, path)
    for i, j in ((0, 0), (n_layers // 2, n_gpus - 1), (n_layers - 1, n_gpus // 2)):
        page.mouse(*probe(page, f"cell('load-before', {n_layers}, {n_gpus}, {i}, {j})"))
        said = tip(page)
        for plan in (before, after):
            rows = unpack(plan["load"]["mean_rows"])[i * n_gpus:(i + 1) * n_gpus]
            check(times(rows[j] * n_gpus / sum(rows)) in said, f"load of L{i}, GPU {j}: {rows[j] * n_gpus / sum(rows):.4f} is not in \"{said}\"")
        check(f"L{data['layers'][i]} " in said and f"GPU {j}" in said, f"hover names layer and GPU: \"{said}\"")
        check(page.evaluate("document.querySelectorAll('#load .cell').length") == 2, "the cell is marked in both maps")
    i, j = n_gpus - 1, n_gpus // 2
    page.mouse(*probe(page, f"cell('traffic-after', {n_gpus}, {n_gpus}, {i}, {j})"))
    said, sent = tip(page), unpack(after["traffic"]["dispatch_sum_bytes"])[i * n_gpus + j]
    shown = re.search(r"after: ([\d.\u202f]+)\u00a0(\w+) a step", said)
    unit = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[shown.group(2)] if shown else 0
    check(shown and abs(float(shown.group(1)) * unit - sent) <= 0.006 * sent, f"traffic {i} to {j}: {sent} is not in \"{said}\"")
    page.evaluate("document.querySelector('#traffic input[value=combine]').click()")
    page.mouse(*probe(page, f"cell('traffic-after', {n_gpus}, {n_gpus}, {j}, {i})"))
    back = re.search(r"after: ([\d.\u202f]+)\u00a0(\w+) a step", tip(page))
    part = unpack(after["traffic"]["combine_sum_bytes"])[j * n_gpus + i]
    check(back and abs(float(back.group(1)) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[back.group(2)] - part) <= 0.006 * part, "combine is shown")
    page.mouse(2, 2)
    check(tip(page) == "", "the value goes away with the pointer")
    # keys
    page.evaluate("document.querySelector('[data-key=load-after]').focus()")
    page.key("Tab")
    page.evaluate("document.querySelector('[data-key=load-after]').focus()")
    page.key("Home")  # from where the pointer was, in the last row
    page.key("ArrowDown", 2)
    page.key("ArrowUp", 2)
    page.key("ArrowRight")
    spoken = page.evaluate("(g => document.getElementById(g.getAttribute('aria-activedescendant')).getAttribute('aria-label'))"
                           "(document.querySelector('[data-key=load-after]'))")
    row = n_layers - 3
    check(spoken.startswith(f"L{data['layers'][row]} ") and "GPU 1" in spoken, f"arrows: \"{spoken}\"")
    check(tip(page).replace(" | ", "; ") == spoken, "what is shown is what is spoken")
    page.key("Enter")
    check(page.evaluate("location.hash") == f"#layer={data['layers'][row]}", "Enter chooses the layer")
    check(page.evaluate("document.activeElement.dataset.key") == "load-after", "focus stays where it was")
    page.key("ArrowRight")
    check(f"L{data['layers'][row]} " in tip(page) and "GPU 2" in tip(page), f"and the cell, too: \"{tip(page)}\"")
    page.key("Escape")
    check(tip(page) == "", "Escape hides the value")
    # fingers
    page.send("Emulation.setTouchEmulationEnabled", enabled=True)
    page.tap(*probe(page, f"cell('load-after', {n_layers}, {n_gpus}, 1, 1)"))
    page.settle()
    check(f"L{data['layers'][1]} " in tip(page) and page.evaluate("location.hash") == f"#layer={data['layers'][1]}", "a tap shows and chooses")
    page.send("Emulation.setTouchEmulationEnabled", enabled=False)
    quiet(page, "hover, tap and keys")


def picker(page, path, data):
    fresh(page, path)
    ids, first = data["layers"], data["verdict"]["layers"][0]["index"]
    check(page.evaluate("document.getElementById('layer').selectedIndex") == first, "the layer that gains most is shown first")
    timeline = text(page, "#timeline h3")
    drawn = "[...document.querySelectorAll('#timeline .plot svg')].map(s => s.outerHTML).join('')"
    was = page.evaluate(drawn)
    page.evaluate("document.querySelector('#picker button[aria-label=\"Next layer\"]').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = page.evaluate("(r => [r.x + r.width / 2, r.y + r.height / 2])"
                        "(document.querySelector('#picker button[aria-label=\"Next layer\"]').getBoundingClientRect())")
    page.click(*box)
    page.settle()
    check(page.evaluate("location.hash") == f"#layer={ids[first + 1]}", "the next layer is in the address")
    check(text(page, "#timeline h3") != timeline and text(page, "#timeline h3").startswith(f"L{ids[first + 1]} "), "the timeline is that layer's")
    check(page.evaluate(drawn) != was, "its bars are others")
    check(page.evaluate("document.querySelector('#traffic input[value=layer]').checked"), "traffic is that layer's")
    check(f"L{ids[first + 1]}" in text(page, "#traffic .controls"), "traffic's control names it")
    page.evaluate("(s => { s.selectedIndex = 2; s.dispatchEvent(new Event('change')); })(document.getElementById('layer'))")
    check(page.evaluate("location.hash") == f"#layer={ids[2]}", "the list chooses")
    page.evaluate("location.hash = '#layer=%d'" % ids[-1])
    page.settle()
    check(page.evaluate("document.getElementById('layer').selectedIndex") == len(ids) - 1, "the address chooses")
    check(page.evaluate("document.querySelector('#picker button[aria-label=\"Next layer\"]').disabled"), "behind the last there is none")
    if len(data["plans"]) > 2:
        page.evaluate("(s => { s.selectedIndex = 1; s.dispatchEvent(new Event('change')); })(document.getElementById('plan'))")
        check(data["plans"][2]["name"] in text(page, "#load .panels"), "another plan is drawn")
        check(page.evaluate("location.hash") == f"#layer={ids[-1]}&plan=2", "and is in the address")
        fresh(page, path, f"#layer={ids[3]}&plan=2")
        check(page.evaluate("document.getElementById('layer').selectedIndex") == 3 and data["plans"][2]["name"] in text(page, "#load .panels"), "a link to both")
    for strange in ("#layer=banana", "#layer=99999", "#layer", "#%E0%A4%A", "#traffic", "#layer=1&plan=99"):
        fresh(page, path, strange)
        quiet(page, "at " + strange)
    # tables
    page.evaluate("document.querySelectorAll('.numbers').forEach(d => { d.open = true; })")
    page.settle()
    check(page.evaluate("[...document.querySelectorAll('.numbers')].every(d => d.querySelectorAll('tbody tr').length > 0)"), "every chart has its table")
    n = page.evaluate("document.querySelectorAll('#load-map .numbers tbody tr').length")
    check(n == 2 * len(ids), f"the load's table has a row for each layer and plan, not {n}")
    nothing(probe(page, "layout()"), "with tables open")


def themes(page, path):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    fresh(page, path)
    light = page.evaluate(paper)
    page.media("dark")
    dark = page.evaluate(paper)
    check(light != dark, "dark where the system is dark")
    page.evaluate("document.querySelector('#theme input[value=light]').click()")
    check(page.evaluate(paper) == light, "light where one says so")
    page.open(path)
    check(page.evaluate(paper) == light and page.evaluate("document.querySelector('#theme input[value=light]').checked"), "and remembered")
    page.media("light")
    page.evaluate("document.querySelector('#theme input[value=dark]').click()")
    check(page.evaluate(paper) == dark, "dark where one says so")
    for name in ("dark", "light"):
        page.evaluate(f"document.querySelector('#theme input[value={name}]').click()")
        page.settle()
        page.mouse(*probe(page, "cell('load-before', 24, 8, 3, 3)"))
        nothing(probe(page, "contrast()"), name)
        for kind in ("warm", "cool"):
            steps = probe(page, f"scale('{kind}')")
            steps = [b - a for a, b in zip(steps, steps[1:])]
            mean = sum(steps) / len(steps)
            check(len(steps) > 20 and abs(mean) > 1.2, f"{name}, {kind}: the scale spans {mean * len(steps):.0f} of lightness")
            check(all(0.5 < s / mean < 1.6 for s in steps), f"{name}, {kind}: lightness falls or rises evenly: {[round(s, 1) for s in steps]}")
    quiet(page, "themes")
    script = page.send("Page.addScriptToEvaluateOnNewDocument", source="Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }});")
    page.open(path)
    page.evaluate("document.querySelector('#theme input[value=dark]').click()")
    check(page.evaluate(paper) == dark, "dark without storage")
    quiet(page, "without storage")
    page.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])


def spoken(page, path, data):
    fresh(page, path)
    all_ = page.accessibles()
    for role in ("button", "combobox", "radio", "grid", "link", "figure", "region"):
        nothing([f"a {n['role']} without a name" for n in all_ if n["role"] == role and not n["name"].strip()], "spoken")
    names = [n["name"] for n in all_]
    grids = [n for n in all_ if n["role"] == "grid"]
    check(len(grids) >= 10, f"every plot is a grid of cells: {len(grids)}")
    check(len({n["name"] for n in grids}) == len(grids), "no two plots have one name")
    for expected in ("Layer", "Previous layer", "Next layer", "Verdict", "Comparison", "Load of the GPUs"):
        check(expected in names, f"nothing is called {expected}")
    check(sum(n["role"] == "heading" for n in all_) >= 12, "headings to jump between")
    # by Tab alone: from the first link to the load map, every stop visible
    page.evaluate("document.activeElement.blur()")
    stops = []
    for _ in range(60):
        page.key("Tab")
        stops.append(page.evaluate("(a => [a.dataset.key || a.id || a.className || a.tagName, (s => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1)"
                                   "(getComputedStyle(a.matches('.choice input') ? a.parentNode : a))])(document.activeElement)"))
        if stops[-1][0] == "timeline-after":
            break
    check([s for s in stops if s[0] == "layer"] and stops[-1][0] == "timeline-after", f"Tab goes through all: {[s[0] for s in stops]}")
    nothing([s[0] for s in stops if not s[1]], "focus that cannot be seen")
    check("parts" in data["measured"] and "Measured" in text(page, "#timeline"), "what was measured is there")


def paper(page, path, folder, is_tall):
    fresh(page, path)
    page.evaluate("document.querySelector('#theme input[value=dark]').click()")
    data = page.pdf()
    n = len(re.findall(rb"/Type\s*/Page\b", data))
    check(5 <= n <= 25, f"{n} pages on paper")
    page.media("light", "print")
    check(page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)", "paper is white in the dark, too")
    check(page.evaluate("[...document.querySelectorAll('button, select, .choice, .numbers, #contents')].every(n => !n.checkVisibility())"), "no controls on paper")
    page.media("light")
    check(page.evaluate("!document.querySelector('#provenance details').open"), "what was folded is folded again")
    if not shutil.which("pdftotext"):
        print("  pdftotext is not there: the words on paper are not looked at")
        return
    (folder / "page.pdf").write_bytes(data)
    sheets = subprocess.run(["pdftotext", "-layout", str(folder / "page.pdf"), "-"], capture_output=True, text=True, check=True, timeout=30).stdout.split("\f")
    heads = page.evaluate("[...document.querySelectorAll('main section:not([hidden]) h2')].map(h => h.textContent)")
    for head in heads:
        check(sum(any(line.strip() == head for line in s.splitlines()) for s in sheets) == 1, f"{head} stands on one page")
    for i, sheet in enumerate(sheets[:-1]):
        lines = [line.strip() for line in sheet.splitlines() if line.strip()]
        check(lines and lines[-1] not in heads, f"page {i + 1} ends with a heading")
    check("sha256" in " ".join(sheets) or re.search(r"[0-9a-f]{40}", re.sub(r"\s", "", "".join(sheets))), "provenance is unfolded on paper")
    # no panel is higher than a sheet: then none is cut
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    high = page.evaluate("Math.max(...[...document.querySelectorAll('figure .panel')].map(p => p.getBoundingClientRect().height))")
    wide = page.evaluate("Math.max(...[...document.querySelectorAll('figure .panel')].map(p => p.querySelector('svg').clientWidth))")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    check(high <= 1000 and wide <= 690, f"panels fit a sheet: {wide} x {high}" + (" of many GPUs" if is_tall else ""))
    quiet(page, "print")


def strange(page, data, folder):
    """Names that would be HTML, and parts that are not there."""
    hostile = copy.deepcopy(data)
    for plan, result in zip(hostile["plans"], hostile["comparison"]["results"]):
        plan["name"] = result["strategy"] = HOSTILE + plan["name"]
    hostile["gpus"]["types"] = hostile["limits"] = hostile["notes"] = [HOSTILE]
    hostile["verdict"].update(headline=HOSTILE, where_text=HOSTILE)
    hostile["subject"].update(model=HOSTILE, topology=HOSTILE, steps_text=HOSTILE)
    hostile["sweep"].update(strategy=HOSTILE)
    hostile["sweep"]["curves"][0]["verdict"] = HOSTILE
    hostile["drift"]["recording"].update(name=HOSTILE, verdict=HOSTILE)
    hostile["measured"]["transport"] = HOSTILE
    bare = copy.deepcopy(data)
    bare.update(sweep=None, measured=None, drift={"windows": None, "windows_note": "too few requests", "recording": None})
    for plan in bare["plans"]:
        plan.update(layer_ns=None, load=None, traffic=None, timeline=None, detail_note="the plan could not be scored")
    alone = copy.deepcopy(data)
    alone["plans"], alone["comparison"]["results"] = alone["plans"][:1], alone["comparison"]["results"][:1]
    alone["verdict"].update(plan=None, layers=[], kind="none")
    thin = copy.deepcopy(data)
    for plan in thin["plans"]:
        plan["traffic"].update(dispatch_bytes=None, combine_bytes=None, combine_of_dispatch=None)
    half = copy.deepcopy(data)  # the plan that is judged has no details, its baseline has
    half["plans"][1].update(layer_ns=None, load=None, traffic=None, timeline=None, detail_note="left out to keep the file small")
    traced = copy.deepcopy(data)
    timeline = traced["plans"][1]["timeline"]
    traced["measured"].update(parts=[], transport=None, iterations=None, timeline={k: timeline[k] for k in ("layer_length_ns", "bars_ns")})
    for name, made in (("hostile", hostile), ("bare", bare), ("alone", alone), ("thin", thin), ("traced", traced), ("half", half)):
        path = folder / (name + ".html")
        path.write_text(pages.page(made))
        fresh(page, path, width=360)
        quiet(page, name)
        nothing(probe(page, "layout()"), name)
        check(page.evaluate("window.hacked === undefined && document.querySelectorAll('img, main b').length === 0"), f"{name}: names stay text")
        if name == "hostile":
            check(HOSTILE in text(page, "#load .panels"), "and are shown as they are")
        if name == "bare":
            for part in ("layers", "load", "traffic", "timeline", "sweep", "drift"):
                why = f"!!document.querySelector('#{part} .missing')?.textContent && !document.querySelector('#{part} figure')"
                check(page.evaluate(why), f"{part} says why it is missing")
        if name == "half":
            for part in ("layers", "load", "traffic", "timeline"):
                check("left out to keep the file small" in text(page, "#" + part), f"{part} says why a plan is not in it")
            page.evaluate("(s => { s.selectedIndex = 1; s.dispatchEvent(new Event('change')); })(document.getElementById('plan'))")
            check("left out" not in text(page, "#load") and half["plans"][2]["name"] in text(page, "#load"), "and the next plan is there")
        if name == "traced":
            measured = text(page, "#timeline .panels")
            check("Measured " + data["measured"]["source"] in measured and "null" not in measured, f"a measured timeline stands beside: \"{measured}\"")
        if name == "thin":
            check(page.evaluate("document.querySelector('#traffic input[value=layer]').disabled"), "a sum alone offers no layers")


def policy(page, path):
    """Even HTML that got in would do nothing: the content security policy allows the page's own script and style alone."""
    fresh(page, path)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\"><p onclick=\"window.hacked=1\" id=hack>x</p>')")
    page.evaluate("(s => { s.textContent = 'window.hacked = 1'; document.body.append(s); })(document.createElement('script'))")
    page.evaluate("document.getElementById('hack').click()")
    page.settle()
    check(page.evaluate("window.hacked === undefined"), "a script that is not the page's own ran")
    check(page.evaluate("fetch('data:,x').then(() => 'loaded', () => 'refused')") == "refused", "the page could load something")
    check(any("Content Security Policy" in e for e in page.errors()), "and the browser says why")


def without_script(page, path):
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(path)
    stands = "['verdict', 'comparison', 'certificates', 'limits', 'provenance'].every(i => document.getElementById(i).checkVisibility())"
    check(page.evaluate(stands), "static parts stand")
    why = "!document.getElementById('load').checkVisibility() && document.querySelector('noscript').textContent.includes('script')"
    check(page.evaluate(why), "charts are not promised")
    page.send("Emulation.setScriptExecutionDisabled", value=False)


def written(moeplan, source, folder):
    """A page of the program itself, of a plan file with a strange name, with a sweep and a newer recording."""
    trace, common = str(source / "traces" / "samples" / "decode.mpt"), ["2x4:h100", "-m", "gpt-oss-20b", "--batch", "4", "--quiet"]
    plan, out = folder / "<img src=x onerror=\"window.hacked=1\">.yaml", folder / "real.html"
    for arguments in (["plan", trace, *common, "--redundant", "8", "--strategy", "eplb", "--split", "0.5", "-o", str(plan)],
                      ["report", str(plan), trace, *common, "--redundant", "0,8", "--strategy", "eplb", "--drift", trace, "-o", str(out)]):
        subprocess.run([moeplan, *arguments], check=True, timeout=60, stdout=subprocess.DEVNULL)
    found = re.search(r'<script type="application/json" id="data">\s*(.*?)\s*</script>', out.read_text(), re.S)
    return out, json.loads(found.group(1))


def main():
    moeplan, source = sys.argv[1], pathlib.Path(sys.argv[2])
    if not chromium.find():
        print("skipped: no Chromium here (apt-get install chromium, or name it in MOEPLAN_CHROMIUM)")
        return 77
    sample = json.loads((HERE / "sample.json").read_text())
    with tempfile.TemporaryDirectory(prefix="moeplan-report-") as name, chromium.Browser() as browser:
        folder, page = pathlib.Path(name), browser.page()
        big = pages.invented(58, 64, 8)
        paths = {"sample": folder / "sample.html", "58 x 64": folder / "big.html"}
        paths["sample"].write_text(pages.page(sample))
        paths["58 x 64"].write_text(pages.page(big))
        paths["program's"], real = written(moeplan, source, folder)
        page.media("light")
        page.open(paths["sample"])
        for what, run in (("layout", lambda: layout(page, paths)), ("layer picker", lambda: picker(page, paths["sample"], sample)),
                          ("values", lambda: pictures(page, paths["sample"], sample)),
                          ("values of the program's", lambda: pictures(page, paths["program's"], real)),
                          ("values of 58 x 64", lambda: pictures(page, paths["58 x 64"], big)),
                          ("themes", lambda: themes(page, paths["sample"])), ("spoken", lambda: spoken(page, paths["sample"], sample)),
                          ("paper", lambda: paper(page, paths["sample"], folder, False)), ("much paper", lambda: paper(page, paths["58 x 64"], folder, True)),
                          ("strange", lambda: strange(page, sample, folder)), ("policy", lambda: policy(page, paths["sample"])),
                          ("no script", lambda: without_script(page, paths["program's"]))):
            print(what, flush=True)
            run()
    print(f"{len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
