#!/bin/sh
# Makes the database where there is none yet, and runs it.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username=shop --pwfile=/run/secrets/password --auth-local=trust --auth-host=scram-sha-256 --no-sync >/dev/null
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	echo 'create database shop;' | postgres --single -F -j template1 >/dev/null
	echo 'create table notes (id serial primary key, text text not null);' | postgres --single -F -j shop >/dev/null
	echo 'the database is made'
fi
exec "$@"
