#!/bin/sh
# Runs once, when the database is made: the login that Fogbook works as. `fogbook migrate` makes the roles, and gives
# fogbook_app and fogbook_signer to the login of this name; it owns nothing, and cannot rewrite history.
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set password="$(cat /run/secrets/fogbook_password)" <<'SQL'
CREATE ROLE fogbook LOGIN NOINHERIT PASSWORD :'password';
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SQL
