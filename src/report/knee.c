/* Where paying more stops paying: the knee of a curve of costs.
 *
 * Decides   which point of a falling curve to take when every step to the right has its price.
 * Minimises nothing: it names the point farthest below the chord from the first point to the lowest one.
 * Method    both axes are scaled to [0, 1]; what lies behind the lowest point is not looked at. V. Satopaa, J.
 *           Albrecht, D. Irwin, B. Raghavan, Finding a "Kneedle" in a Haystack, ICDCS Workshops 2011,
 *           doi:10.1109/ICDCSW.2011.20.
 * Bound     -
 * Differs   no smoothing and no sensitivity: the points are few and the noise is told by intervals elsewhere. A curve
 *           that falls evenly, or faster and faster, has its end for a knee.
 * Cost      O(n). */
#include <math.h>
#include <moeplan/report.h>

struct mp_knee mp_knee_of(uint32_t n, const double *x, const double *y) {
    struct mp_knee knee = {.kind = MP_KNEE_NONE, .at = 0};
    uint32_t low = 0;
    for (uint32_t i = 1; i < n; i++)
        if (y[i] < y[low])
            low = i;
    if (low == 0 || !(x[low] > x[0]) || !isfinite(y[0]) || !isfinite(y[low]))
        return knee;
    knee = (struct mp_knee){.kind = MP_KNEE_END, .at = low};
    for (uint32_t i = 1; i < low; i++) {
        double across = (x[i] - x[0]) / (x[low] - x[0]), down = (y[0] - y[i]) / (y[0] - y[low]);
        double below = (down - across) / sqrt(2);
        if (below > knee.distance + 1e-12) /* a straight line has rounding only */
            knee = (struct mp_knee){.kind = MP_KNEE_BEND, .at = i, .distance = below};
    }
    return knee;
}
