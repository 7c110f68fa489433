#include "support.h"
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

static enum mp_status write_file(void *ctx, struct mp_error *err) {
    const char *path = ctx;
    struct mp_out *o;
    enum mp_status status = mp_out_open(&o, path, err);
    if (status != MP_OK)
        return status;
    for (int i = 0; i < 30000; i++)
        mp_out_printf(o, "%d\n", i);
    return mp_out_commit(o, err);
}

static enum mp_status read_file(void *ctx, struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_open(&in, ctx, 0, err);
    if (status == MP_OK)
        mp_in_close(in);
    return status;
}

static void test_io__every_fault_keeps_the_old_file(void **state) {
    (void)state;
    char path[256];
    snprintf(path, sizeof path, "%s", temp_path("kept"));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("old", f);
    fclose(f);
    for (uint64_t k = 1;; k++) {
        struct mp_error err = {0};
        fail_io(k, true, 28 /* ENOSPC */);
        enum mp_status status = write_file(path, &err);
        if (!faults_end(NULL, NULL))
            break;
        if (status == MP_OK) /* only the folder's fsync may be survived */
            break;
        assert_int_equal(status, MP_EIO);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 3);
    }
    sweep_faults(write_file, path, 1);
    sweep_faults(read_file, path, 1);
}

enum { SET = 5 };

/* Writes a set of files into the folder `ctx`. */
static enum mp_status write_set(void *ctx, struct mp_error *err) {
    struct mp_out *set[SET] = {NULL};
    char path[300];
    enum mp_status status = MP_OK;
    for (int i = 0; i < SET && status == MP_OK; i++) {
        snprintf(path, sizeof path, "%s/%d", (const char *)ctx, i);
        status = mp_out_open(&set[i], path, err);
        for (int k = 0; status == MP_OK && k < 20000; k++) /* longer than the buffer */
            mp_out_printf(set[i], "%d\n", k);
        if (status == MP_OK)
            status = mp_out_finish(set[i], err);
    }
    for (int i = 0; i < SET; i++) {
        if (status == MP_OK)
            status = mp_out_commit(set[i], err);
        else
            mp_out_cancel(set[i]);
    }
    return status;
}

static int n_entries(const char *folder) {
    int n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* The disk fills while a set is written: none of it takes its name, and nothing else stays. */
static void test_io__a_set_on_a_full_disk_leaves_nothing(void **state) {
    (void)state;
    char folder[256];
    uint32_t n_failed = 0;
    bool is_whole = false;
    snprintf(folder, sizeof folder, "%s", temp_path("set"));
    assert_int_equal(mkdir(folder, 0700), 0);
    for (uint64_t k = 1; !is_whole; k++) {
        struct mp_error err = {0};
        fail_io(k, false, 28 /* ENOSPC */);
        enum mp_status status = write_set(folder, &err);
        (void)faults_end(NULL, NULL);
        int n = n_entries(folder);
        is_whole = n == SET && status == MP_OK;
        if (n > 0) /* from the first rename on */
            break;
        assert_int_equal(status, MP_EIO);
        n_failed++;
    }
    assert_true(n_failed > SET * 3); /* open, write, fsync of each at least */
    sweep_faults(write_set, folder, 1);
    struct mp_error err = {0};
    CHECK_OK(write_set(folder, &err), err);
    assert_int_equal(n_entries(folder), SET);
}

static void test_io__removes_what_killed_runs_left(void **state) {
    (void)state;
    char path[256], stale[300], alive[300], other[300];
    snprintf(path, sizeof path, "%s", temp_path("plan.yaml"));
    /* Process 2^22 + 1 cannot exist: Linux numbers end at 2^22. Process 1 always does. */
    snprintf(stale, sizeof stale, "%s.moeplan-4194305-0.tmp", path);
    snprintf(alive, sizeof alive, "%s.moeplan-1-0.tmp", path);
    snprintf(other, sizeof other, "%s.moeplan-4194305-0.tmp.keep", path);
    const char *const files[] = {stale, alive, other};
    for (size_t i = 0; i < 3; i++) {
        FILE *f = fopen(files[i], "w");
        assert_non_null(f);
        fclose(f);
    }
    struct mp_error err = {0};
    CHECK_OK(write_file(path, &err), err);
    struct stat st;
    assert_int_not_equal(stat(stale, &st), 0);
    assert_int_equal(stat(alive, &st), 0);
    assert_int_equal(stat(other, &st), 0);
}

static void test_io__keeps_links_and_modes(void **state) {
    (void)state;
    char path[256], link_path[256];
    snprintf(path, sizeof path, "%s", temp_path("private"));
    snprintf(link_path, sizeof link_path, "%s", temp_path("link"));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(symlink(path, link_path), 0);
    struct mp_error err = {0};
    CHECK_OK(write_file(link_path, &err), err);
    struct stat st;
    assert_int_equal(lstat(link_path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 100000);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_io__refuses_folders_and_missing_files(void **state) {
    (void)state;
    struct mp_in *in;
    struct mp_error err = {0};
    assert_int_equal(mp_in_open(&in, "/tmp", 0, &err), MP_EIO);
    assert_null(in);
    mp_error_clear(&err);
    assert_int_equal(mp_in_open(&in, "/nowhere/at/all", 0, &err), MP_EIO);
    mp_error_clear(&err);
    assert_int_equal(write_file((void *)(uintptr_t) "/dev/full", &err), MP_EIO);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io__every_fault_keeps_the_old_file),
        cmocka_unit_test(test_io__a_set_on_a_full_disk_leaves_nothing),
        cmocka_unit_test(test_io__removes_what_killed_runs_left),
        cmocka_unit_test(test_io__keeps_links_and_modes),
        cmocka_unit_test(test_io__refuses_folders_and_missing_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
