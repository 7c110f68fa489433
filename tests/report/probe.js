/* What test_page.py asks of a page: problems of its layout and of its contrast, as sentences. */
({
    /* What can be seen: has a box, is not hidden, and is not only for screen readers. */
    seen(node) {
        const box = node.getBoundingClientRect();
        return box.width > 0 && box.height > 0 && node.checkVisibility({visibilityProperty: true}) &&
            !node.closest("legend, .skip, .choice input");
    },

    name(node) {
        const id = node.closest("[id]"), text = (node.textContent || "").trim().slice(0, 30);
        return (id ? "#" + id.id + " " : "") + node.tagName.toLowerCase() + " \"" + text + "\"";
    },

    texts() {
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), out = new Set();
        for (let node = walk.nextNode(); node; node = walk.nextNode())
            if (node.data.trim() && !node.parentNode.closest("script, style, noscript") && this.seen(node.parentNode))
                out.add(node.parentNode);
        return [...out];
    },

    layout() {
        const out = [], width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth > width)
            out.push("the page scrolls sideways: " + document.documentElement.scrollWidth + " of " + width);
        for (const node of document.querySelectorAll("body *")) {
            if (!this.seen(node) || node.closest(".box, .scroll, option"))
                continue;
            const box = node.getBoundingClientRect();
            if (box.right > width + 1 || box.left < -1)
                out.push(this.name(node) + " stands outside the page, " + box.left + " to " + box.right);
        }
        const blocks = [...document.querySelectorAll("main section, #contents, #picker")].filter(s => this.seen(s));
        blocks.filter(s => s.id !== "picker").reduce((before, s) => {
            if (s.getBoundingClientRect().top < before - 0.5)
                out.push(this.name(s) + " overlaps what is above it");
            return s.getBoundingClientRect().bottom;
        }, -1e9);
        for (const node of this.texts())
            if (parseFloat(getComputedStyle(node).fontSize) < 12)
                out.push(this.name(node) + " is smaller than 12 px");
        for (const root of document.querySelectorAll(".plot svg, .legend svg")) {
            const frame = root.getBoundingClientRect(), boxes = [...root.querySelectorAll("text")].map(t =>
                [t, t.getBoundingClientRect()]);
            if (frame.width < 60 || frame.height < 25)
                out.push(this.name(root) + " is empty");
            boxes.forEach(([t, b], i) => {
                if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 2 ||
                    b.bottom > frame.bottom + 2)
                    out.push(this.name(t) + " is cut off by its chart");
                for (const [u, c] of boxes.slice(i + 1))
                    if (Math.min(b.right, c.right) - Math.max(b.left, c.left) > 1 &&
                        Math.min(b.bottom, c.bottom) - Math.max(b.top, c.top) > 4)
                        out.push(this.name(t) + " overlaps \"" + u.textContent + "\"");
            });
        }
        for (const figure of document.querySelectorAll("figure"))
            if (!figure.querySelector(".plot svg, .missing") || !figure.querySelector("h3").textContent)
                out.push(this.name(figure) + " shows nothing");
        return out;
    },

    /* Any CSS colour as [r, g, b, a], by painting it. */
    rgba(colour) {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 1;
        const pen = canvas.getContext("2d", {willReadFrequently: true});
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    },

    luminance(rgb) {
        const [r, g, b] = rgb.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 :
            ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    },

    behind(node) {
        for (let n = node; n; n = n.parentElement) {
            const colour = getComputedStyle(n).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)" && !n.matches("svg, svg *"))
                return colour;
        }
        return "rgb(255, 255, 255)";
    },

    contrast() {
        const out = new Set(), known = new Map();
        const of = c => known.get(c) || known.set(c, this.luminance(this.rgba(c))).get(c);
        for (const node of this.texts()) {
            if (node.closest(":disabled, label:has(:disabled)"))
                continue;
            const style = getComputedStyle(node), isSvg = node instanceof SVGElement;
            const a = of(isSvg ? style.fill : style.color), b = of(this.behind(node));
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5)
                out.add(this.name(node) + " has contrast " + ratio.toFixed(2));
        }
        return [...out];
    },

    /* Lightness (CIE L*) of the levels of the legend's scale of colours. */
    scale(kind) {
        return [...document.querySelectorAll(".legend rect." + kind)].map(r => {
            const y = this.luminance(this.rgba(getComputedStyle(r).fill));
            return y > 216 / 24389 ? 116 * Math.cbrt(y) - 16 : y * 24389 / 27;
        });
    },

    /* Middle of cell [i][j] of a heat map, in the window, scrolled to where it can be seen. */
    async cell(key, rows, columns, i, j) {
        const overlay = document.querySelector("[data-key=\"" + key + "\"]"),
            frame = overlay.parentNode.querySelector("svg .frame, svg .cells");
        frame.scrollIntoView({block: "center", behavior: "instant"});
        await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        const box = frame.getBoundingClientRect();
        return [box.left + (j + 0.5) * box.width / columns, box.top + (i + 0.5) * box.height / rows];
    },
})
