
/*
 * The configuration as nginx reads it: "nginx -T" checks it and prints it
 * with all that is included; our directives are picked out of that.
 */


#define _GNU_SOURCE

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "doctor.h"


#define APIKEY_DOCTOR_WORDS  16
#define APIKEY_DOCTOR_MARK   "# configuration file "


typedef struct {
    char  *pos;
    char  *end;
    char   held;                 /* ended the last word, and is due */
    char   mark[2];
} apikey_doctor_lex_t;


typedef struct {
    char  *word[APIKEY_DOCTOR_WORDS];
    int    n;
} apikey_doctor_words_t;


static FILE *apikey_doctor_file(void);
static int apikey_doctor_run(const char *nginx, const char *file, FILE *out,
    FILE *err);
static char *apikey_doctor_text(FILE *f);
static void apikey_doctor_last(apikey_doctor_t *d, char *text);
static void apikey_doctor_parse(apikey_doctor_t *d, char *text);
static char *apikey_doctor_word(apikey_doctor_lex_t *lex);
static char *apikey_doctor_mark(apikey_doctor_lex_t *lex, char mark);
static void apikey_doctor_directive(apikey_doctor_t *d, const char *dir,
    const apikey_doctor_words_t *words);
static void apikey_doctor_redis_words(apikey_doctor_t *d, const char *dir,
    const apikey_doctor_words_t *words);
static void apikey_doctor_journal(apikey_doctor_t *d, const char *dir,
    const apikey_doctor_words_t *words);
static const char *apikey_doctor_param(const apikey_doctor_words_t *words,
    const char *name);
static void apikey_doctor_path(char **to, const char *dir, const char *path);
static uint64_t apikey_doctor_size(const char *text);


void
apikey_doctor_conf(apikey_doctor_t *d, const char *nginx, const char *file)
{
    int    status;
    char  *text, *why;
    FILE  *out, *err;

    out = apikey_doctor_file();
    err = apikey_doctor_file();

    if (out == NULL || err == NULL) {
        apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "configuration",
                          "no memory for it: %s", strerror(errno));
        goto done;
    }

    status = apikey_doctor_run(nginx, file, out, err);

    text = apikey_doctor_text(out);
    why = apikey_doctor_text(err);

    if (status == 0 && text) {
        apikey_doctor_say(d, APIKEY_DOCTOR_OK, "configuration",
                          "\"%s -t\" accepts it", nginx);
        apikey_doctor_parse(d, text);

    } else {
        apikey_doctor_last(d, why);
    }

    free(text);
    free(why);

done:

    if (out) {
        (void) fclose(out);
    }

    if (err) {
        (void) fclose(err);
    }
}


/* Passwords stand in a configuration: it never gets to a disk. */

static FILE *
apikey_doctor_file(void)
{
    int    fd;
    FILE  *f;

    fd = memfd_create("configuration", MFD_CLOEXEC);

    if (fd == -1) {
        return NULL;
    }

    f = fdopen(fd, "w+");

    if (f == NULL) {
        (void) close(fd);
    }

    return f;
}


static int
apikey_doctor_run(const char *nginx, const char *file, FILE *out, FILE *err)
{
    int    status;
    pid_t  pid;

    (void) fflush(NULL);

    pid = fork();

    if (pid == -1) {
        return -1;
    }

    if (pid == 0) {
        if (dup2(fileno(out), STDOUT_FILENO) != -1
            && dup2(fileno(err), STDERR_FILENO) != -1)
        {
            if (file) {
                execlp(nginx, nginx, "-T", "-q", "-c", file, (char *) NULL);

            } else {
                execlp(nginx, nginx, "-T", "-q", (char *) NULL);
            }

            dprintf(STDERR_FILENO, "cannot run %s: %s\n", nginx,
                    strerror(errno));
        }

        _exit(127);
    }

    while (waitpid(pid, &status, 0) == -1) {
        if (errno != EINTR) {
            return -1;
        }
    }

    return status;
}


static char *
apikey_doctor_text(FILE *f)
{
    char    *text;
    size_t   size;

    text = NULL;
    size = 0;

    rewind(f);

    if (getdelim(&text, &size, '\0', f) == -1) {
        free(text);
        return NULL;
    }

    return text;
}


/* What nginx complains of stands in the lines that are no summary. */

static void
apikey_doctor_last(apikey_doctor_t *d, char *text)
{
    char  *line, *state, *why;

    why = NULL;

    for (line = text ? strtok_r(text, "\n", &state) : NULL;
         line;
         line = strtok_r(NULL, "\n", &state))
    {
        if (strstr(line, " test failed") == NULL
            && strstr(line, "[warn]") == NULL)
        {
            why = line;
        }
    }

    apikey_doctor_say(d, APIKEY_DOCTOR_FAIL, "configuration", "%s",
                      why ? why : "nginx -T does not print it");
}


static void
apikey_doctor_parse(apikey_doctor_t *d, char *text)
{
    char                   *pos, *word, *conf, *dir, *colon;
    apikey_doctor_lex_t     lex;
    apikey_doctor_words_t   words;

    conf = NULL;
    dir = NULL;

    /* the first file is the main one: nginx takes paths from its directory */

    if (strncmp(text, APIKEY_DOCTOR_MARK, strlen(APIKEY_DOCTOR_MARK)) == 0) {
        pos = text + strlen(APIKEY_DOCTOR_MARK);
        colon = memchr(pos, ':', strcspn(pos, "\n"));
        conf = colon ? strndup(pos, (size_t) (colon - pos)) : NULL;
        dir = conf ? dirname(conf) : NULL;
    }

    memset(&lex, 0, sizeof(apikey_doctor_lex_t));

    lex.pos = text;
    lex.end = text + strlen(text);
    words.n = 0;

    while ((word = apikey_doctor_word(&lex)) != NULL) {

        if (word == lex.mark) {
            if (*word == ';' && words.n) {
                apikey_doctor_directive(d, dir ? dir : ".", &words);
            }

            words.n = 0;

        } else if (words.n < APIKEY_DOCTOR_WORDS) {
            words.word[words.n++] = word;
        }
    }

    free(conf);
}


/*
 * The next word of nginx's syntax, unquoted and ended where it stands, or
 * lex->mark: ";", "{" or "}".
 */

static char *
apikey_doctor_word(apikey_doctor_lex_t *lex)
{
    char  *p, *start, *out, quote;

    if (lex->held) {
        return apikey_doctor_mark(lex, lex->held);
    }

    p = lex->pos + strspn(lex->pos, " \t\r\n");

    while (*p == '#') {
        p += strcspn(p, "\n");
        p += strspn(p, " \t\r\n");
    }

    if (p == lex->end) {
        return NULL;
    }

    if (strchr(";{}", *p)) {
        lex->pos = p + 1;
        return apikey_doctor_mark(lex, *p);
    }

    quote = *p == '"' || *p == '\'' ? *p : '\0';
    p += quote != '\0';

    for (start = out = p; p < lex->end; *out++ = *p++) {
        if (quote ? *p == quote : strchr(" \t\r\n;{", *p) != NULL) {
            break;
        }

        if (*p == '\\' && p + 1 < lex->end && strchr("\"'\\", p[1])) {
            p++;
        }
    }

    if (*p == ';' || *p == '{') {
        lex->held = *p;
    }

    lex->pos = p < lex->end ? p + 1 : p;
    *out = '\0';

    return start;
}


static char *
apikey_doctor_mark(apikey_doctor_lex_t *lex, char mark)
{
    lex->held = '\0';
    lex->mark[0] = mark;
    lex->mark[1] = '\0';

    return lex->mark;
}


static void
apikey_doctor_directive(apikey_doctor_t *d, const char *dir,
    const apikey_doctor_words_t *words)
{
    const char  *name;

    name = words->word[0];

    if (words->n < 2 || strncmp(name, "apikey_", 7) != 0) {
        return;
    }

    if (strcmp(name, "apikey_postgres") == 0 && d->postgres == NULL) {
        d->postgres = strdup(words->word[1]);

    } else if (strcmp(name, "apikey_redis") == 0 && d->redis == NULL) {
        apikey_doctor_redis_words(d, dir, words);

    } else if (strcmp(name, "apikey_admin_token") == 0) {
        apikey_doctor_path(&d->tokens, dir, words->word[1]);

    } else if (strcmp(name, "apikey_mac_secret") == 0) {
        apikey_doctor_path(&d->macs, dir, words->word[1]);

    } else if (strcmp(name, "apikey_journal") == 0) {
        apikey_doctor_journal(d, dir, words);
    }
}


/* A word a line; files as they are named from here. */

static void
apikey_doctor_redis_words(apikey_doctor_t *d, const char *dir,
    const apikey_doctor_words_t *words)
{
    int          i;
    char        *path, *text;
    size_t       len;
    const char  *word, *param;

    param = apikey_doctor_param(words, "password_file=");

    if (param) {
        apikey_doctor_path(&d->password_file, dir, param);
    }

    for (i = 1; i < words->n; i++) {
        word = words->word[i];
        len = strcspn(word, "=");
        path = NULL;

        if (strncmp(word, "ca=", 3) == 0 || strncmp(word, "cert", 4) == 0) {
            apikey_doctor_path(&path, dir, word + len + (word[len] == '='));
        }

        if (asprintf(&text, "%s%.*s%s%s\n", d->redis ? d->redis : "",
                     path ? (int) len : (int) strlen(word), word,
                     path ? "=" : "", path ? path : "")
            == -1)
        {
            text = NULL;
        }

        free(path);
        free(d->redis);
        d->redis = text;
    }
}


/* Relative to nginx's prefix, which is not known here. */

static void
apikey_doctor_journal(apikey_doctor_t *d, const char *dir,
    const apikey_doctor_words_t *words)
{
    const char  *param;

    param = apikey_doctor_param(words, "size=");
    d->size = param ? apikey_doctor_size(param) : 0;

    param = apikey_doctor_param(words, "ring=");

    if (param && param[0] == '/') {
        apikey_doctor_path(&d->ring, dir, param);
    }

    if (d->journal) {
        return;
    }

    if (words->word[1][0] == '/') {
        apikey_doctor_path(&d->journal, dir, words->word[1]);

    } else {
        apikey_doctor_say(d, APIKEY_DOCTOR_WARN, "journal", "\"%s\" is below "
                          "nginx's prefix: give its full path with --journal",
                          words->word[1]);
    }
}


static const char *
apikey_doctor_param(const apikey_doctor_words_t *words, const char *name)
{
    int  i;

    for (i = 1; i < words->n; i++) {
        if (strncmp(words->word[i], name, strlen(name)) == 0) {
            return words->word[i] + strlen(name);
        }
    }

    return NULL;
}


static void
apikey_doctor_path(char **to, const char *dir, const char *path)
{
    if (*to) {
        return;
    }

    if (path[0] == '/' || asprintf(to, "%s/%s", dir, path) == -1) {
        *to = strdup(path);
    }
}


/* As nginx writes sizes: 512k, 64m, 1g. */

static uint64_t
apikey_doctor_size(const char *text)
{
    char                *unit;
    unsigned long long   n;

    n = strtoull(text, &unit, 10);

    switch (*unit | 0x20) {
    case 'k':
        return n << 10;
    case 'm':
        return n << 20;
    case 'g':
        return n << 30;
    default:
        return n;
    }
}
