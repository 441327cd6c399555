
# Rules that nginx's Makefile gets besides those for the sources in config:
# the document of the admin API becomes a header.

cat << END                                                    >> $NGX_MAKEFILE

$NGX_OBJS/apikey_openapi.h:	$ngx_addon_dir/docs/openapi.json \\
	$ngx_addon_dir/tools/cstring
	sh $ngx_addon_dir/tools/cstring $ngx_addon_dir/docs/openapi.json > \$@

$NGX_OBJS/addon/http/openapi.$ngx_objext:	$NGX_OBJS/apikey_openapi.h

END
