/* An agent in C (and C++): protocol VLP through varta.h, or sd_notify(3) if NOTIFY_SOCKET is set.
 *
 * VARTA_DIR is the runtime directory, by default /run/varta; it beats twice per WATCHDOG_USEC, by default a second. */
#include "varta.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* Sends one message and does not wait. Returns 0, or why not: no observer, a full queue. */
static int notify(const char *message)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to;
    const size_t len = path == NULL ? 0 : strlen(path);
    int fd, error;
    if (len == 0 || len >= sizeof to.sun_path)
        return EINVAL;
    memset(&to, 0, sizeof to);
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, path, len);
    if (path[0] == '@')
        to.sun_path[0] = 0; /* a name without a file */
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    error = sendto(fd, message, strlen(message), MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0 ? errno : 0;
    close(fd);
    return error;
}

int main(void)
{
    static struct varta agent;
    const char *directory = getenv("VARTA_DIR"), *usec = getenv("WATCHDOG_USEC");
    const char *message = "READY=1\nWATCHDOG=1";
    const long half = usec != NULL ? atol(usec) / 2 : 500000;
    const struct timespec period = {half / 1000000, half % 1000000 * 1000};
    uint32_t done;
    if (varta_open(&agent, directory != NULL ? directory : "/run/varta") != 0) {
        fprintf(stderr, "agent: VARTA_DIR is too long for the path of a socket: %s\n", directory);
        return 1;
    }
    for (done = 1;; done++) {
        nanosleep(&period, NULL); /* the work */
        if (getenv("NOTIFY_SOCKET") == NULL)
            varta_beat(&agent, VARTA_OK, done);
        else if (notify(message) == 0)
            message = "WATCHDOG=1";
    }
}
