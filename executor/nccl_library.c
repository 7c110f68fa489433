#include "nccl_library.h"
#include <dlfcn.h>
#include <string.h>

enum mp_status nccl_load(struct nccl_library *out, struct mp_error *err) {
    /* What the linker of this machine knows, then where it was when this was built. */
    static const char *const places[] = {"libnccl.so.2", EXECUTOR_CUDA_HOME "/lib64/libnccl.so.2",
                                         EXECUTOR_CUDA_HOME "/lib/libnccl.so.2"};
    static const char *const names[] = {"ncclGetVersion",        "ncclGetUniqueId",  "ncclCommInitRankConfig",
                                        "ncclCommGetAsyncError", "ncclCommFinalize", "ncclCommDestroy",
                                        "ncclCommAbort",         "ncclSend",         "ncclRecv",
                                        "ncclAllReduce",         "ncclGroupStart",   "ncclGroupEnd",
                                        "ncclGetErrorString",    "ncclGetLastError"};
    void *library = NULL;
    _Static_assert(sizeof *out == sizeof names / sizeof *names * sizeof(void *), "a name for each function");
    for (size_t i = 0; library == NULL && i < sizeof places / sizeof *places; i++)
        library = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return mp_fail(err, MP_EIO, "transport nccl: libnccl.so.2 is not installed, or cannot be loaded: %.200s",
                       dlerror());
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *function = dlsym(library, names[i]);
        if (function == NULL)
            return mp_fail(err, MP_EIO, "transport nccl: libnccl.so.2 has no %s (NCCL 2.18 or later has)", names[i]);
        memcpy((char *)out + i * sizeof function, &function, sizeof function); /* ISO C has no cast for it */
    }
    return MP_OK;
}

enum mp_status nccl_share_id(const struct nccl_library *nccl, struct ex_link *control, ncclUniqueId *out,
                             struct mp_error *err) {
    ncclUniqueId mine = {0}, *all = mp_calloc(control->n, sizeof *all);
    ncclResult_t result = ncclSuccess;
    enum mp_status status = MP_OK;
    if (all == NULL)
        return mp_nomem(err, "the id of a communicator");
    if (control->me == 0)
        result = nccl->GetUniqueId(&mine);
    if (result != ncclSuccess) {
        status = mp_fail(err, MP_EIO, "NCCL: making an id: %s", nccl->GetErrorString(result));
        goto out;
    }
    MP_TRY(socket_gather(control, &mine, all, sizeof mine, err));
    *out = all[0];
out:
    mp_free(all);
    return status;
}
