#!/bin/sh
# Makes the files in `secrets` that are not there yet, for PostgreSQL, PgBouncer and Valkey of compose.yaml.
#   ./secrets.sh
# The worker's key is an API key; it can be made once the database is there (ops/deploy/README.md).
set -eu
umask 077
mkdir -p secrets
cd secrets
new() { [ -s "$1" ] || openssl rand -hex 24 | tr -d '\n' > "$1"; }
put() { [ -s "$1" ] || cat > "$1"; }
new postgres_password
new fogbook_password
new fogbook_pepper
new valkey_password
owner=$(cat postgres_password) login=$(cat fogbook_password) valkey=$(cat valkey_password)
printf 'postgresql://postgres:%s@postgres:5432/fogbook' "$owner" | put fogbook_migrate_database_url
printf 'postgresql://fogbook:%s@postgres:5432/fogbook' "$login" | put database_url
printf 'postgresql://fogbook:%s@pgbouncer:6432/fogbook' "$login" | put pooled_database_url
printf '"fogbook" "%s"\n' "$login" | put pgbouncer_users
printf 'redis://fogbook:%s@valkey:6379/0' "$valkey" | put redis_url
sed -e '/^#/d' -e "s/>PASSWORD/>$valkey/" ../../users.acl | put valkey_users
[ -e fogbook_worker_key ] || : > fogbook_worker_key
# Each container reads them as the user that it runs as, and nobody else does; PostgreSQL's reads the login's password.
if [ "$(id -u)" = 0 ]; then
  chown 10001:10001 ./*
  chown 999:999 fogbook_password
  chmod 0400 ./*
else
  echo "Run this as root, so that the files can be given to the users that containers run as." >&2
  exit 1
fi
