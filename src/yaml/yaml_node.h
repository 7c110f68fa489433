/* What stands behind a struct mp_yaml_doc. */
#ifndef YAML_NODE_H
#define YAML_NODE_H

#include <moeplan/yaml.h>

struct yaml_document {
    struct mp_yaml_doc doc; /* first: a pointer to it is one to the whole */
    struct mp_yaml *nodes;  /* every node; items point into it */
    char *texts;            /* every scalar and key */
    char *path;
};

#endif
