/* Curves drawn with letters, for a terminal. */
#include <math.h>
#include <moeplan/report.h>
#include <stdio.h>
#include <string.h>

enum { PLOT_WIDTH = 64, PLOT_HEIGHT = 14, NUMBER = 32 };
static const char marks[] = "*o+x#@%&";

struct range {
    double low, high;
};

static void widen(struct range *r, double v) {
    if (!isfinite(v))
        return;
    r->low = v < r->low ? v : r->low;
    r->high = v > r->high ? v : r->high;
}

/* Cell of v on n cells, 0 where the range is a point. */
static int cell(const struct range *r, double v, int n) {
    return r->high > r->low ? (int)((v - r->low) / (r->high - r->low) * (n - 1) + 0.5) : 0;
}

void mp_plot_write(const struct mp_curve *curves, uint32_t n_curves, const char *x_title,
                   const char *(*human)(double value, char *buf), struct mp_out *o) {
    char grid[PLOT_HEIGHT][PLOT_WIDTH + 1], text[NUMBER];
    struct range x = {INFINITY, -INFINITY}, y = {INFINITY, -INFINITY};
    memset(grid, ' ', sizeof grid);
    for (uint32_t c = 0; c < n_curves; c++)
        for (uint32_t i = 0; i < curves[c].n; i++)
            if (isfinite(curves[c].y[i])) {
                widen(&x, curves[c].x[i]);
                widen(&y, curves[c].y[i]);
            }
    if (!(x.low <= x.high))
        return;
    for (uint32_t c = 0; c < n_curves; c++)
        for (uint32_t i = 0; i < curves[c].n; i++) {
            if (!isfinite(curves[c].y[i]))
                continue;
            char *at =
                &grid[PLOT_HEIGHT - 1 - cell(&y, curves[c].y[i], PLOT_HEIGHT)][cell(&x, curves[c].x[i], PLOT_WIDTH)];
            if (*at == ' ')
                *at = marks[c % (sizeof marks - 1)];
        }
    for (int row = 0; row < PLOT_HEIGHT; row++) {
        int end = PLOT_WIDTH;
        while (end > 0 && grid[row][end - 1] == ' ')
            end--;
        const char *label = row == 0 ? human(y.high, text) : row == PLOT_HEIGHT - 1 ? human(y.low, text) : "";
        mp_out_printf(o, "%10s |%.*s\n", y.high > y.low || row > 0 ? label : "", end, grid[row]);
    }
    mp_out_printf(o, "%10s +", "");
    for (int i = 0; i < PLOT_WIDTH; i++)
        mp_out_puts(o, "-");
    char from[NUMBER], to[NUMBER];
    snprintf(from, sizeof from, "%g", x.low);
    snprintf(to, sizeof to, "%g", x.high);
    int gap = PLOT_WIDTH - (int)strlen(from) - (int)strlen(to);
    mp_out_printf(o, "\n%10s  %s%*s%s\n", x_title, from, gap, "", to);
    for (uint32_t c = 0; n_curves > 1 && c < n_curves; c++)
        mp_out_printf(o, "%10s  %c %s\n", "", marks[c % (sizeof marks - 1)], curves[c].name);
}
