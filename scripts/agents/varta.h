/* varta.h: heartbeats for varta-fleet from C99 and C++11, on Linux. One file, no dependency.
 *
 *     static struct varta agent;
 *     varta_open(&agent, "/run/varta");        once; the observer need not run yet
 *     varta_beat(&agent, VARTA_OK, work_done); where the work is done, at least twice per threshold
 *
 * A beat never blocks, allocates nothing, leaves errno alone and may be called from signal handlers: it makes a few
 * system calls, all of them in signal-safety(7). It is one frame of 32 bytes (protocol 0.2, CRC-32C), sent once. What
 * the kernel refuses is dropped and counted. If the observer was restarted, the beat connects again and is sent.
 *
 * The socket is recognised by its cookie: if the program closed it, even if the number is another file or socket by
 * now, the beat opens a new one and leaves the other alone. No check can see a close between it and the send: do not
 * close descriptors of others in one thread while another beats. The socket is never 0, 1 or 2, and exec closes it.
 *
 * Threads may share an agent: of two beats at the same time one is sent, the other returns EBUSY; so do all others for
 * 100 ms if a thread is cancelled in a beat or leaves it by longjmp(). After fork() a child that beats is an agent of
 * its own. Do not beat between vfork() and exec.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef VARTA_H
#define VARTA_H

/* A strict -std=c99 declares nothing of POSIX unless it is asked to. */
#if defined(__STRICT_ANSI__) && !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifndef CLOCK_MONOTONIC
#error "include varta.h before other headers, or compile with -D_POSIX_C_SOURCE=200809L"
#endif
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

enum { VARTA_OK = 0, VARTA_DEGRADED = 1, VARTA_CRITICAL = 2 };

struct varta {
    char path[108];
    int fd, pid;
    uint32_t busy_ms; /* when the beat began that is being sent, or 0 */
    uint64_t cookie, nonce, started_ns;
    unsigned long sent, dropped; /* beats of this process; dropped includes those that met another one */
};

static inline uint64_t varta_now(void)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void varta_put(unsigned char *to, uint64_t value, int bytes)
{
    int i;
    for (i = 0; i < bytes; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

/* Writes a frame. `timestamp` is in nanoseconds since the agent began; any clock that does not go back. */
static inline void varta_frame(unsigned char frame[32], int status, uint32_t pid, uint64_t timestamp, uint64_t nonce,
                               uint32_t payload)
{
    uint32_t crc = 0xFFFFFFFFu;
    int i, bit;
    frame[0] = 0x56;
    frame[1] = 0x41;
    frame[2] = 2;
    frame[3] = (unsigned char)status;
    varta_put(frame + 4, pid, 4);
    varta_put(frame + 8, timestamp, 8);
    varta_put(frame + 16, nonce, 8);
    varta_put(frame + 24, payload, 4);
    for (i = 0; i < 28; i++)
        for (crc ^= frame[i], bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
    varta_put(frame + 28, crc ^ 0xFFFFFFFFu, 4);
}

/* Reads fleet.json: copies the path of the socket with number `wanted`, or only counts if that is -1. Returns the
 * number of sockets before the end, or before the one that was copied; -1 if there is no such, or it is too long. A
 * small buffer, since the stack of a signal handler may be small. */
static inline long varta_scan(int file, long wanted, char *path, size_t room)
{
    static const char key[] = "\"socket\"";
    enum { KEY, COLON, VALUE } in = KEY;
    char buffer[256];
    size_t at = 0;
    long count = 0, reads;
    for (reads = 0; reads < 4096; reads++) {
        ssize_t i, len = read(file, buffer, sizeof buffer);
        if (len <= 0)
            break;
        for (i = 0; i < len; i++) {
            const char c = buffer[i];
            if (in == KEY) {
                at = c == key[at] ? at + 1 : c == key[0];
                if (key[at] == 0)
                    in = COLON;
            } else if (in == COLON) {
                at = 0;
                if (c == '"')
                    in = VALUE;
            } else if (c == '"') {
                if (count == wanted) {
                    path[at] = 0;
                    return count;
                }
                at = 0;
                count++;
                in = KEY;
            } else if (count == wanted) {
                if (c == '\\' || at + 1 >= room)
                    return -1;
                path[at++] = c;
            }
        }
    }
    return wanted < 0 ? count : -1;
}

/* The socket for this pid: of a directory the one of its shard, as fleet.json says; any other path is a socket. */
static inline int varta_find(const char *path, int pid, struct sockaddr_un *to)
{
    char name[sizeof to->sun_path + sizeof "/fleet.json"];
    const size_t len = strlen(path);
    long count, shard;
    int file;
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    memcpy(name, path, len);
    memcpy(name + len, "/fleet.json", sizeof "/fleet.json");
    file = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 && errno == ENOTDIR) {
        memcpy(to->sun_path, path, len);
        return 0;
    }
    if (file < 0)
        return errno;
    count = varta_scan(file, -1, name, sizeof name);
    shard = (long)((((uint64_t)pid * 2654435761u & 4294967295u) * (uint64_t)count) >> 32);
    count = count > 0 && lseek(file, 0, SEEK_SET) == 0 ? varta_scan(file, shard, name, sizeof to->sun_path) : -1;
    close(file);
    if (count < 0)
        return EPROTO;
    if (name[0] == '/') {
        memcpy(to->sun_path, name, strlen(name));
    } else {
        if (len + 1 + strlen(name) >= sizeof to->sun_path)
            return ENAMETOOLONG;
        memcpy(to->sun_path, path, len);
        to->sun_path[len] = '/';
        memcpy(to->sun_path + len + 1, name, strlen(name));
    }
    return 0;
}

static inline uint64_t varta_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

/* Whether the descriptor still is the socket that was opened here. */
static inline int varta_is_ours(const struct varta *v)
{
    return v->fd > 2 && v->cookie != 0 && varta_cookie(v->fd) == v->cookie;
}

static inline int varta_connect(struct varta *v, int pid)
{
    struct sockaddr_un to;
    int error = varta_find(v->path, pid, &to);
    if (error != 0)
        return error;
    if (!varta_is_ours(v)) {
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd >= 0 && fd <= 2) {
            /* What is printed later must not go to the observer. */
            const int low = fd;
            fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
            error = errno;
            close(low);
            errno = error;
        }
        if (fd < 0)
            return errno;
        v->fd = fd;
        v->cookie = varta_cookie(fd);
    }
    return connect(v->fd, (const struct sockaddr *)&to, sizeof to) == 0 ? 0 : errno;
}

static inline int varta_send(const struct varta *v, const unsigned char frame[32])
{
    return send(v->fd, frame, 32, MSG_DONTWAIT | MSG_NOSIGNAL) == 32 ? 0 : errno;
}

/* Closes the socket; nothing else, if the number is another's by now. A later beat opens it again. */
static inline void varta_close(struct varta *v)
{
    const int error = errno;
    if (varta_is_ours(v))
        close(v->fd);
    v->fd = -1;
    errno = error;
}

/* Prepares an agent: `path` is the runtime directory of the fleet, or one socket. Connects nothing, so that the
 * observer may start later. Returns 0, or ENAMETOOLONG. */
static inline int varta_open(struct varta *v, const char *path)
{
    const size_t len = strlen(path);
    memset(v, 0, sizeof *v);
    v->fd = -1;
    if (len >= sizeof v->path)
        return ENAMETOOLONG;
    memcpy(v->path, path, len);
    return 0;
}

/* Takes the agent for this beat. Whoever has had it for long does not come back: its thread ended in the beat, or is
 * one of the parent, which fork() left behind. If it does come back, two beats have one nonce, or a socket too many
 * stays open. */
static inline int varta_take(struct varta *v)
{
    const uint32_t now_ms = (uint32_t)(varta_now() / 1000000u) | 1u;
    uint32_t since_ms = 0;
    if (__atomic_compare_exchange_n(&v->busy_ms, &since_ms, now_ms, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return 1;
    return now_ms - since_ms > 100 &&
           __atomic_compare_exchange_n(&v->busy_ms, &since_ms, now_ms, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* Sends one beat. `payload` is the program's own number, such as a count of work done. Returns 0 if it was sent,
 * otherwise the errno value why it was dropped: EAGAIN (the queue is full), EBUSY (it met another beat), ENOENT or
 * ECONNREFUSED (no observer), EACCES, EMFILE... There is nothing to do about it: the next beat tries again. */
static inline int varta_beat(struct varta *v, int status, uint32_t payload)
{
    unsigned char frame[32];
    const int before = errno, pid = (int)getpid();
    int error = EBUSY;
    if (status < VARTA_OK || status > VARTA_CRITICAL)
        return EINVAL;
    if (!varta_take(v)) {
        __atomic_fetch_add(&v->dropped, 1, __ATOMIC_RELAXED);
        return error;
    }
    if (v->pid != pid) {
        varta_close(v);
        v->pid = pid;
        v->nonce = 0;
        v->started_ns = varta_now();
        __atomic_store_n(&v->sent, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&v->dropped, 0, __ATOMIC_RELAXED);
    }
    v->nonce = v->nonce >= UINT64_MAX - 1 ? 0 : v->nonce + 1;
    varta_frame(frame, status, (uint32_t)pid, varta_now() - v->started_ns, v->nonce, payload);
    error = varta_is_ours(v) ? varta_send(v, frame) : EBADF;
    if (error != 0 && error != EAGAIN && error != ENOBUFS) {
        error = varta_connect(v, pid);
        if (error == 0)
            error = varta_send(v, frame);
    }
    if (v->fd > 2 && v->cookie == 0) {
        /* This kernel has no cookies: a socket for each beat. */
        close(v->fd);
        v->fd = -1;
    }
    __atomic_fetch_add(error == 0 ? &v->sent : &v->dropped, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&v->busy_ms, 0, __ATOMIC_RELEASE);
    errno = before;
    return error;
}

/* Reports that the program crashed, once, over a socket of its own; for handlers of SIGSEGV and the like, also in the
 * middle of a beat. Returns as a beat does. */
static inline int varta_crash(const struct varta *v)
{
    unsigned char frame[32];
    struct varta last;
    const int before = errno, pid = (int)getpid();
    int error;
    varta_open(&last, v->path);
    varta_frame(frame, VARTA_CRITICAL, (uint32_t)pid, varta_now() - v->started_ns, UINT64_MAX, 0);
    error = varta_connect(&last, pid);
    if (error == 0)
        error = varta_send(&last, frame);
    if (last.fd > 2)
        close(last.fd);
    errno = before;
    return error;
}

#endif
