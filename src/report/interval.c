/* 95 % intervals over requests.
 *
 * Decides   how far a mean over steps could move had other requests been recorded.
 * Method    delete-a-group jackknife: with theta the figure on everything and theta_g the figure without group g,
 *           variance = (G - 1) / G * sum (theta_g - mean)^2, interval = theta -+ t(0.975, G - 1) * sqrt(variance).
 * Paper     M. H. Quenouille, Biometrika 43, 1956; J. W. Tukey, Ann. Math. Statist. 29, 1958; P. S. Kott, J. Official
 *           Statistics 17(4), 2001 (groups).
 * Differs   groups come from a hash of the request id, so their sizes differ a little; they are not reweighted.
 * Cost      O(G). */
#include <math.h>
#include <moeplan/report.h>

/* Student's t, two-sided 95 %: the table for small degrees of freedom, beyond it the Cornish-Fisher series around the
 * normal quantile (error below 2e-5 there). */
double mp_t_quantile_95(uint32_t freedom) {
    static const double table[] = {12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624,
                                   2.306004,  2.262157, 2.228139, 2.200985, 2.178813, 2.160369, 2.144787,
                                   2.131450,  2.119905, 2.109816, 2.100922, 2.093024, 2.085963};
    if (freedom == 0)
        return INFINITY;
    if (freedom <= sizeof table / sizeof *table)
        return table[freedom - 1];
    const double z = 1.959963984540054, n = (double)freedom;
    double z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
    return z + (z3 + z) / (4 * n) + (5 * z5 + 16 * z3 + 3 * z) / (96 * n * n) +
           (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * n * n * n);
}

struct mp_interval mp_interval_jackknife(double whole, const double *without, uint32_t n_groups) {
    struct mp_interval out = {whole, whole, false};
    if (n_groups < 2 || !isfinite(whole))
        return out;
    double mean = 0, sum = 0;
    for (uint32_t g = 0; g < n_groups; g++) {
        if (!isfinite(without[g]))
            return out;
        mean += without[g] / n_groups;
    }
    for (uint32_t g = 0; g < n_groups; g++)
        sum += (without[g] - mean) * (without[g] - mean);
    double half = mp_t_quantile_95(n_groups - 1) * sqrt((double)(n_groups - 1) / n_groups * sum);
    return (struct mp_interval){whole - half, whole + half, true};
}
