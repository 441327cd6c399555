#!/bin/sh
#
# Shows that usage is tracked: makes a key, uses it, shows its counts, the
# analytics and the requests one by one, then prints how to look by hand.  The
# key is revoked at the end; its usage stays.  Exit code 0: all was counted.
#
#     TOKEN=op_... examples/test-api-usage-tracking.sh
#
# API       the admin API             http://localhost/api/v1
# TOKEN     an operator's token
# URL       what the key is used for  http://localhost/
# DATA      a JSON body to POST there; without it GET
# REQUESTS  how many times            5
# KEEP=1    does not revoke the key

set -eu

API=${API:-http://localhost/api/v1}
URL=${URL:-http://localhost/}
DATA=${DATA:-}
REQUESTS=${REQUESTS:-5}
KEEP=${KEEP:-}

[ "${TOKEN:-}" ] || { echo "TOKEN is not set: apikeyctl token new NAME" >&2
                      exit 2; }

OPERATOR="Authorization: Bearer $TOKEN"
JSON='Content-Type: application/json'
id=


# What the admin API says; an answer that is an error ends it.

api() {
    said=$(curl -sS --max-time 30 -w '\n%{http_code}' -H "$OPERATOR" "$@")
    case ${said##*
} in
        2??) printf '%s\n' "${said%
*}" ;;
        *)   printf '%s\n' "$said" >&2; exit 1 ;;
    esac
}

show() {
    if command -v jq > /dev/null; then jq .
    elif command -v python3 > /dev/null; then python3 -m json.tool
    else cat
    fi
}

# The first member of that name: text or a number.

member() {
    grep -o "\"$1\": *\"\{0,1\}[^,\"}]*" | head -n 1 | sed "s/^\"$1\": *\"\{0,1\}//"
}

goodbye() {
    if [ "$id" ] && [ -z "$KEEP" ]; then
        curl -sS -o /dev/null --max-time 30 -X DELETE -H "$OPERATOR" \
            "$API/api-keys/$id"
    fi
}

trap goodbye EXIT


echo "1. A key"

made=$(api -X POST -H "$JSON" "$API/api-keys" \
           -d "{\"name\": \"usage tracking test\"}")
id=$(printf '%s' "$made" | member id)
key=$(printf '%s' "$made" | member key)
echo "   $id, used $(printf '%s' "$made" | member usage_count) times"

echo "2. $REQUESTS requests to $URL"

i=0
while [ "$i" -lt "$REQUESTS" ]; do
    i=$((i + 1))

    if [ "$DATA" ]; then
        status=$(curl -sS -o /dev/null -w '%{http_code}' -H "X-API-Key: $key" \
                     -H "$JSON" -d "$DATA" "$URL")
    else
        status=$(curl -sS -o /dev/null -w '%{http_code}' -H "X-API-Key: $key" \
                     "$URL")
    fi

    echo "   $i: $status"
done

echo "3. What was counted"

# as_of is at most a second ago; a busy machine may need longer

i=0
while :; do
    now=$(api "$API/api-keys/$id")
    count=$(printf '%s' "$now" | member usage_count)
    [ "$count" -lt "$REQUESTS" ] && [ "$i" -lt 40 ] || break
    i=$((i + 1))
    sleep 0.25
done

echo "   usage_count $count, last_used_at $(printf '%s' "$now" \
                                              | member last_used_at)"
echo "4. Usage of the key"
api "$API/api-keys/$id/usage?days=1" | show

echo "5. Analytics"
api "$API/analytics?key=$id" | show

echo "6. The latest requests"
api "$API/requests?key=$id&limit=2" | show

cat <<EOT
7. By hand
   API=$API
   the key's usage      curl -H "Authorization: Bearer \$TOKEN" "\$API/api-keys/$id/usage"
   keys, least used     curl -H "Authorization: Bearer \$TOKEN" "\$API/analytics?sort=usage_count"
   this month by day    curl -H "Authorization: Bearer \$TOKEN" "\$API/usage?key=$id&group_by=service,model"
   why was it refused   curl -H "Authorization: Bearer \$TOKEN" "\$API/requests?key=$id&outcome=refused"
   as the key itself    curl -H "X-API-Key: \$KEY" "\$API/usage/summary"
   in Postgres          SELECT * FROM apikey.usage_hourly WHERE key = '$id';
   that it counts once  stop Postgres, send requests, start it: the count has all of them
   that none is lost    kill -9 all of nginx under load, start it: compare with your upstream's log
EOT

if [ "$count" -ne "$REQUESTS" ]; then
    echo "counted $count of $REQUESTS: refused requests are no use" >&2
    exit 1
fi

echo "All $REQUESTS requests were counted."
