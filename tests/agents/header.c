/* A process that beats by varta.h and does what hostile programs do to a library: closes its descriptors, forks, beats in
 * signal handlers and threads. Compiles as C and as C++.
 *
 * It reads commands from standard input and answers each with one line; tests/it/header.rs says what it expects. */
#include "varta.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>

static struct varta agent;
static int foreign = -1; /* the other end of a pair whose first end has the agent's number */
static unsigned long in_handler;

static void answer(const char *what, long one, long two)
{
    char line[128];
    const int len = snprintf(line, sizeof line, "%s %ld %ld\n", what, one, two);
    if (write(1, line, (size_t)len) != len)
        _exit(1);
}

/* Puts another descriptor where the agent's socket was. */
static void steal(int with)
{
    const int number = agent.fd;
    close(number);
    if (with != number) {
        dup2(with, number);
        close(with);
    }
    answer("stolen", number, 0);
}

static void close_all(void)
{
    int fd;
    for (fd = 3; fd < 1024; fd++)
        close(fd);
}

static long open_descriptors(void)
{
    long count = 0;
    int fd;
    for (fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) != -1;
    return count;
}

static void *beat_often(void *beats)
{
    long i;
    for (i = 0; i < *(const long *)beats; i++)
        varta_beat(&agent, VARTA_OK, 0);
    return NULL;
}

static void *beat_cancelled(void *unused)
{
    pthread_cancel(pthread_self());
    varta_beat(&agent, VARTA_OK, 0);
    return unused;
}

static void on_alarm(int signal)
{
    (void)signal;
    varta_beat(&agent, VARTA_OK, 1);
    in_handler++;
}

static void on_crash(int number)
{
    varta_crash(&agent);
    signal(number, SIG_DFL);
    raise(number);
}

static void in_children(long count, long beats)
{
    long i, failed = 0;
    int status;
    for (i = 0; i < count; i++) {
        if (fork() == 0) {
            for (i = 0; i < beats; i++)
                failed += varta_beat(&agent, VARTA_OK, 7) != 0;
            _exit(failed != 0);
        }
    }
    while (wait(&status) > 0)
        failed += status != 0;
    answer("children", count, failed);
}

static void in_threads(long beats)
{
    pthread_t threads[4];
    int i;
    for (i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, beat_often, &beats);
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    answer("threads", (long)agent.sent, (long)agent.dropped);
}

static void in_signals(long beats)
{
    const struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    long i, changed = 0;
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    for (i = 0; i < beats || in_handler < 100; i++) {
        errno = 77;
        varta_beat(&agent, VARTA_OK, 0);
        changed += errno != 77;
    }
    setitimer(ITIMER_REAL, &never, NULL);
    answer("signals", i + (long)in_handler - (long)(agent.sent + agent.dropped), changed);
}

static void daemonise(void)
{
    if (fork() != 0)
        _exit(0);
    setsid();
    if (fork() != 0)
        _exit(0);
    close_all();
    answer("daemon", getpid(), 0);
}

static void obey(const char *command, const char *text, const char *more)
{
    const long number = atol(text);
    if (strcmp(command, "open") == 0) {
        answer("open", varta_open(&agent, text), 0);
    } else if (strcmp(command, "beat") == 0) {
        const int error = varta_beat(&agent, (int)number, (uint32_t)atol(more));
        answer("beat", error, agent.fd);
    } else if (strcmp(command, "beats") == 0) {
        beat_often((void *)&number);
        answer("beats", (long)agent.sent, (long)agent.dropped);
    } else if (strcmp(command, "frame") == 0) {
        unsigned char frame[32];
        unsigned long long at, nonce;
        unsigned int status, pid, payload;
        char line[80];
        int i, len = 0;
        sscanf(text, "%u,%u,%llu,%llu,%u", &status, &pid, &at, &nonce, &payload);
        varta_frame(frame, (int)status, pid, at, nonce, payload);
        for (i = 0; i < 32; i++)
            len += snprintf(line + len, sizeof line - (size_t)len, "%02x", frame[i]);
        answer(line, 0, 0);
    } else if (strcmp(command, "find") == 0) {
        struct sockaddr_un to;
        const int error = varta_find(agent.path, (int)number, &to);
        answer(error == 0 ? to.sun_path : "-", error, 0);
    } else if (strcmp(command, "nonce") == 0) {
        agent.nonce = UINT64_MAX - 2;
        answer("nonce", 0, 0);
    } else if (strcmp(command, "steal-by-file") == 0) {
        steal(open(text, O_RDWR | O_CREAT, 0600));
    } else if (strcmp(command, "steal-by-socket") == 0) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) != 0)
            _exit(1);
        foreign = pair[1];
        steal(pair[0]);
    } else if (strcmp(command, "heard") == 0) {
        char byte;
        const long heard = recv(foreign, &byte, 1, MSG_DONTWAIT);
        answer("heard", heard, heard < 0 ? errno : 0);
    } else if (strcmp(command, "close-all") == 0) {
        close_all();
        answer("closed", 0, 0);
    } else if (strcmp(command, "close-low") == 0) {
        close(2);
        answer("closed", 0, 0);
    } else if (strcmp(command, "close") == 0) {
        varta_close(&agent);
        answer("closed", agent.fd, 0);
    } else if (strcmp(command, "is-open") == 0) {
        answer("is-open", fcntl((int)number, F_GETFD) != -1, open_descriptors());
    } else if (strcmp(command, "no-more") == 0) {
        while (dup(1) >= 0) {
        }
        answer("no-more", errno, 0);
    } else if (strcmp(command, "children") == 0) {
        in_children(number, atol(more));
    } else if (strcmp(command, "threads") == 0) {
        in_threads(number);
    } else if (strcmp(command, "signals") == 0) {
        in_signals(number);
    } else if (strcmp(command, "cancel") == 0) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, NULL, beat_cancelled, NULL);
        pthread_join(thread, &result);
        answer("cancelled", result == PTHREAD_CANCELED, 0);
    } else if (strcmp(command, "daemonise") == 0) {
        daemonise();
    } else if (strcmp(command, "crash") == 0) {
        signal(SIGSEGV, on_crash);
        raise(SIGSEGV);
    } else {
        answer("unknown", 0, 0);
    }
}

/* Byte by byte: a buffer of stdio would be copied by fork. */
int main(void)
{
    char line[512], command[32], text[300], more[32];
    size_t len = 0;
    while (len + 1 < sizeof line && read(0, line + len, 1) == 1) {
        if (line[len++] != '\n')
            continue;
        line[len] = 0;
        len = 0;
        command[0] = text[0] = more[0] = 0;
        if (sscanf(line, "%31s %299s %31s", command, text, more) > 0)
            obey(command, text, more);
    }
    return 0;
}
