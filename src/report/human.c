/* Quantities for people: four significant digits at most, and the unit that keeps them short. */
#include <math.h>
#include <moeplan/report.h>
#include <stdio.h>

enum { HUMAN_SIZE = 32 };

static const char *scaled(double value, double step, const char *const *units, int n_units, char *buf) {
    int u = 0;
    if (!isfinite(value)) {
        snprintf(buf, HUMAN_SIZE, "-");
        return buf;
    }
    while (u + 1 < n_units && fabs(value) >= step * 0.9995) {
        value /= step;
        u++;
    }
    double a = fabs(value);
    int digits = u == 0 && value == floor(value) ? 0 : a < 9.9995 ? 3 : a < 99.995 ? 2 : a < 999.95 ? 1 : 0;
    snprintf(buf, HUMAN_SIZE, "%.*f %s", digits, value, units[u]);
    return buf;
}

const char *mp_human_ns(double ns, char *buf) {
    static const char *const units[] = {"ns", "us", "ms", "s"};
    return scaled(ns, 1000.0, units, 4, buf);
}

const char *mp_human_bytes(double bytes, char *buf) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    return scaled(bytes, 1000.0, units, 6, buf);
}
