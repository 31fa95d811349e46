#!/bin/sh
# Writes signatures.tsv: webhook bodies signed by openssl, so that the verifier is
# tested against another implementation than its own.
#
#   cd testdata && ./sign.sh > signatures.tsv
#
# Columns: name, secret, t, body in base64, v1.
set -eu

vector() { # name secret t body
	body=$(mktemp)
	printf '%b' "$4" >"$body"
	v1=$( (printf '%s.' "$3"; cat "$body") | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(printf '%s' "$2" | od -An -v -tx1 | tr -d ' \n')" | sed 's/^.*= //')
	printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(base64 <"$body" | tr -d '\n')" "$v1"
	rm -f "$body"
}

t=1782907200 # 2026-07-01T12:00:00Z
vector plain            whsec_4bTz $t '{"id":"evt_1","type":"subscription.updated","aggregate_type":"subscription","aggregate_id":"sub_1","data":{}}'
vector pretty-printed   whsec_4bTz $t '{\n  "id": "evt_2",\n  "type": "subscription.canceled",\n  "aggregate_id": "sub_1"\n}'
vector trailing-newline whsec_4bTz $t '{"id":"evt_3","type":"subscription.paused","aggregate_id":"sub_1"}\n'
vector windows-lines    whsec_4bTz $t '{"id":"evt_4",\r\n"type":"subscription.resumed",\r\n"aggregate_id":"sub_1"}\r\n'
vector unicode          whsec_4bTz $t '{"id":"evt_5","type":"subscription.updated","aggregate_id":"sub_1","data":{"name":"Zo\0303\0253 \\u00eb \0360\0237\0232\0200"}}'
vector escaped-slashes  whsec_4bTz $t '{"id":"evt_6","type":"subscription.updated","aggregate_id":"sub_1","data":{"url":"https:\\/\\/x"}}'
vector secret-in-utf8   'schlüssel €' $t '{"id":"evt_7","type":"subscription.updated","aggregate_id":"sub_1"}'
vector secret-one-byte  k $t '{"id":"evt_8","type":"subscription.updated","aggregate_id":"sub_1"}'
vector secret-long      0123456789012345678901234567890123456789012345678901234567890123456789 $t '{"id":"evt_9","type":"subscription.updated","aggregate_id":"sub_1"}'
