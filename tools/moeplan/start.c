/* What every program does before anything else. */
#include "progress.h"
#include "tool.h"
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

/* Only what POSIX allows in a handler: unlink through the writer's list, and _exit. */
static void on_signal(int number) {
    mp_out_cancel_all_signal_safe();
    progress_erase_signal_safe();
    _exit(128 + number);
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    /* A reader that went away is an ordinary write error, with exit code 4. */
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);
}

/* A standard stream that is closed would give its number to the first file that is opened, and a result would be
 * written into it. Standard output becomes one that cannot be written to, so that a lost result is an error. */
static void keep_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY); /* the lowest free number is fd */
}

void tool_start(void) {
    keep_standard_streams();
    catch_signals();
}
