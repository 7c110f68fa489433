#!/usr/bin/env python3
"""Joins the report's scripts into one and puts the hashes of script and style into the page's content security policy.

usage: join_page.py OUT.html OUT.js PAGE.html PAGE.css SCRIPT.js...
A browser then runs this script and this style and nothing else, whatever names the report carries.
"""
import base64
import hashlib
import pathlib
import re
import sys


def policy(kind, contents):
    hashes = ("'sha256-" + base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() + "'" for c in contents)
    return kind + " " + " ".join(hashes)


def join(html, css, scripts):
    """(page, script): the page's @POLICY@ filled, for its places STYLE and SCRIPT filled with css and the script."""
    script = "".join(scripts)
    for text, end in ((css, "</style"), (script, "</script"), (script, "<!--")):
        if end in text.lower():
            raise ValueError(f"{end} would end the element")
    whole = html.replace("<!--STYLE-->\n", css).replace("<!--SCRIPT-->\n", script)
    rules = ["default-src 'none'", policy("style-src", re.findall(r"<style>(.*?)</style>", whole, re.S)),
             policy("script-src", re.findall(r"<script>(.*?)</script>", whole, re.S)), "base-uri 'none'", "form-action 'none'"]
    if html.count("@POLICY@") != 1:
        raise ValueError("the page has no one place @POLICY@")
    return html.replace("@POLICY@", "; ".join(rules)), script


def main():
    out_html, out_js, html, css, *scripts = map(pathlib.Path, sys.argv[1:])
    page, script = join(html.read_text(), css.read_text(), [s.read_text() for s in scripts])
    out_html.write_text(page)
    out_js.write_text(script)


if __name__ == "__main__":
    main()
