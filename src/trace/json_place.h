/* Where a value of a valid JSON text stands, for messages: jansson does not keep positions. Private to src/trace. */
#ifndef JSON_PLACE_H
#define JSON_PLACE_H

#include <stddef.h>
#include <stdint.h>

/* Line and column (1-based) of the value that `path` names, like "layers[1].heat[2]"; of the last part of the path that
 * exists, when it does not. Linear in n; only called once something is wrong. */
void json_place(const char *text, size_t n, const char *path, uint64_t *line, uint64_t *column);

#endif
