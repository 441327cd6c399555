
/*
 * The master's part: directories, the node's UUID, the rings.
 *
 * Runs at every configuration, while workers of the one before may be at
 * work in the same directories: what exists is left as it is.
 */


#include <ngx_config.h>
#include <ngx_core.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/uuid.h"
#include "usage/ship.h"


static ngx_int_t ngx_http_apikey_prepare_path(ngx_log_t *log, u_char *path,
    mode_t mode, ngx_uid_t uid, ngx_gid_t gid);
static ngx_int_t ngx_http_apikey_prepare_could(ngx_log_t *log, u_char *path);
static ngx_int_t ngx_http_apikey_prepare_node(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, ngx_uid_t uid, ngx_gid_t gid);
static ngx_int_t ngx_http_apikey_prepare_file(u_char *name, u_char *text,
    size_t len, ngx_uid_t uid, ngx_gid_t gid);
static void ngx_http_apikey_prepare_label(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, ngx_uid_t uid, ngx_gid_t gid);
static ngx_uint_t ngx_http_apikey_make_node(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, u_char *name, ngx_uint_t damaged);
static ngx_int_t ngx_http_apikey_read_node(u_char *name, u_char node[16]);
static ngx_int_t ngx_http_apikey_prepare_rings(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, ngx_uid_t uid, ngx_gid_t gid);
static u_char *ngx_http_apikey_ring_base(ngx_pool_t *pool,
    ngx_http_apikey_usage_conf_t *conf);


ngx_int_t
ngx_http_apikey_usage_prepare(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf)
{
    u_char           *base, *journal;
    ngx_uint_t        given;
    ngx_uid_t         uid;
    ngx_gid_t         gid;
    ngx_core_conf_t  *ccf;

    if (conf->size < APIKEY_SPOOL_MIN) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "\"apikey_journal\" needs a size of at least 1m");
        return NGX_ERROR;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    uid = (geteuid() == 0) ? ccf->user : (ngx_uid_t) -1;
    gid = (geteuid() == 0) ? ccf->group : (ngx_gid_t) -1;

    journal = ngx_pnalloc(cycle->pool, conf->directory.len + 1);
    base = ngx_http_apikey_ring_base(cycle->pool, conf);

    if (journal == NULL || base == NULL) {
        return NGX_ERROR;
    }

    ngx_cpystrn(journal, conf->directory.data, conf->directory.len + 1);
    conf->directory.data = journal;

    /* workers, who are not root any more, must find the same */

    given = (conf->ring.len != 0);
    conf->ring.data = base;
    conf->ring.len = ngx_strlen(base);

    /* the default is shared by all nginx of the machine: no one may list it */

    if (ngx_http_apikey_prepare_path(cycle->log, journal, 0700, uid, gid)
        != NGX_OK
        || ngx_http_apikey_prepare_path(cycle->log, base,
                                        given ? 0700 : 0711,
                                        given ? uid : (ngx_uid_t) -1,
                                        given ? gid : (ngx_gid_t) -1)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_test_config) {
        return NGX_OK;
    }

    if (!apikey_digest_init()
        || ngx_http_apikey_prepare_node(cycle, conf, uid, gid) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_http_apikey_prepare_label(cycle, conf, uid, gid);

    return ngx_http_apikey_prepare_rings(cycle, conf, uid, gid);
}


/* nginx -t makes nothing: it asks whether it could. */

static ngx_int_t
ngx_http_apikey_prepare_path(ngx_log_t *log, u_char *path, mode_t mode,
    ngx_uid_t uid, ngx_gid_t gid)
{
    struct stat  st;

    if (lstat((char *) path, &st) == 0) {

        if (!S_ISDIR(st.st_mode)) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "\"%s\" is not a directory", path);
            return NGX_ERROR;
        }

        if (geteuid() != 0 && st.st_uid != geteuid() && st.st_uid != 0) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "\"%s\" belongs to another user", path);
            return NGX_ERROR;
        }

    } else if (!ngx_test_config) {

        if (ngx_create_full_path(path, 0711) != 0) {
            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                          "mkdir() above \"%s\" failed", path);
            return NGX_ERROR;
        }

        if (ngx_create_dir(path, mode) == NGX_FILE_ERROR
            && ngx_errno != NGX_EEXIST)
        {
            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                          "mkdir() \"%s\" failed", path);
            return NGX_ERROR;
        }

        if (lstat((char *) path, &st) == -1) {
            return NGX_ERROR;
        }

    } else {
        return ngx_http_apikey_prepare_could(log, path);
    }

    if (ngx_test_config || uid == (ngx_uid_t) -1) {
        return NGX_OK;
    }

    if ((st.st_uid != uid && chown((char *) path, uid, gid) == -1)
        || ((st.st_mode & 0777) != mode && chmod((char *) path, mode) == -1))
    {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "chown() or chmod() of \"%s\" failed", path);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* May something be made in the nearest directory that exists? */

static ngx_int_t
ngx_http_apikey_prepare_could(ngx_log_t *log, u_char *path)
{
    int         rc;
    u_char     *p;
    ngx_err_t   err;

    for (p = path + ngx_strlen(path); p > path; p--) {
        if (*p != '/') {
            continue;
        }

        *p = '\0';
        rc = access((char *) path, W_OK|X_OK);
        err = ngx_errno;

        if (rc == -1 && err != NGX_ENOENT) {
            ngx_log_error(NGX_LOG_EMERG, log, err,
                          "no directory can be made in \"%s\"", path);
        }

        *p = '/';

        if (rc == 0 || err != NGX_ENOENT) {
            return rc == 0 ? NGX_OK : NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_apikey_prepare_node(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, ngx_uid_t uid, ngx_gid_t gid)
{
    u_char    *name, *temp, *p, text[APIKEY_UUID_TEXT_LEN + 1];
    ngx_int_t  rc;

    name = ngx_pnalloc(cycle->pool, 2 * conf->directory.len + 64);
    if (name == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(name, "%V/node%Z", &conf->directory);
    temp = p;
    ngx_sprintf(temp, "%V/node.%P%Z", &conf->directory, ngx_getpid());

    rc = ngx_http_apikey_read_node(name, conf->node);

    if (rc == NGX_OK) {
        return NGX_OK;
    }

    if (rc == NGX_ERROR) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "\"%s\" cannot be read", name);
        return NGX_ERROR;
    }

    if (!ngx_http_apikey_make_node(cycle, conf, name, rc == NGX_ABORT)) {
        return NGX_ERROR;
    }

    apikey_uuid_format((char *) text, conf->node);
    text[APIKEY_UUID_TEXT_LEN] = '\n';

    if (ngx_http_apikey_prepare_file(temp, text, sizeof(text), uid, gid)
        != NGX_OK
        || (link((char *) temp, (char *) name) == -1 && errno != EEXIST))
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "\"%s\" cannot be written", name);
        rc = NGX_ERROR;

    } else {
        rc = ngx_http_apikey_read_node(name, conf->node);
    }

    (void) unlink((char *) temp);

    return rc == NGX_OK ? NGX_OK : NGX_ERROR;
}


/* errno says why not. */

static ngx_int_t
ngx_http_apikey_prepare_file(u_char *name, u_char *text, size_t len,
    ngx_uid_t uid, ngx_gid_t gid)
{
    int        fd;
    ngx_int_t  rc;
    ngx_err_t  err;

    (void) unlink((char *) name);

    fd = open((char *) name, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600);
    if (fd == -1) {
        return NGX_ERROR;
    }

    rc = write(fd, text, len) == (ssize_t) len
         && (uid == (ngx_uid_t) -1 || fchown(fd, uid, gid) == 0)
         && fsync(fd) == 0
         ? NGX_OK : NGX_ERROR;

    err = errno;
    (void) close(fd);
    errno = err;

    return rc;
}


/*
 * What this node is called, for those who read the journal without nginx.
 * Nobody needs it to start.
 */

static void
ngx_http_apikey_prepare_label(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, ngx_uid_t uid, ngx_gid_t gid)
{
    int      fd;
    size_t   len;
    u_char  *name, *temp, *text;
    ssize_t  n;

    len = conf->node_name.len;

    name = ngx_pnalloc(cycle->pool, 2 * (conf->directory.len + len) + 64);
    if (name == NULL) {
        return;
    }

    temp = ngx_sprintf(name, "%V/name%Z", &conf->directory);
    text = ngx_sprintf(temp, "%V/name.%P%Z", &conf->directory, ngx_getpid());

    fd = open((char *) name, O_RDONLY|O_CLOEXEC);
    n = 0;

    if (fd != -1) {
        n = read(fd, text, len + 1);
        (void) close(fd);
    }

    if (n == (ssize_t) len + 1 && text[len] == '\n'
        && ngx_memcmp(text, conf->node_name.data, len) == 0)
    {
        return;
    }

    *ngx_cpymem(text, conf->node_name.data, len) = '\n';

    if (ngx_http_apikey_prepare_file(temp, text, len + 1, uid, gid) != NGX_OK
        || rename((char *) temp, (char *) name) == -1)
    {
        ngx_log_error(NGX_LOG_WARN, cycle->log, ngx_errno,
                      "\"%s\" cannot be written", name);
        (void) unlink((char *) temp);
    }
}


/* Without its id nobody would ship what lies in a journal. */

static ngx_uint_t
ngx_http_apikey_make_node(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, u_char *name, ngx_uint_t damaged)
{
    if (damaged) {
        ngx_log_error(NGX_LOG_ALERT, cycle->log, 0,
                      "\"%s\" holds no UUID, it is made anew from the "
                      "journal", name);
        (void) unlink((char *) name);

        if (apikey_spool_whose((char *) conf->directory.data, conf->node)) {
            return 1;
        }
    }

    return apikey_uuid_make(conf->node, apikey_clock_real());
}


/* NGX_DECLINED: there is none; NGX_ABORT: what it holds is no id. */

static ngx_int_t
ngx_http_apikey_read_node(u_char *name, u_char node[16])
{
    int      fd;
    char     text[APIKEY_UUID_TEXT_LEN];
    ssize_t  n;

    fd = open((char *) name, O_RDONLY|O_CLOEXEC);
    if (fd == -1) {
        return errno == ENOENT ? NGX_DECLINED : NGX_ERROR;
    }

    n = read(fd, text, sizeof(text));
    (void) close(fd);

    return n == (ssize_t) sizeof(text)
           && apikey_uuid_parse(node, text, sizeof(text))
           ? NGX_OK : NGX_ABORT;
}


/* Two generations of workers overlap at a reload; no more than a warning. */

static ngx_int_t
ngx_http_apikey_prepare_rings(ngx_cycle_t *cycle,
    ngx_http_apikey_usage_conf_t *conf, ngx_uid_t uid, ngx_gid_t gid)
{
    u_char         *dir;
    ngx_uint_t      i, n;
    apikey_ring_t   ring;

    dir = ngx_http_apikey_ring_dir(cycle->pool, conf);

    if (dir == NULL
        || ngx_http_apikey_prepare_path(cycle->log, dir, 0700, uid, gid)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    n = ngx_min(2 * ngx_max(conf->workers, 1) + 1, NGX_HTTP_APIKEY_RINGS);

    for (i = 0; i < n; i++) {
        if (apikey_ring_create(&ring, (char *) dir, (uint32_t) i, conf->node,
                               ngx_http_apikey_ring_epoch(), (int) uid,
                               (int) gid)
            != APIKEY_RING_OK)
        {
            ngx_log_error(NGX_LOG_WARN, cycle->log, ring.err,
                          "apikey: %s for usage ring %ui in \"%s\" failed",
                          ring.what, i, dir);
            break;
        }
    }

    return NGX_OK;
}


/* Never the same for two files, even of cloned machines. */

uint64_t
ngx_http_apikey_ring_epoch(void)
{
    uint16_t  salt;

    if (!apikey_random(&salt, sizeof(salt))) {
        salt = (uint16_t) ngx_random();
    }

    return (uint64_t) apikey_clock_real() << 10 | (salt & 1023);
}


static u_char *
ngx_http_apikey_ring_base(ngx_pool_t *pool, ngx_http_apikey_usage_conf_t *conf)
{
    u_char  *base;

    base = ngx_pnalloc(pool, conf->ring.len + 64);
    if (base == NULL) {
        return NULL;
    }

    if (conf->ring.len) {
        ngx_cpystrn(base, conf->ring.data, conf->ring.len + 1);

    } else if (getuid() == 0) {
        ngx_sprintf(base, "/run/apikey%Z");

    } else {
        ngx_sprintf(base, "/dev/shm/apikey-%d%Z", (int) getuid());
    }

    return base;
}


u_char *
ngx_http_apikey_ring_dir(ngx_pool_t *pool, ngx_http_apikey_usage_conf_t *conf)
{
    u_char  *dir, *p;

    dir = ngx_http_apikey_ring_base(pool, conf);
    if (dir == NULL) {
        return NULL;
    }

    p = ngx_pnalloc(pool, ngx_strlen(dir) + APIKEY_UUID_TEXT_LEN + 2);
    if (p == NULL) {
        return NULL;
    }

    dir = ngx_sprintf(p, "%s/", dir);
    apikey_uuid_format((char *) dir, conf->node);
    dir[APIKEY_UUID_TEXT_LEN] = '\0';

    return p;
}
