/* gzip and zstd, in and out. Private to src/base; mp_in_open and mp_out_pack use it. */
#ifndef PACKING_H
#define PACKING_H

#include <moeplan/io.h>

/* As mp_in_unpack, but only about the first MiB of what is packed; what follows is not looked at. */
enum mp_status mp_in_unpack_head(struct mp_in *in, const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;

/* Packs what a writer is given; the bytes go on to `sink`. NULL when out of memory. */
struct packer;
typedef void (*packer_sink)(void *ctx, const void *data, size_t n);
struct packer *packer_new(enum mp_file_packing kind, packer_sink sink, void *ctx);
/* Takes n more bytes; with is_last also all that is still inside, and the stream's end. False when out of memory. */
bool packer_take(struct packer *p, const void *data, size_t n, bool is_last);
void packer_free(struct packer *p); /* NULL is fine */

#endif
