/* Nested groups in a matrix of distances. */
#include "topo_draft.h"
#include <stdio.h>
#include <string.h>

bool topo_nest_runs(const struct topo_nest *nest, uint32_t at[3]) {
    const uint32_t n = nest->n;
    for (uint32_t l = 0; l < nest->n_levels; l++) {
        const uint32_t *group = nest->group + (size_t)l * n;
        /* Numbered by first GPU: in runs, a number is that of the GPU before, or the next new one. */
        for (uint32_t g = 1; g < n; g++)
            if (group[g] < group[g - 1]) {
                for (at[0] = 0; group[at[0]] != group[g];)
                    at[0]++;
                at[1] = g - 1;
                at[2] = g;
                return false;
            }
    }
    return true;
}

/* Groups of level l by their first member; false when "at distance <= l" is not transitive. */
static bool find_level(uint32_t n, const uint8_t *distance, uint32_t l, uint32_t *group, uint32_t at[3]) {
    uint32_t n_groups = 0;
    for (uint32_t g = 0; g < n; g++) {
        uint32_t first = 0;
        while (first < g && distance[(size_t)g * n + first] > l)
            first++;
        group[g] = first < g ? group[first] : n_groups++;
        for (uint32_t k = 0; k < g; k++) {
            const bool is_near = distance[(size_t)g * n + k] <= l;
            if (is_near == (group[k] == group[g]))
                continue;
            /* Before g the groups are right: g is near `first`, and k is near g but not `first`, or the reverse. */
            at[0] = is_near ? first : k;
            at[1] = is_near ? g : first;
            at[2] = is_near ? k : g;
            return false;
        }
    }
    return true;
}

enum topo_nest_outcome topo_nest_find(struct topo_nest *nest, const uint8_t *distance, uint32_t at[3]) {
    for (uint32_t l = 0; l < nest->n_levels; l++)
        if (!find_level(nest->n, distance, l, nest->group + (size_t)l * nest->n, at))
            return TOPO_NEST_BROKEN;
    return topo_nest_runs(nest, at) ? TOPO_NEST_OK : TOPO_NEST_SCATTERED;
}

/* Appends the members of each group of `level` inside `group_above`, group by group. */
static size_t add_order(const struct topo_nest *nest, uint32_t level, uint32_t above, char *buf, size_t size,
                        size_t used) {
    const uint32_t n = nest->n, *group = nest->group + (size_t)level * n;
    const uint32_t *outer = level + 1 < nest->n_levels ? group + n : NULL;
    uint32_t last = MP_NONE;
    for (uint32_t g = 0; g < n && used + 16 < size; g++) {
        if (outer != NULL && outer[g] != above)
            continue;
        if (last != MP_NONE && group[g] <= last)
            continue; /* met already, with its first GPU */
        last = group[g];
        if (level > 0) {
            used = add_order(nest, level - 1, group[g], buf, size, used);
            continue;
        }
        for (uint32_t m = g; m < n && used + 16 < size; m++)
            if (group[m] == group[g])
                used += (size_t)snprintf(buf + used, size - used, used > 0 ? " %u" : "%u", m);
    }
    return used;
}

const char *topo_nest_order(const struct topo_nest *nest, char *buf, size_t size) {
    buf[0] = '\0';
    const size_t used = add_order(nest, nest->n_levels - 1, 0, buf, size, 0);
    if (used + 16 >= size)
        snprintf(buf + used, size - used, " ...");
    return buf;
}
