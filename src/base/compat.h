
/*
 * Differences between nginx versions (1.22 to mainline), nowhere else.
 */


#ifndef NGX_HTTP_APIKEY_COMPAT_H_INCLUDED
#define NGX_HTTP_APIKEY_COMPAT_H_INCLUDED


#include <ngx_config.h>
#include <ngx_core.h>


/* ngx_table_elt_t got a link to the next header of its name in 1.23.0 */

#if (nginx_version >= 1023000)
#define ngx_http_apikey_set_next(h)  (h)->next = NULL
#else
#define ngx_http_apikey_set_next(h)
#endif


#endif /* NGX_HTTP_APIKEY_COMPAT_H_INCLUDED */
