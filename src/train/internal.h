/* Shared by the files of src/train. */
#ifndef TRAIN_INTERNAL_H
#define TRAIN_INTERNAL_H

#include <moeplan/base.h>
#include <moeplan/train.h>

#define TRAIN_FULL 1000000u /* ppm */

/* The bytes of as many weights of experts, shared ones included, with `bits` each; and of those outside of experts. */
uint64_t train_bytes_at(const struct mp_model *model, uint64_t weight_bytes, uint64_t bits);
uint64_t train_dense_bytes_at(const struct mp_model *model, uint64_t weight_bytes, uint64_t bits);

/* What a rank keeps of so many tokens that start there and (token, expert) pairs that it computes, one layer, until the
 * backward pass. */
uint64_t train_activation_bytes(const struct mp_model *model, uint64_t tokens, uint64_t pairs);
/* activations[n_gpus]: of the plan's layers. */
void train_memory(struct mp_train_memory *out, const struct mp_cost_setup *setup,
                  const struct mp_train_options *options, const uint64_t *activations);
/* What the offload adds to the layers' times and the update's, which are w's own. */
enum mp_status train_offload(struct mp_train_work *w, struct mp_train_layer *layers, const struct mp_cost_setup *setup,
                             const struct mp_train_options *options, struct mp_error *err) MP_MUST_CHECK;

#endif
