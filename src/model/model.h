/* Shared by the files of this folder. */
#ifndef MODEL_H
#define MODEL_H

#include <moeplan/embedded.h>
#include <moeplan/model.h>

extern const struct mp_embedded model_presets[];

#endif
