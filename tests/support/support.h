/* What every test program shares: where the data is, and tables that fail call k. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

/* cmocka wants these four first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <moeplan/alloc.h>
#include <moeplan/io.h>
#include <stdbool.h>

/* cmocka reports a skipped test as "not ok # SKIP", which meson counts as a failure: here it ends early, and
 * shared_path() has said why. */
#undef skip
#define skip() return

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fails the test with the error's text unless status is MP_OK. */
void support_check_ok(enum mp_status status, const struct mp_error *err, const char *call, const char *file, int line);
#define CHECK_OK(call, err) support_check_ok((call), &(err), #call, __FILE__, __LINE__)

/* "<source root>/relative", in a static buffer of eight that rotate. */
const char *source_path(const char *relative);
/* "<shared data>/relative" when that exists, else NULL: the test then calls skip() after saying so. */
const char *shared_path(const char *relative);
/* A path in a fresh temporary folder of this process (removed at exit), in a rotating static buffer. */
const char *temp_path(const char *name);

/* Allocation faults: the k-th allocation from now (k >= 1) fails, once or from then on. */
void fail_allocation(uint64_t k, bool from_then_on);
/* I/O faults: the k-th file operation from now fails with this errno, once or from then on; EINTR and short counts too.
 */
void fail_io(uint64_t k, bool from_then_on, int error);
/* Restores both tables and returns whether the fault was reached; the counts of calls since the last fail_* call. */
bool faults_end(uint64_t *n_allocations, uint64_t *n_io);

/* Runs flow(ctx) with allocation k failing for k = 1, 1 + stride, ... until a run is not hit; then the same for I/O.
 * Each faulted run must return a status other than MP_OK (or MP_OK when the fault was survived) and leak nothing. A
 * final run without faults must succeed. */
typedef enum mp_status (*support_flow)(void *ctx, struct mp_error *err);
void sweep_faults(support_flow flow, void *ctx, uint64_t stride);

#endif
