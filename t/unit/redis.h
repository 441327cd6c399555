
/*
 * A redis-server of the test's own, on a socket in a private directory, and
 * a client that talks to it; both end with the test.  Included by one unit.
 */


#ifndef UNIT_REDIS_H_INCLUDED
#define UNIT_REDIS_H_INCLUDED


#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>


static FILE     *wire;
static pid_t     server;
static char      dir[] = "/tmp/apikey-script-XXXXXX";
static uint64_t  seed;


static void
stop(void)
{
    char  path[128];

    if (server) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }

    snprintf(path, sizeof(path), "%s/s", dir);
    unlink(path);
    rmdir(dir);
}


static void
fail(const char *format, ...)
{
    va_list  args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (seed %llu)\n", (unsigned long long) seed);

    exit(1);
}


static void
start(void)
{
    int                 fd, i;
    struct sockaddr_un  sun = { .sun_family = AF_UNIX };

    if (mkdtemp(dir) == NULL) {
        fail("mkdtemp: %s", strerror(errno));
    }

    atexit(stop);

    snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", dir);

    server = fork();

    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket",
               sun.sun_path, "--save", "", "--dir", dir, "--loglevel",
               "warning", (char *) NULL);
        perror("redis-server");
        _exit(1);
    }

    fd = socket(AF_UNIX, SOCK_STREAM, 0);

    for (i = 0; connect(fd, (struct sockaddr *) &sun, sizeof(sun)); i++) {

        if (i == 1000) {
            fail("redis-server does not start");
        }

        usleep(10000);
    }

    wire = fdopen(fd, "r+");
    setvbuf(wire, NULL, _IONBF, 0);
}


static void
command(unsigned argc, const char **argv, const size_t *len)
{
    char      buf[262144], *p;
    unsigned  i;

    p = buf + sprintf(buf, "*%u\r\n", argc);

    for (i = 0; i < argc; i++) {
        p += sprintf(p, "$%zu\r\n", len[i]);
        memcpy(p, argv[i], len[i]);
        p += len[i];
        *p++ = '\r';
        *p++ = '\n';
    }

    if (write(fileno(wire), buf, p - buf) != p - buf) {
        fail("write: %s", strerror(errno));
    }
}


/* A string's length, or the integer; an error ends the test. */

static long
answer(char *out)
{
    char    line[512];
    long    n;

    if (fgets(line, sizeof(line), wire) == NULL || line[0] == '-') {
        fail("Redis says %s", line);
    }

    n = (line[0] == ':' || line[0] == '$') ? atol(line + 1) : 0;

    if (line[0] == '$' && n >= 0) {
        if (fread(out, 1, n + 2, wire) != (size_t) n + 2) {
            fail("reply cut");
        }
    }

    return n;
}


static long
run(char *out, unsigned argc, ...)
{
    size_t       len[8];
    va_list      args;
    unsigned     i;
    const char  *argv[8];

    va_start(args, argc);

    for (i = 0; i < argc; i++) {
        argv[i] = va_arg(args, const char *);
        len[i] = strlen(argv[i]);
    }

    va_end(args);
    command(argc, argv, len);

    return answer(out);
}


#endif /* UNIT_REDIS_H_INCLUDED */
